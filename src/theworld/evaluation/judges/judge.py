"""Runs a judge on stored predictions.

<predictions>/judges/<model>/manifest.json       endpoint, model, temperature and digest of the prompts
                            /judgements.jsonl    a row per reply, with the raw text; the last row of an id counts
                            /summary.json        the return value of `judge_predictions`
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from theworld.utils.errors import MissingFileError, TheWorldError
from theworld.utils.folders import read_object
from theworld.utils.imports import require
from theworld.utils.io import append_jsonl, read_jsonl, write_json

from ..stats.intervals import interval
from ..store.predictions import MANIFEST, PREDICTIONS, Prediction, digest_of, read_predictions
from .forms import FORMS, form_of, messages_for, read_reply
from .settings import JudgeSettings

JUDGEMENTS, SUMMARY = "judgements.jsonl", "summary.json"


def judge_predictions(folder: str | Path, settings: JudgeSettings) -> dict[str, Any]:
    """Judge the predictions in `folder`. Answers that this judge has judged before are not sent again.

    A reply that cannot be parsed is stored and counted as `unreadable`, a failed request as `failed`. Neither counts as
    a wrong answer. The next call repeats failed requests.

    Returns:
        `accuracy` with its interval over the judged answers (absent if there are none). `judged`, `unreadable`,
        `failed` and `not_asked` (items that the evaluated model was not asked): counts that sum to `items`. `causes` of
        failures, means of further `figures`, and `agreement` with the rules.

    Raises:
        FileNotFoundError: There are no predictions.
        ValueError: A row does not match its digest, the folder holds judgements made with other settings, or the
            endpoint rejects the key, the model or the path.
        ImportError: The extra `judge` is not installed.
    """
    manifest, predictions = read_predictions(folder)
    home = Path(folder) / "judges" / re.sub(r"[^\w-][^\w.-]*", "-", settings.model)
    _claim(home, settings)
    # 1. Choose rows without a judgement, or whose messages have changed since
    answered = [row for row in predictions if row.failed is None]
    forms = {row.id: form_of(manifest["identity"]["task"], row.family) for row in answered}
    evidence = {row.id: digest_of(messages_for(forms[row.id], row)) for row in answered}
    known = {id: row["evidence"] for id, row in _read(home).items() if row["failed"] is None}
    asked = [row for row in answered if known.get(row.id) != evidence[row.id]]

    def judged(row: Prediction) -> dict[str, Any]:
        raw, failed = _ask(client, settings, messages_for(forms[row.id], row))
        kept: dict[str, Any] = {"id": row.id, "evidence": evidence[row.id], "form": forms[row.id], "raw": raw}
        kept |= {"mark": None, "figures": {}, "unreadable": None, "failed": failed}
        try:
            return kept if raw is None else kept | read_reply(forms[row.id], raw, row.answer)
        except ValueError as error:
            return kept | {"unreadable": " ".join(str(error).split())[:300]}

    # 2. Send requests in parallel; append each reply as it arrives
    if asked:
        client, pool = _client(settings), ThreadPoolExecutor(settings.concurrency)
        try:
            for done in as_completed([pool.submit(judged, row) for row in asked]):
                append_jsonl(home / JUDGEMENTS, [done.result()])
        finally:
            pool.shutdown(cancel_futures=True)
    summary = _summary(predictions, _read(home))
    write_json(home / SUMMARY, summary)
    return summary


def prediction_folders(folder: str | Path) -> list[Path]:
    """`folder` itself if it contains predictions, else all folders below it that do.

    Raises:
        FileNotFoundError: No folder contains predictions.
    """
    folder = Path(folder)
    found = [path.parent for path in sorted(folder.rglob(PREDICTIONS)) if (path.parent / MANIFEST).is_file()]
    if not found:
        raise MissingFileError(f"{folder}: no {PREDICTIONS} there or below; `theworld evaluate` writes them")
    return [folder] if folder in found else found


def _client(settings: JudgeSettings) -> Any:
    """A thread-safe client that retries with exponential backoff."""
    return require("judge", "openai").OpenAI(
        base_url=settings.base_url,
        api_key=settings.api_key or "none",  # the client requires a key, even if the server does not
        timeout=settings.timeout,
        max_retries=settings.retries,
    )


def _ask(client: Any, settings: JudgeSettings, messages: list[dict[str, str]]) -> tuple[str | None, str | None]:
    """(reply, `None`), or (`None`, failure after all retries). Raises a ValueError if every request would fail."""
    openai = require("judge", "openai")
    try:
        completion = client.chat.completions.create(
            model=settings.model,
            messages=messages,
            temperature=openai.omit if settings.temperature is None else settings.temperature,
            response_format={"type": "json_object"} if settings.json_mode else openai.omit,
        )
    except (openai.OpenAIError, ValueError) as error:  # ValueError: the response body is not JSON
        # Remove the key before truncating: a truncated key would not be found
        told = f"{type(error).__name__}: {' '.join(settings.without_key(str(error)).split())[:300]}"
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError | openai.NotFoundError):
            advice = "check the key's variable, --base_url and --model"
            raise TheWorldError(f"{settings.base_url}: {told}; {advice}") from None
        return None, told
    text = completion.choices[0].message.content if getattr(completion, "choices", None) else None
    return (settings.without_key(text), None) if text else (None, "EmptyReply: the endpoint answered without a text")


def _claim(home: Path, settings: JudgeSettings) -> None:
    """Write the judge's manifest, or check that an existing one has the same settings."""
    identity: dict[str, Any] = {name: getattr(settings, name) for name in ("base_url", "model", "temperature")}
    identity["prompts"] = digest_of([told for told, _ in FORMS.values()])
    if not (home / MANIFEST).is_file():
        write_json(home / MANIFEST, {"identity": identity})
    there = read_object(home / MANIFEST, "identity", cure="move it away")["identity"]
    differ = sorted(key for key in identity if there.get(key) != identity[key])
    if differ:
        raise TheWorldError(f"{home}: holds judgements made with other {', '.join(differ)}: move them away first")


def _read(home: Path) -> dict[str, dict[str, Any]]:
    """The last judgement of every id."""
    path = home / JUDGEMENTS
    return {row["id"]: row for row in read_jsonl(path)} if path.is_file() else {}


def _summary(predictions: Sequence[Prediction], judgements: dict[str, dict[str, Any]]) -> dict[str, Any]:
    found = [(row, judgements[row.id]) for row in predictions if row.failed is None]
    marked = [(row, one) for row, one in found if one["mark"] is not None]
    causes = Counter(one["failed"].partition(":")[0] for _, one in found if one["failed"] is not None)
    summary: dict[str, Any] = {
        "items": len(predictions),
        "judged": len(marked),
        "unreadable": sum(one["unreadable"] is not None for _, one in found),
        "failed": causes.total(),
        "not_asked": len(predictions) - len(found),
        "causes": dict(causes),
    }
    if marked:
        marks, figures = [one["mark"] for _, one in marked], pd.DataFrame([one["figures"] for _, one in marked])
        summary["accuracy"] = asdict(interval(marks, [row.cluster for row, _ in marked]))
        summary["figures"] = figures.mean().to_dict()
        summary["agreement"] = sum(one["mark"] == row.score for row, one in marked) / len(marked)
    return summary


def summary_line(summary: dict[str, Any]) -> str:
    """The result of `judge_predictions` on one line."""
    counts = ", ".join(f"{summary[name]} {name.replace('_', ' ')}" for name in ("unreadable", "failed", "not_asked"))
    if "accuracy" not in summary:
        return f"none of {summary['items']} judged; {counts}"
    share, low, high = (f"{100 * summary['accuracy'][key]:.1f}" for key in ("estimate", "low", "high"))
    agreement = f"agrees with the rules on {100 * summary['agreement']:.1f} %"
    return f"judged right {share} % [{low}, {high}] of {summary['judged']} of {summary['items']}; {counts}; {agreement}"
