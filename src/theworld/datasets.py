"""The data loaders under one name: classes of your own rows, and one function for each known dataset.

from theworld.datasets import SpatialRGPTDataset, load_dataset
rows = SpatialRGPTDataset("open_spatial/", image_folder="images/")
rows = load_dataset("vsr", path="zeroshot/train.jsonl", image_folder="images/")
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .data.collator import TheWorldCollator
from .data.mixture import Mixture
from .data.open_source import Source, as_source, open_mixture, open_source
from .data.schema import Example, Skipped, SourceSettings
from .data.sources.hf_dataset import HFDatasetWrapper
from .data.sources.records import IndexedRows, TheWorldDataset


def load_dataset(name: str, path: str | Path | None = None, **settings: Any) -> Source:
    """The rows of a known dataset, each an `Example` or, if it cannot be used, a `Skipped`.

    Args:
        name: Key of `theworld.data.sources.SOURCES`, the `dataset_name` of a training config.
        path: File, folder or Hub id of the rows.
        settings: Other fields of `SourceSettings`: `image_folder`, `split`, `num_samples`, `columns`, ...

    Raises:
        ValueError: The name is unknown, or the rows cannot be used.
        FileNotFoundError: There is nothing at `path`, or no image folder.
    """
    folder = settings.pop("image_folder", None)
    where = {"path": None if path is None else str(path), "image_folder": None if folder is None else Path(folder)}
    return open_source(name, SourceSettings(**where, **settings))


def SpatialRGPTDataset(path: str | Path, **settings: Any) -> IndexedRows:
    """SpatialRGPT's conversations about regions of an image: OpenSpatialDataset or SpatialRGPT-Bench.

    Args:
        path: File, folder or Hub id of the rows.
        settings: `image_folder`, `split`, `num_samples`, `question_template`, `draw_bboxes`.
    """
    rows = load_dataset("spatial_rgpt", path, **settings)
    assert isinstance(rows, IndexedRows)
    return rows


__all__ = [
    "Example",
    "HFDatasetWrapper",
    "Mixture",
    "Skipped",
    "SourceSettings",
    "SpatialRGPTDataset",
    "TheWorldCollator",
    "TheWorldDataset",
    "as_source",
    "load_dataset",
    "open_mixture",
]
