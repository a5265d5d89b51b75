"""LLaVA's pre-training images and captions: one JSON array of `id`, `image` and a conversation about it.

`chat.json` of LLaVA-CC3M-Pretrain-595K and `blip_laion_cc_sbu_558k.json` of LLaVA-Pretrain, with their images
unpacked in the image folder.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.utils.data import Subset

from theworld.utils.errors import MissingFileError, TheWorldError

from ..schema import SourceSettings
from .files import load_rows
from .records import RowReader

FILES = ("chat.json", "blip_laion_cc_sbu_558k.json")
VALIDATION_SHARE = 0.01
SPLITS = ("train", "validation")


def load_llava_pretrain(settings: SourceSettings) -> tuple[Any, RowReader]:
    """The rows at `settings.path`, the JSON file or a folder that holds one of `FILES`.

    `split` is `train` or `validation`. The latter is 1 % of the rows (at least one), drawn by `seed`; `train` is the
    rest. None means all. Without an `image_folder`, image names are relative to the file.
    """
    path = settings.local
    if path.is_dir():
        found = next((name for name in FILES if (path / name).is_file()), None)
        if found is None:
            raise MissingFileError(f"{path}: expected one of {', '.join(FILES)} in it")
        path /= found
    if settings.split not in (None, *SPLITS):
        raise TheWorldError(f"dataset 'llava_pretrain' has no split {settings.split!r}: expected {', '.join(SPLITS)}")
    rows, reader = load_rows(SourceSettings(path=str(path))), RowReader(base_folder=settings.base_folder)
    if settings.split is None:
        return rows, reader
    size = max(1, round(VALIDATION_SHARE * len(rows)))
    if len(rows) <= size:
        raise TheWorldError(f"{settings.path}: {len(rows)} rows are too few to split")
    order = np.random.default_rng(settings.seed).permutation(len(rows))
    return Subset(rows, (order[size:] if settings.split == "train" else order[:size]).tolist()), reader
