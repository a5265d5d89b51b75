"""Predictions to judgements.

<predictions>/judges/<model>/manifest.json       who judged, by what prompts
                            /judgements.jsonl    a row per reply, with the raw text; a later row of an id replaces it
                            /summary.json        what `judge_predictions` returns
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
    """Let a judge read the predictions in `folder`; what it has read before is not asked again.

    A reply that cannot be read is kept as it came and counted as `unreadable`, a request that failed as `failed`;
    neither makes an answer wrong. Failed requests are tried again by the next call.

    Returns:
        `accuracy` with its interval over the answers that were judged (absent if none was), `judged`, `unreadable`,
        `failed`, `not_asked` (items that the model itself was not asked), which together make `items`; `causes` of
        failures; the mean of further `figures`; `agreement` with the rules.

    Raises:
        FileNotFoundError: There are no predictions.
        ValueError: A row does not match its digest; the folder holds another judge's work; the key is refused,
            the model or the path.
        ImportError: The extra `judge` is not installed.
    """
    manifest, predictions = read_predictions(folder)
    home = Path(folder) / "judges" / re.sub(r"[^\w-][^\w.-]*", "-", settings.model)
    _claim(home, settings)
    # 1. What is asked: a row whose chat has changed is asked anew
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

    # 2. A few at a time; each reply is appended as it comes
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
    """`folder` itself if predictions lie in it, else every folder below that has some.

    Raises:
        FileNotFoundError: There are none.
    """
    folder = Path(folder)
    found = [path.parent for path in sorted(folder.rglob(PREDICTIONS)) if (path.parent / MANIFEST).is_file()]
    if not found:
        raise MissingFileError(f"{folder}: no {PREDICTIONS} there or below; `theworld evaluate` writes them")
    return [folder] if folder in found else found


def _client(settings: JudgeSettings) -> Any:
    """A client that retries with growing pauses, for any number of threads."""
    return require("judge", "openai").OpenAI(
        base_url=settings.base_url,
        api_key=settings.api_key or "none",  # the client wants one, also for a server without keys
        timeout=settings.timeout,
        max_retries=settings.retries,
    )


def _ask(client: Any, settings: JudgeSettings, messages: list[dict[str, str]]) -> tuple[str | None, str | None]:
    """The reply and `None`, or `None` and the failure that outlived the retries; a ValueError if all would fail."""
    openai = require("judge", "openai")
    try:
        completion = client.chat.completions.create(
            model=settings.model,
            messages=messages,
            temperature=openai.omit if settings.temperature is None else settings.temperature,
            response_format={"type": "json_object"} if settings.json_mode else openai.omit,
        )
    except (openai.OpenAIError, ValueError) as error:  # a ValueError if the body of the answer is no JSON
        # Cut last, as half a key is no longer found
        told = f"{type(error).__name__}: {' '.join(settings.without_key(str(error)).split())[:300]}"
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError | openai.NotFoundError):
            advice = "check the key's variable, --base_url and --model"
            raise TheWorldError(f"{settings.base_url}: {told}; {advice}") from None
        return None, told
    text = completion.choices[0].message.content if getattr(completion, "choices", None) else None
    return (settings.without_key(text), None) if text else (None, "EmptyReply: the endpoint answered without a text")


def _claim(home: Path, settings: JudgeSettings) -> None:
    """Write who judges here, or check that it is the same."""
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
    """What `judge_predictions` returned, on one line."""
    counts = ", ".join(f"{summary[name]} {name.replace('_', ' ')}" for name in ("unreadable", "failed", "not_asked"))
    if "accuracy" not in summary:
        return f"none of {summary['items']} judged; {counts}"
    share, low, high = (f"{100 * summary['accuracy'][key]:.1f}" for key in ("estimate", "low", "high"))
    agreement = f"agrees with the rules on {100 * summary['agreement']:.1f} %"
    return f"judged right {share} % [{low}, {high}] of {summary['judged']} of {summary['items']}; {counts}; {agreement}"
