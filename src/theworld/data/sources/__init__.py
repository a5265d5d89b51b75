"""One file a dataset; every one yields the same `Example`. `SOURCES` is where a new one is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from ..schema import Example, Skipped, SourceSettings
from .blink import load_blink
from .datacomp import load_datacomp
from .files import load_custom
from .llava_pretrain import load_llava_pretrain
from .micro_world import load_micro_world
from .spatial_rgpt import load_spatial_rgpt
from .video import load_video
from .vsr import load_vsr
from .webdataset import load_webdataset


class IndexedSource(Protocol):
    """A source with a length, whose rows are read in any order."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Example | Skipped: ...


class StreamedSource(Protocol):
    """A source whose rows come one after the other."""

    def __iter__(self) -> Iterator[Example | Skipped]: ...


Source = IndexedSource | StreamedSource

SOURCES: dict[str, Callable[[SourceSettings], Source]] = {
    "blink": load_blink,
    "custom": load_custom,
    "datacomp": load_datacomp,
    "llava_pretrain": load_llava_pretrain,
    "micro_world": load_micro_world,
    "spatial_rgpt": load_spatial_rgpt,
    "video": load_video,
    "vsr": load_vsr,
    "webdataset": load_webdataset,
}
"""`dataset_name` -> what opens it, or raises ValueError or FileNotFoundError in one line."""
