"""What every data source yields: an `Example`, or a `Skipped` row with its cause."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from theworld.utils.errors import CausedError, TheWorldError
from theworld.utils.world_settings import WorldSettings

IMAGE_MARKER = "<image>"
"""Where an image stands in a message; without any marker all images stand at the start of the first user turn."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; `IMAGE_MARKER` in the content of a user turn is the place of the next image."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Example:
    """One sample, its images not opened yet.

    Args:
        id: Unique within its source and stable between runs.
        messages: The conversation in order; what the assistant says is supervised.
        images: The images of the prompt, in the order of their markers: whatever `images.open_image` opens.
        clip: Frames of a video at equal distances, the first being the present one: what label-free alignment
            regresses on. Empty where there is no video.
        choices: The answers that a closed question allows, for example ("0", "1"); empty for an open one.
        metadata: Whatever else the row says: relation, category, ground truth.
    """

    id: str
    messages: tuple[Message, ...]
    images: tuple[Any, ...] = ()
    clip: tuple[Any, ...] = ()
    choices: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)


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
    """What a run tells a data source; `open_source` refuses what has no effect on it.

    Args:
        path: File, folder or Hub id of the rows.
        image_folder: Where relative image names are looked up; names that lead out of it are refused.
        split: The split to read where the source has several.
        num_samples: Read this many rows at most.
        streaming: Read rows one after the other instead of indexing them.
        question_template: `str.format` template of the prompt, with the row's own fields.
        draw_bboxes: Draw regions onto the image.
        columns: Which column holds `image`, `question`, `answer`, `choices` or `id`, where its name does not tell.
        clip_frames: Frames of a clip, 1 + K `frames_per_step` for K future latent frames; None leaves it to the source.
        clip_fps: Frames a second of a clip, `world_fps` of the model; None takes frames as they come.
        frames_per_step: Frames of a clip for one latent frame, `world_temporal_compression` of the model.
        seed: Of anything drawn at random.

    Raises:
        ValueError: `clip_frames` is not the frames of whole latent frames.
    """

    path: str | None = None
    image_folder: Path | None = None
    split: str | None = None
    num_samples: int | None = None
    streaming: bool = False
    question_template: str | None = None
    draw_bboxes: bool = True
    columns: Mapping[str, str] | None = None
    clip_frames: int | None = None
    clip_fps: float | None = None
    frames_per_step: int = WorldSettings.world_temporal_compression
    seed: int = 0

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
        """Refuse settings that a source does not use, rather than leave them without effect.

        Raises:
            ValueError: One of `names` is not at its default.
        """
        for name in names:
            if getattr(self, name) != getattr(type(self), name):
                raise TheWorldError(f"dataset {source!r} does not use {name}={getattr(self, name)!r}; remove it")
