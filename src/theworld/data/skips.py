"""Skipped rows of a run: a list on disk, counts by cause, and a budget above which the run stops."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from theworld.utils.errors import TheWorldError, brief
from theworld.utils.io import append_jsonl, read_jsonl

from .schema import Skipped

MINIMUM_SEEN = 200  # rows of a stream to read before its share of bad ones is checked
SHOWN_NAMES = 5


class SkipLog:
    """Rows that gave no example. Each is listed and counted once, also over several epochs and after a resume.

    Rows that share an id are listed once, but each counts.

    Args:
        path: JSON lines of `id`, `cause` and `detail`; existing lines count too.
        budget: Share of the data, 0 to 1, that may be skipped.
        total: Rows of the data; None for a stream, whose bad share is that of the rows `seen` since the start of this
            process, repeated ones included.
    """

    def __init__(self, path: Path, budget: float, total: int | None = None) -> None:
        if not 0 <= budget <= 1:
            raise TheWorldError(f"skip_budget={budget}: expected a share from 0 to 1")
        self.path = path
        self.budget = budget
        self.total = total
        self._causes: dict[str, str] = {}
        self._rows_seen = 0
        self._rows_bad = 0
        self._resumed = path.exists()
        if self._resumed:
            self._count(map(self._read, read_jsonl(path)))

    def __len__(self) -> int:
        return len(self._causes)

    def seen(self, count: int) -> None:
        """Count `count` rows that were read, good or bad."""
        self._rows_seen += count

    def record(self, skipped: Iterable[Skipped]) -> None:
        """List and count skipped rows; a ValueError if they exceed the budget, or no row is left."""
        rows = list(skipped)
        self._rows_bad += len(rows)
        new = self._count(rows)
        if new:
            append_jsonl(self.path, map(vars, new))
        bad, total = self._rows_bad, self._rows_seen
        if self.total:
            # A row is read at most once per pass; a resumed run starts within a pass
            passes = math.ceil(self._rows_seen / self.total) + self._resumed
            bad, total = max(len(self), bad // passes if self._rows_seen else 0), self.total
        enough = self.total is not None or total >= MINIMUM_SEEN
        if enough and bad > self.budget * total:
            last = "".join(f"; last skipped row: {row.id}: {brief(row.detail)}" for row in (new or rows)[-1:])
            message = f"more than skip_budget={self.budget:g} allows: {'; '.join(self._lines())}{last}. See {self.path}"
            cure = "Correct them and remove that list, or raise skip_budget"
            raise TheWorldError(f"{bad} of {total} rows cannot be used, {message}. {cure}")
        if enough and bad >= total > 0:
            raise TheWorldError(f"No usable rows: all {total} were skipped. See {self.path}.")

    def summary(self) -> str:
        """One line per cause, the most frequent first; empty if nothing was skipped."""
        return "\n".join(self._lines())

    def _read(self, row: dict[str, Any]) -> Skipped:
        texts = [text for name in ("id", "cause", "detail") if isinstance(text := row.get(name), str)]
        if len(texts) < 3:
            message = f"expected the texts id, cause and detail, got {brief(repr(row))}; remove that file"
            raise TheWorldError(f"{self.path}: {message}")
        return Skipped(*texts)

    def _count(self, rows: Iterable[Skipped]) -> list[Skipped]:
        new = {row.id: row for row in rows if row.id not in self._causes}
        self._causes |= {id: row.cause for id, row in new.items()}
        return list(new.values())

    def _lines(self) -> list[str]:
        ids: dict[str, list[str]] = defaultdict(list)
        for id, cause in self._causes.items():
            ids[cause].append(id)
        causes = sorted(ids.items(), key=lambda cause: -len(cause[1]))
        return [
            f"{cause} {len(names)} ({', '.join(names[:SHOWN_NAMES])}{', ...' if len(names) > SHOWN_NAMES else ''})"
            for cause, names in causes
        ]
