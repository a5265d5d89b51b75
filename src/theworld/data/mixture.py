"""Several datasets as one, with weights."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from theworld.utils.errors import TheWorldError

from .images import located
from .schema import BadSample, Example, Skipped

MAX_ROWS = 10**8  # rows of an epoch, whose order is held in memory: 16 bytes each, and 40 while it is drawn


@dataclass(frozen=True)
class MixturePart:
    """One dataset of a mixture."""

    name: str  # prefix of the ids of its rows
    rows: Any  # a map-style source
    weight: float  # its share of an epoch, in relation to the other weights; above 0
    image_folder: Path | None = None  # folder of relative image names; None: the collator's
    path: str | None = None  # path of the rows, for the manifest


class Mixture(Dataset["Example | Skipped"]):
    """A map-style source that draws rows from each dataset in proportion to its weight.

    An epoch is just long enough to hold every row of every dataset at least once. The dataset with the most rows for
    its weight gives each row once; rows of the others repeat. Weights in proportion to the lengths concatenate the
    datasets. The order is drawn once from `seed` and is the same in every epoch, unless a sampler shuffles. Ids are
    `name/id`.

    ValueError if there is no dataset, one is empty, a weight is not above 0, or an epoch is longer than `MAX_ROWS`.
    """

    def __init__(self, parts: Sequence[MixturePart], seed: int = 0) -> None:
        if not parts:
            raise TheWorldError("mixture: expected at least one dataset")
        for part in parts:
            if not (0 < part.weight < float("inf")) or not len(part.rows):
                raise TheWorldError(
                    f"mixture: {part.name!r} has the weight {part.weight} and {len(part.rows)} rows; expected a weight "
                    "above 0 and at least 1 row"
                )
        names = [part.name for part in parts]
        self.parts = [
            replace(part, name=f"{part.name}-{names[:i].count(part.name) + 1}") if names.count(part.name) > 1 else part
            for i, part in enumerate(parts)
        ]
        scale = max(len(part.rows) / part.weight for part in parts)
        if (total := sum(scale * part.weight for part in parts)) > MAX_ROWS:
            message = ", ".join(f"{part.name}: weight {part.weight:g}, {len(part.rows):,} rows" for part in self.parts)
            raise TheWorldError(
                f"mixture: {total:,.0f} rows per epoch, expected at most {MAX_ROWS:,}; make the weights more "
                f"equal: {message}"
            )
        # The dataset that sets the scale gives each row once; rounding must not drop one
        counts = [max(len(part.rows), round(scale * part.weight)) for part in parts]
        which = np.repeat(np.arange(len(parts)), counts)
        row = np.concatenate([np.arange(count) % len(part.rows) for part, count in zip(parts, counts, strict=True)])
        order = np.random.default_rng(seed).permutation(len(which))
        self._places = np.stack([which[order], row[order]], axis=1)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Example | Skipped:
        which, row = (int(number) for number in self._places[index])
        part = self.parts[which]
        item = part.rows[row]
        id = f"{part.name}/{item.id}"
        if isinstance(item, Skipped) or part.image_folder is None:
            return replace(item, id=id)
        try:
            return replace(item, id=id, images=located(item.images, part.image_folder))
        except BadSample as bad:
            return bad.skipped(id)

    def take(self, count: int) -> Mixture:
        """The first `count` rows of an epoch."""
        other = copy(self)
        other._places = self._places[:count]
        return other

    def record(self) -> list[dict[str, Any]]:
        """Its entry in a manifest: each dataset's name, path, weight, rows and rows per epoch."""
        counts = np.bincount(self._places[:, 0], minlength=len(self.parts))
        return [
            {"name": part.name, "path": part.path, "weight": part.weight}
            | {"rows": len(part.rows), "rows_per_epoch": int(count)}
            for part, count in zip(self.parts, counts, strict=True)
        ]
