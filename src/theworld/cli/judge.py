"""Let a language model judge stored answers, as a column beside the rules."""

import argparse
import os
from typing import Any

from theworld.utils.errors import TheWorldError

from .loading import add_json, report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--predictions", required=True, metavar="DIR", help="output of `theworld evaluate`, or one arm")
    url = "OpenAI-compatible endpoint that gets questions and answers (default: $OPENAI_BASE_URL)"
    parser.add_argument("--base_url", help=url)
    parser.add_argument("--model", required=True, help="the model that judges, as the endpoint names it")
    key = "variable that holds the key (default: %(default)s)"
    parser.add_argument("--api_key_env", default="OPENAI_API_KEY", metavar="NAME", help=key)
    parser.add_argument("--concurrency", type=int, default=8, help="requests at a time")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds of one try")
    parser.add_argument("--retries", type=int, default=5, help="further tries after a timeout, 429 or 5xx")
    parser.add_argument("--no_temperature", action="store_true", help="leave it to the server: some models refuse 0")
    parser.add_argument("--no_json_mode", action="store_true", help="for a server that knows no response_format")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print a line for every arm."""
    from theworld.evaluation.judges import JudgeSettings, judge_predictions, prediction_folders, summary_line

    base_url = args.base_url or os.environ.get("OPENAI_BASE_URL", "")
    if not base_url:
        raise TheWorldError("no endpoint: give --base_url or set OPENAI_BASE_URL")
    settings = JudgeSettings(
        base_url=base_url,
        model=args.model,
        api_key=os.environ.get(args.api_key_env, ""),
        concurrency=args.concurrency,
        timeout=args.timeout,
        retries=args.retries,
        temperature=None if args.no_temperature else 0.0,
        json_mode=not args.no_json_mode,
    )
    summaries: dict[str, Any] = {}
    for folder in prediction_folders(args.predictions):
        summaries[str(folder)] = summary = judge_predictions(folder, settings)
        if not args.json:
            print(f"{folder}: {summary_line(summary)}")
    if summaries and not any(summary["judged"] for summary in summaries.values()):
        causes = sorted({cause for summary in summaries.values() for cause in summary["causes"]})
        if causes:
            raise TheWorldError(
                f"{base_url}: no answer was judged ({', '.join(causes)}); nothing is lost, run it again"
            )
    return report(args, summaries) if args.json else 0
