"""Let a language model judge stored answers, in addition to the rules."""

import argparse
import os
from typing import Any

from theworld.evaluation.judges.settings import JudgeSettings
from theworld.utils.errors import TheWorldError
from theworld.utils.settings import keys

from .loading import add_json, add_key, report

KEYS = {name: key for name, key in keys(JudgeSettings).items() if not key.secret}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--predictions", required=True, metavar="DIR", help="output of `theworld evaluate`, or one arm")
    for key in KEYS.values():
        add_key(parser, key)
    name = "environment variable of the API key (default: %(default)s)"
    parser.add_argument("--api_key_env", default="OPENAI_API_KEY", metavar="NAME", help=name)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print a line for every arm."""
    from theworld.evaluation.judges.judge import judge_predictions, prediction_folders, summary_line

    options = {name: KEYS[name].parse(value) for name, value in vars(args).items() if name in KEYS}
    options.setdefault("base_url", os.environ.get("OPENAI_BASE_URL", ""))
    settings = JudgeSettings(api_key=os.environ.get(args.api_key_env, ""), **options)
    summaries: dict[str, Any] = {}
    for folder in prediction_folders(args.predictions):
        summaries[str(folder)] = summary = judge_predictions(folder, settings)
        if not args.json:
            print(f"{folder}: {summary_line(summary)}")
    causes = sorted({cause for summary in summaries.values() for cause in summary["causes"]})
    if causes and not any(summary["judged"] for summary in summaries.values()):
        raise TheWorldError(
            f"{settings.base_url}: no answer was judged ({', '.join(causes)}); run the same command again"
        )
    return report(args, summaries) if args.json else 0
