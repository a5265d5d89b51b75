"""One file a dataset: its rows, and what makes the one `Example` of them. `SOURCES` is where a new one is named."""

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
    """What is known of a dataset before it is opened; `open_source` checks all of it."""

    load: Callable[[SourceSettings], tuple[Any, Reader]]  # makes rows and their reader of settings
    path: str  # what `train_dataset_path` has to be
    uses: tuple[str, ...] = PLAIN  # settings with an effect beside `path`, `num_samples` and `seed`; others are refused
    needs: tuple[str, ...] = ()  # columns without which no row can be read
    template: str | None = None  # the question template where none is given
    fields: tuple[str, ...] = ()  # what a template may name beside the columns
    hub: re.Pattern[str] | None = HUB_ID  # what a Hub id at the path looks like; None where it has to be local
    images: Literal["optional", "needed", "made"] = "optional"  # the image folder; one that is made need not exist
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
        hub=re.compile(r".+"),  # a pattern or a URL, looked up when it is opened
    ),
}
"""`dataset_name` -> what is known of it."""

__all__ = ["SOURCES", "SourceKind"]
