"""The records of every data source: an `Example`, or a `Skipped` row with its cause."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from theworld.utils.errors import CausedError, TheWorldError
from theworld.utils.world_settings import WorldSettings

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif", ".jp2")
IMAGE_MARKER = "<image>"
"""Marks the place of an image in a message. Without markers, all images are at the start of the first user turn."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; `IMAGE_MARKER` in the content of a user turn is the place of the next image."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Example:
    """One sample, its images not opened yet."""

    id: str  # unique within its source and stable between runs
    messages: tuple[Message, ...]  # the conversation in order; assistant turns are supervised
    images: tuple[Any, ...] = ()  # images of the prompt in the order of their markers: inputs of `images.open_image`
    clip: tuple[Any, ...] = ()  # evenly spaced frames, the current one first: the data of alignment
    choices: tuple[str, ...] = ()  # allowed answers of a closed question, such as ("0", "1"); empty for an open one
    metadata: dict[str, Any] = field(default_factory=dict)  # other fields of the row: relation, ground truth


@dataclass(frozen=True)
class Skipped:
    """A row that gives no example."""

    id: str  # the row's id, or its position in the file
    cause: str  # category for counts: missing, truncated, not_an_image, timeout, bad_row, ...
    detail: str  # one line to read


class BadSample(CausedError):
    """A row or image that is not usable; `cause` is that of its `Skipped`."""

    def skipped(self, id: str) -> Skipped:
        """The record of row `id`."""
        return Skipped(id, self.cause, self.detail)


@dataclass(frozen=True)
class SourceSettings:
    """Settings of a run for a data source; `open_source` refuses those that the source does not use."""

    path: str | None = None  # file, folder or Hub id of the rows
    image_folder: Path | None = None  # folder of relative image names; names that lead out are refused
    split: str | None = None  # the split to read, if the source has several
    num_samples: int | None = None  # read at most this many rows
    streaming: bool = False  # read rows as a stream instead of indexing them
    question_template: str | None = None  # `str.format` template of the prompt, with the row's own fields
    draw_bboxes: bool = True  # draw regions onto the image
    columns: Mapping[str, str] | None = None  # column of `image`, `question`, `answer`, `choices` or `id`
    clip_frames: int | None = None  # 1 + K `frames_per_step` for K future latent frames; None: the source's default
    clip_fps: float | None = None  # frames per second of the world encoder; None takes all frames
    frames_per_step: int = WorldSettings.world_temporal_compression  # frames of a clip for one latent frame
    seed: int = 0  # seed of all random draws

    def __post_init__(self) -> None:
        count, step = self.clip_frames, self.frames_per_step
        if count is not None and (count < 1 or (count - 1) % step):
            first = ", ".join(str(1 + step * steps) for steps in range(3))
            raise TheWorldError(f"clip_frames={count}: expected 1 + {step}K for K future latent frames: {first}, ...")

    @property
    def local(self) -> Path:
        """`path` as a local path, which may not exist."""
        return Path(str(self.path)).expanduser()

    @property
    def base_folder(self) -> Path | None:
        """Folder of relative image names without an `image_folder`: that of local rows."""
        if self.path is None or self.image_folder is not None or not self.local.exists():
            return None
        return self.local if self.local.is_dir() else self.local.parent

    def refuse(self, source: str, *names: str) -> None:
        """Raise a ValueError for settings that a source does not use and that are not at their default."""
        for name in names:
            if getattr(self, name) != getattr(type(self), name):
                raise TheWorldError(f"dataset {source!r} does not use {name}={getattr(self, name)!r}; remove it")
