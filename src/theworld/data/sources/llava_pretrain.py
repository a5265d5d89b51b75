"""LLaVA's pre-training pictures and captions: one JSON array of `id`, `image` and a conversation about it.

`chat.json` of LLaVA-CC3M-Pretrain-595K and `blip_laion_cc_sbu_558k.json` of LLaVA-Pretrain, with their pictures
unpacked in the image folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..schema import SourceSettings
from .files import load_rows
from .hf_dataset import wrap
from .records import IndexedRows, RowReader

FILES = ("chat.json", "blip_laion_cc_sbu_558k.json")
VALIDATION_SHARE = 0.01
SPLITS = ("train", "validation")


def load_llava_pretrain(settings: SourceSettings) -> IndexedRows:
    """The rows at `settings.path`, the JSON file or a folder that holds one of `FILES`.

    Args:
        settings: `split` is `train` or `validation`: the latter a hundredth of the rows, one at least, drawn by `seed`
            and in no train split of that seed. None means all. Without an `image_folder` names are looked up beside the
            file.

    Raises:
        ValueError: An unknown split, a file that cannot be parsed or has no conversations, or `streaming`.
        FileNotFoundError: There is no such file.
    """
    path = settings.require_path("llava_pretrain")
    if path.is_dir():
        path = _file_in(path)
    if settings.streaming:
        raise ValueError("dataset 'llava_pretrain' is one JSON array, which is read whole: set streaming to false")
    if settings.split not in (None, *SPLITS):
        raise ValueError(f"dataset 'llava_pretrain' has no split {settings.split!r}: expected {', '.join(SPLITS)}")
    rows = load_rows(SourceSettings(), str(path))
    if "conversations" not in rows.column_names:
        raise ValueError(f"{path}: no column 'conversations', it has {', '.join(rows.column_names)}")
    rows = _split(rows, settings)
    if settings.num_samples is not None:
        rows = rows.select(range(min(settings.num_samples, len(rows))))
    base = path.parent if settings.image_folder is None else None
    source = wrap(rows, RowReader(question_template=settings.question_template, base_folder=base))
    assert isinstance(source, IndexedRows)
    return source


def _file_in(folder: Path) -> Path:
    for name in FILES:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder}: none of {', '.join(FILES)} is in it")


def _split(rows: Any, settings: SourceSettings) -> Any:
    if settings.split is None:
        return rows
    size = max(1, round(VALIDATION_SHARE * len(rows)))
    if len(rows) <= size:
        raise ValueError(f"{settings.path}: {len(rows)} rows are too few to split")
    parts = rows.train_test_split(test_size=size, seed=settings.seed)
    return parts["train" if settings.split == "train" else "test"]
