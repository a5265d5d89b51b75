"""What every data source yields: an `Example`, or a `Skipped` row with its cause."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from theworld.utils.errors import CausedError, TheWorldError
from theworld.utils.world_settings import WorldSettings

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif", ".jp2")
IMAGE_MARKER = "<image>"
"""Where an image stands in a message; without any marker all images stand at the start of the first user turn."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; `IMAGE_MARKER` in the content of a user turn is the place of the next image."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Example:
    """One sample, its images not opened yet."""

    id: str  # unique within its source and stable between runs
    messages: tuple[Message, ...]  # the conversation in order; what the assistant says is supervised
    images: tuple[Any, ...] = ()  # of the prompt, in the order of their markers: whatever `images.open_image` opens
    clip: tuple[Any, ...] = ()  # frames at equal distances, the present one first: what alignment regresses on
    choices: tuple[str, ...] = ()  # the answers that a closed question allows, ("0", "1"); empty for an open one
    metadata: dict[str, Any] = field(default_factory=dict)  # whatever else the row says: relation, ground truth


@dataclass(frozen=True)
class Skipped:
    """A row that gives no example."""

    id: str  # the row's, or its place in the file
    cause: str  # one of a few words to count by: missing, truncated, not_an_image, timeout, bad_row, ...
    detail: str  # one line for a person


class BadSample(CausedError):
    """A row or image that cannot be used; carries the `cause` that a `Skipped` counts by."""

    def skipped(self, id: str) -> Skipped:
        """What is recorded of row `id`."""
        return Skipped(id, self.cause, self.detail)


@dataclass(frozen=True)
class SourceSettings:
    """What a run tells a data source; `open_source` refuses what has no effect on it."""

    path: str | None = None  # file, folder or Hub id of the rows
    image_folder: Path | None = None  # where relative image names are looked up; names that lead out are refused
    split: str | None = None  # the split to read where the source has several
    num_samples: int | None = None  # read this many rows at most
    streaming: bool = False  # read rows one after the other instead of indexing them
    question_template: str | None = None  # `str.format` template of the prompt, with the row's own fields
    draw_bboxes: bool = True  # draw regions onto the image
    columns: Mapping[str, str] | None = None  # which column holds `image`, `question`, `answer`, `choices` or `id`
    clip_frames: int | None = None  # 1 + K `frames_per_step` for K future latent frames; None: the source's default
    clip_fps: float | None = None  # frames a second, those of the world encoder; None takes frames as they come
    frames_per_step: int = WorldSettings.world_temporal_compression  # frames of a clip for one latent frame
    seed: int = 0  # of anything drawn at random

    def __post_init__(self) -> None:
        count, step = self.clip_frames, self.frames_per_step
        if count is not None and (count < 1 or (count - 1) % step):
            first = ", ".join(str(1 + step * steps) for steps in range(3))
            raise TheWorldError(f"clip_frames={count}: expected 1 + {step}K for K future latent frames: {first}, ...")

    @property
    def local(self) -> Path:
        """`path` as that of a local file or folder, which need not exist."""
        return Path(str(self.path)).expanduser()

    @property
    def base_folder(self) -> Path | None:
        """Where relative image names are looked up without an `image_folder`: beside local rows."""
        if self.path is None or self.image_folder is not None or not self.local.exists():
            return None
        return self.local if self.local.is_dir() else self.local.parent

    def refuse(self, source: str, *names: str) -> None:
        """Raise a ValueError for settings that a source does not use and that are not at their default."""
        for name in names:
            if getattr(self, name) != getattr(type(self), name):
                raise TheWorldError(f"dataset {source!r} does not use {name}={getattr(self, name)!r}; remove it")
