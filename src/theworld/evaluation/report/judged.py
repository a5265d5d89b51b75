"""What language models made of the answers, where any were asked: beside the rules, never in their place."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from theworld.utils.errors import TheWorldError

from ..judges import SUMMARY
from .tables import Table


def judge_table(folders: Mapping[str, Sequence[Path]]) -> Table | None:
    """A row for every judge of every arm; `None` where nothing was judged.

    Args:
        folders: Of the predictions, by the arm's name; one a seed.

    Raises:
        ValueError: A judge's summary is not JSON.
    """
    rows = [
        _row(name, path)
        for name, seeds in folders.items()
        for folder in seeds
        for path in sorted(folder.glob(f"judges/*/{SUMMARY}"))
    ]
    if not rows:
        return None
    header = ("Arm", "Judge", "Accuracy", "95 % interval", "Judged", "Unreadable", "Failed", "Not asked", "Agrees")
    note = (
        "In per cent of the answers that were judged; what a judge failed on or replied unreadably to is counted apart "
        "and makes no answer wrong. Agrees: with the rules. No comparison and no verdict rests on a judge."
    )
    return Table("Language models as judges", header, tuple(rows), note, left=2)


def _row(name: str, path: Path) -> tuple[str, ...]:
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TheWorldError(f"{path}: not JSON ({error}); judge again, which keeps the judgements") from error
    counts = (str(summary[key]) for key in ("judged", "unreadable", "failed", "not_asked"))
    if "accuracy" not in summary:
        return (name, path.parent.name, "", "", *counts, "")
    accuracy = summary["accuracy"]
    share, low, high = (f"{100 * accuracy[key]:.1f}" for key in ("estimate", "low", "high"))
    return (name, path.parent.name, share, f"[{low}, {high}]", *counts, f"{100 * summary['agreement']:.1f}")


__all__ = ["judge_table"]
