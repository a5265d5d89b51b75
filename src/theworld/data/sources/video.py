"""A folder of videos as clips of 1 + 4K frames, without questions: what alignment learns from.

Each entry of the folder is one video: a sub-folder of frames in the order of their names, an animated GIF, WebP or PNG,
or a file such as .mp4. Frames are taken as they come; a video whose frames are too close together is thinned out
beforehand, with `ffmpeg -i clip.mp4 -vf fps=8 clip/%05d.png` for example.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from theworld.utils.imports import require

from ..images import count_frames, open_frames
from ..schema import BadSample, Example, Skipped, SourceSettings

CLIP_FRAMES = 9
FRAME_FILES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm"}
ANIMATIONS = {".gif", ".webp", ".png", ".apng"}
VIDEOS = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v"}


@dataclass(frozen=True)
class Window:
    """`frames` of a video from `start` on; `names` are their files where the video is a folder."""

    path: Path
    start: int
    frames: int
    names: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """`<video>:<first frame>`."""
        return f"{self.path.name}:{self.start}"

    def open(self) -> tuple[Any, ...]:
        """The frames, as `open_image` takes them.

        Raises:
            BadSample: The file is damaged.
        """
        if self.names:
            return tuple(self.path / name for name in self.names)
        if self.path.suffix.lower() in VIDEOS:
            return tuple(_decode_video(self.path, self.start, self.frames))
        return tuple(open_frames(self.path, self.start, self.frames))


class VideoClips:
    """Consecutive clips of every video, none of them sharing a frame; a video too short for one is `Skipped`."""

    def __init__(self, items: list[Window | Skipped]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Example | Skipped:
        window = self.items[index]
        if isinstance(window, Skipped):
            return window
        try:
            frames = window.open()
        except BadSample as bad:
            return bad.skipped(window.id)
        metadata = {"video": window.path.name, "start": window.start}
        return Example(window.id, messages=(), images=frames[:1], clip=frames, metadata=metadata)


def load_video(settings: SourceSettings) -> VideoClips:
    """The clips of the videos in the folder `settings.path`.

    Args:
        settings: `clip_frames` is 1 + 4K, the frames that K future latent frames stand for.

    Raises:
        ValueError: `clip_frames` is not 1 + 4K, there is no video, or a setting does not apply.
        FileNotFoundError: There is no such folder.
        ImportError: There are video files, and nothing to decode them with.
    """
    settings.refuse("video", "streaming", "split", "question_template")
    folder = settings.require_path("video")
    count = check_clip_frames(CLIP_FRAMES if settings.clip_frames is None else settings.clip_frames)
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder of videos")
    items: list[Window | Skipped] = []
    for path in sorted(folder.iterdir(), key=in_order):
        items += _windows(path, count)
    if not items:
        raise ValueError(
            f"{folder}: no videos; expected sub-folders of frames, or files ending in "
            f"{', '.join(sorted(ANIMATIONS | VIDEOS))}"
        )
    return VideoClips(items[: settings.num_samples])


def check_clip_frames(count: int) -> int:
    """`count`, if it is the frames of whole latent frames.

    Raises:
        ValueError: It is not 1 + 4K.
    """
    if count < 1 or count % 4 != 1:
        raise ValueError(f"clip_frames={count}: expected 1 + 4K for K future latent frames: 1, 5, 9, ...")
    return count


def in_order(path: Path) -> list[tuple[int, str]]:
    """Sorts names with their numbers as numbers: frame 2 before frame 10."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _windows(path: Path, count: int) -> list[Window | Skipped]:
    """The clips of one video; none where an entry is no video."""
    kind = path.suffix.lower()
    if path.name.startswith(".") or not (path.is_dir() or kind in ANIMATIONS | VIDEOS):
        return []
    names: list[str] = []
    if path.is_dir():
        names = [file.name for file in sorted(path.iterdir(), key=in_order) if file.suffix.lower() in FRAME_FILES]
    try:
        total = len(names) if path.is_dir() else _count_video(path) if kind in VIDEOS else count_frames(path)
        if total < count:
            raise BadSample("short_clip", f"{path}: {total} frames, a clip has {count}")
    except BadSample as bad:
        return [bad.skipped(path.name)]
    return [
        Window(path, start, count, tuple(names[start : start + count])) for start in range(0, total - count + 1, count)
    ]


def _count_video(path: Path) -> int:
    with _open_video(path) as container:
        known = container.streams.video[0].frames
        return known or sum(packet.size > 0 for packet in container.demux(video=0))


def _decode_video(path: Path, start: int, count: int) -> list[Any]:
    with _open_video(path) as container:
        frames = [frame.to_image() for frame in islice(container.decode(video=0), start, start + count)]
    if len(frames) < count:
        raise BadSample("truncated", f"{path}: ends at frame {start + len(frames)}, sooner than its header says")
    return frames


@contextmanager
def _open_video(path: Path) -> Generator[Any]:
    av = require("train", "av")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise BadSample("not_a_video", f"{path}: no video in it")
            yield container
    except (av.error.FFmpegError, OSError) as error:
        raise BadSample("not_a_video", f"{path}: cannot be read ({error})") from error
