"""Predictions to judgements.

<predictions>/judges/<model>/manifest.json       who judged, by what prompts
                            /judgements.jsonl    a row per reply, with the raw text; a later row of an id replaces it
                            /summary.json        what `judge_predictions` returns
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from theworld.utils.errors import MissingFileError, TheWorldError
from theworld.utils.io import append_jsonl, read_jsonl, write_json

from ..stats.intervals import interval
from ..store.predictions import MANIFEST, PREDICTIONS, Prediction, read_predictions
from .endpoint import Endpoint, JudgeSettings
from .forms import FORMS, OPENING, form_of, messages_for, read_reply

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
    forms = {row.id: form_of(manifest["identity"]["task"], row.family) for row in predictions}
    known = {id: row["evidence"] for id, row in _read(home).items() if row["failed"] is None}
    asked = [row for row in predictions if row.failed is None and known.get(row.id) != _evidence(forms[row.id], row)]
    # 2. A few at a time; each reply is appended as it comes
    if asked:
        endpoint, pool = Endpoint(settings), ThreadPoolExecutor(settings.concurrency)
        try:
            for done in as_completed([pool.submit(_judge, endpoint, forms[row.id], row) for row in asked]):
                append_jsonl(home / JUDGEMENTS, [done.result()])
        finally:
            pool.shutdown(cancel_futures=True)
    summary = _summary(predictions, _read(home))
    write_json(home / SUMMARY, {"judge": settings.identity, **summary})
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


def _claim(home: Path, settings: JudgeSettings) -> None:
    """Write who judges here, or check that it is the same."""
    prompts = json.dumps([OPENING, {name: told for name, (told, _) in FORMS.items()}])
    identity = {**settings.identity, "prompts": hashlib.sha256(prompts.encode()).hexdigest()[:16]}
    if not (home / MANIFEST).is_file():
        write_json(home / MANIFEST, {"identity": identity})
        return
    there = json.loads((home / MANIFEST).read_text(encoding="utf-8"))["identity"]
    differ = sorted(key for key in identity if there.get(key) != identity[key])
    if differ:
        raise TheWorldError(f"{home}: holds judgements made with other {', '.join(differ)}: move them away first")


def _judge(endpoint: Endpoint, form: str, row: Prediction) -> dict[str, Any]:
    """Ask about `row`; what is kept of the reply."""
    raw, failed = endpoint.ask(messages_for(form, row))
    judged = {"id": row.id, "evidence": _evidence(form, row), "form": form}
    judged |= {"raw": raw, "mark": None, "figures": {}, "unreadable": None, "failed": failed}
    try:
        return judged if raw is None else judged | read_reply(form, raw, row.answer)
    except ValueError as error:
        return judged | {"unreadable": " ".join(str(error).split())[:300]}


def _evidence(form: str, row: Prediction) -> str:
    """What a judgement is of; when it changes, the old judgement no longer counts."""
    return hashlib.sha256(json.dumps(messages_for(form, row)).encode()).hexdigest()[:16]


def _read(home: Path) -> dict[str, dict[str, Any]]:
    """The last judgement of every id."""
    path = home / JUDGEMENTS
    return {row["id"]: row for row in read_jsonl(path)} if path.is_file() else {}


def _summary(predictions: Sequence[Prediction], judgements: dict[str, dict[str, Any]]) -> dict[str, Any]:
    found = [(row, judgements[row.id]) for row in predictions if row.failed is None]
    judged = [(row, one) for row, one in found if one["mark"] is not None]
    summary: dict[str, Any] = {
        "items": len(predictions),
        "judged": len(judged),
        "unreadable": sum(one["unreadable"] is not None for _, one in found),
        "failed": sum(one["failed"] is not None for _, one in found),
        "not_asked": len(predictions) - len(found),
        "causes": dict(Counter(one["failed"].partition(":")[0] for _, one in found if one["failed"] is not None)),
    }
    if judged:
        marks, figures = [one["mark"] for _, one in judged], pd.DataFrame([one["figures"] for _, one in judged])
        summary["accuracy"] = asdict(interval(marks, [row.cluster for row, _ in judged]))
        summary["figures"] = figures.mean().to_dict()
        summary["agreement"] = sum(one["mark"] == row.score for row, one in judged) / len(judged)
    return summary


def summary_line(summary: dict[str, Any]) -> str:
    """What `judge_predictions` returned, on one line."""
    counts = ", ".join(f"{summary[name]} {name.replace('_', ' ')}" for name in ("unreadable", "failed", "not_asked"))
    if "accuracy" not in summary:
        return f"none of {summary['items']} judged; {counts}"
    accuracy = summary["accuracy"]
    share = f"{100 * accuracy['estimate']:.1f} % [{100 * accuracy['low']:.1f}, {100 * accuracy['high']:.1f}]"
    agreement = f"agrees with the rules on {100 * summary['agreement']:.1f} %"
    return f"judged right {share} of {summary['judged']} of {summary['items']}; {counts}; {agreement}"
