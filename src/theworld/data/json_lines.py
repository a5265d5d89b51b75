"""Rows of JSON lines files, of any size, each one seek away."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, overload

import numpy as np


class JsonLines(Sequence[Any]):
    """The rows of `files`, one after the other, read from disk when asked for; memory holds their places alone.

    A line that is no JSON comes out as its text.

    Args:
        files: JSON lines files.
        offsets: Where their rows begin, in bytes.
    """

    def __init__(self, files: Sequence[Path], offsets: Sequence[np.ndarray[Any, Any]]) -> None:
        self.files = list(files)
        self.offsets = list(offsets)
        self._ends = np.cumsum([len(places) for places in offsets])

    @classmethod
    def scan(cls, path: Path) -> Self:
        """One file whose lines are looked for; empty ones are none."""
        places: list[int] = []
        at = 0
        with path.open("rb") as file:
            for line in file:
                if line.strip():
                    places.append(at)
                at += len(line)
        return cls([path], [np.array(places, dtype=np.int64)])

    def head(self, count: int) -> JsonLines:
        """The first `count` rows."""
        starts = [int(end) - len(places) for end, places in zip(self._ends, self.offsets, strict=True)]
        kept = [places[: max(0, count - start)] for start, places in zip(starts, self.offsets, strict=True)]
        return JsonLines(self.files, kept)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        index = range(len(self))[index]
        which = int(np.searchsorted(self._ends, index, side="right"))
        places = self.offsets[which]
        with self.files[which].open("rb") as file:  # opened anew: a shared handle would not survive a fork
            file.seek(int(places[index - int(self._ends[which])]))
            line = file.readline()
        try:
            return json.loads(line)
        except ValueError:
            return line.decode(errors="replace")
