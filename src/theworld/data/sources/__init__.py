"""Datasets, one file each: the rows, and the reader that makes an `Example` of a row. Add new ones to `SOURCES`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from theworld.utils.hub import HUB_ID

from ..schema import SourceSettings
from .blink import BLINK_ID, load_blink
from .datacomp import load_datacomp
from .files import load_custom
from .llava_pretrain import load_llava_pretrain
from .micro_world import COMMAND, load_micro_world
from .records import Reader
from .spatial_rgpt import load_spatial_rgpt
from .video import load_video
from .vsr import QUESTION_TEMPLATE, load_vsr
from .webdataset import load_webdataset

PLAIN = ("image_folder", "split", "question_template")
CLIP = ("clip_frames", "frames_per_step")


@dataclass(frozen=True)
class SourceKind:
    """Properties of a dataset, which `open_source` checks before it opens the dataset."""

    load: Callable[[SourceSettings], tuple[Any, Reader]]  # returns rows and their reader
    path: str  # what `train_dataset_path` must be
    uses: tuple[str, ...] = PLAIN  # settings with an effect beside `path`, `num_samples` and `seed`; others are refused
    needs: tuple[str, ...] = ()  # required columns
    template: str | None = None  # default question template
    fields: tuple[str, ...] = ()  # fields of a template besides the columns
    hub: re.Pattern[str] | None = HUB_ID  # pattern of a Hub id; None: the path must be local
    images: Literal["optional", "needed", "made"] = (
        "optional"  # whether the image folder is needed; `made`: it is created
    )
    file_is_split: bool = False  # whether one file is one split, so that `split` has no effect on it


SOURCES: dict[str, SourceKind] = {
    "blink": SourceKind(
        load_blink, "a file, a folder or the Hub id of BLINK", needs=("answer",), template="{prompt}", hub=BLINK_ID
    ),
    "custom": SourceKind(load_custom, "a file, a folder or a Hub id", uses=(*PLAIN, "columns", "streaming")),
    "datacomp": SourceKind(
        load_datacomp,
        "Parquet files, or mlfoundations/datacomp_small",
        uses=(*PLAIN, "streaming"),
        needs=("uid", "url", "text"),
        images="made",
    ),
    "llava_pretrain": SourceKind(
        load_llava_pretrain, "LLaVA's JSON file or its folder", uses=PLAIN[:2], needs=("conversations",), hub=None
    ),
    "micro_world": SourceKind(
        load_micro_world, f"a folder made by `{COMMAND}`", uses=("split", "question_template", *CLIP), hub=None
    ),
    "spatial_rgpt": SourceKind(
        load_spatial_rgpt,
        "a file, a folder or a Hub id",
        uses=(*PLAIN, "draw_bboxes"),
        needs=("conversations",),
        fields=("question",),
        file_is_split=True,
    ),
    "video": SourceKind(load_video, "a folder of videos", uses=(*CLIP, "clip_fps"), hub=None),
    "vsr": SourceKind(
        load_vsr,
        "a file or folder of VSR's annotations",
        needs=("image", "label"),
        template=QUESTION_TEMPLATE,
        images="needed",
        file_is_split=True,
    ),
    "webdataset": SourceKind(
        load_webdataset,
        "tar files, as in shards/{000..099}.tar",
        uses=("question_template", "columns", "streaming"),
        hub=re.compile(r".+"),  # a pattern or a URL, checked when it is opened
    ),
}
"""`dataset_name` -> its properties."""

__all__ = ["SOURCES", "SourceKind"]
