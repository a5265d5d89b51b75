"""A folder of videos as clips of 1 + 4K frames, without questions: what alignment learns from.

Each entry of the folder is one video: a sub-folder of frames in the order of their names, an animated GIF, WebP or PNG,
or a file such as .mp4. With `clip_fps` a clip has what the video shows every 1 / `clip_fps` seconds, by the frame
times of its file. Frames in a folder have none: their rate is the number in `fps.txt`, beside them or one folder up.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any

from theworld.utils.errors import TheWorldError
from theworld.utils.image_decoding import MAX_PIXELS
from theworld.utils.imports import require
from theworld.utils.logging import logger

from ..images import frame_seconds, in_order, open_frames
from ..schema import IMAGE_SUFFIXES, BadSample, Example, Skipped, SourceSettings
from .records import Reader

CLIP_STEPS = 2  # future latent frames of a clip where `clip_frames` does not say
RATE_FILE = "fps.txt"
EPSILON = 1e-4  # seconds within which two times are one: files round theirs

FRAME_FILES = {*IMAGE_SUFFIXES} - {".gif"}
ANIMATIONS = {".gif", ".webp", ".png", ".apng"}
VIDEOS = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v"}


@dataclass(frozen=True)
class Window:
    """A clip of a video."""

    path: Path
    start: int  # place of the first frame among those of the video at the clip's rate
    frames: int
    fps: float | None = None  # frames a second; None takes frames as they come
    picks: tuple[Any, ...] = ()  # names of the frames of a folder, places of those of an animation

    def open(self) -> tuple[Any, ...]:
        """The frames, as `open_image` takes them; BadSample if the file is damaged."""
        if not self.picks:
            return tuple(_decode_video(self.path, self.start, self.frames, self.fps))
        if self.path.is_dir():
            return tuple(self.path / name for name in self.picks)
        first, last = self.picks[0], self.picks[-1]
        frames = open_frames(self.path, first, 1 + last - first)
        return tuple(frames[pick - first] for pick in self.picks)


class _Clips:
    """Opens the frames of a window."""

    def read(self, row: Window | Skipped, fallback_id: str) -> Example | Skipped:
        """The clip, without messages; a video too short for one is `Skipped` already."""
        if isinstance(row, Skipped):
            return row
        id = f"{row.path.name}:{row.start}"
        try:
            frames = row.open()
        except BadSample as bad:
            return bad.skipped(id)
        metadata = {"video": row.path.name, "start": row.start}
        return Example(id, messages=(), images=frames[:1], clip=frames, metadata=metadata)


def load_video(settings: SourceSettings) -> tuple[list[Window | Skipped], Reader]:
    """The consecutive clips of the videos in the folder `settings.path`, none of which share a frame."""
    folder, fps = settings.local, settings.clip_fps
    count = settings.clip_frames or 1 + CLIP_STEPS * settings.frames_per_step
    if not folder.is_dir():
        raise TheWorldError(f"{folder}: expected a folder of videos")
    items = [item for path in sorted(folder.iterdir(), key=in_order) for item in _windows(path, count, fps)]
    if not items:
        kinds = ", ".join(sorted(ANIMATIONS | VIDEOS))
        raise TheWorldError(f"{folder}: no videos; expected sub-folders of frames, or files ending in {kinds}")
    unstated = sum(path.is_dir() and stated_rate(path) is None for path in folder.iterdir())
    if fps is not None and unstated:
        logger.warning("%s: %d folders of frames without %s are taken as %g a second", folder, unstated, RATE_FILE, fps)
    return items, _Clips()


def stated_rate(folder: Path) -> float | None:
    """Frames a second of the frames in `folder`; None where no `fps.txt` says, ValueError where it holds no number."""
    file = next((path for path in (folder / RATE_FILE, folder.parent / RATE_FILE) if path.is_file()), None)
    if file is None:
        return None
    text = file.read_text(encoding="utf-8").strip()
    if not re.fullmatch(r"\d+(\.\d+)?", text) or not float(text):
        raise TheWorldError(f"{file}: {text[:20]!r}; expected the frames a second of the images beside it, such as 30")
    return float(text)


def shown_at(seconds: Sequence[float], fps: float) -> list[int]:
    """The place of the frame that is shown at each of the times 0, 1 / fps, 2 / fps, ... of a video.

    `seconds` is how long each of its frames is shown.
    """
    ends = list(accumulate(seconds, initial=0.0))
    times = (number / fps for number in range(int((ends[-1] + EPSILON) * fps)))
    return [bisect_right(ends, time + EPSILON) - 1 for time in times]


def _windows(path: Path, count: int, fps: float | None) -> list[Window | Skipped]:
    """The clips of one video; none where an entry is no video."""
    kind = path.suffix.lower()
    if path.name.startswith(".") or not (path.is_dir() or kind in ANIMATIONS | VIDEOS):
        return []
    picks, seconds = list[Any](), list[float]()
    try:
        if path.is_dir():
            picks = [file.name for file in sorted(path.iterdir(), key=in_order) if file.suffix.lower() in FRAME_FILES]
            rate = stated_rate(path)
            seconds = [1 / rate] * len(picks) if rate else []
        elif kind not in VIDEOS:
            seconds = frame_seconds(path)
            picks = list(range(len(seconds)))
        if fps is not None and seconds:
            picks = [picks[place] for place in shown_at(seconds, fps)]
        total = _count_video(path, fps) if kind in VIDEOS and not path.is_dir() else len(picks)
        if total < count:
            rate = "" if fps is None else f" at {fps:g} a second"
            raise BadSample("short_clip", f"{path}: {total} frames{rate}, a clip has {count}")
    except BadSample as bad:
        return [bad.skipped(path.name)]
    starts = range(0, total - count + 1, count)
    return [Window(path, start, count, fps, tuple(picks[start : start + count])) for start in starts]


def _count_video(path: Path, fps: float | None) -> int:
    with _open_video(path) as container:
        stream = container.streams.video[0]
        if fps is None:
            return stream.frames or sum(packet.size > 0 for packet in container.demux(video=0))
        seconds = (container.duration or 0) / 1e6  # libav counts in microseconds
        if stream.duration:
            seconds = float(stream.duration * stream.time_base)
        elif not seconds:
            packets = [packet for packet in container.demux(video=0) if packet.pts is not None]
            end = max((packet.pts + (packet.duration or 0) for packet in packets), default=0)
            seconds = float((end - (stream.start_time or 0)) * stream.time_base) if packets else 0.0
        return int((seconds + EPSILON) * fps)


def _decode_video(path: Path, start: int, count: int, fps: float | None) -> list[Any]:
    with _open_video(path) as container:
        if fps is None:
            frames = [frame.to_image() for frame in islice(container.decode(video=0), start, start + count)]
        else:
            frames = _at_times(container, [number / fps for number in range(start, start + count)])
    if len(frames) < count:
        raise BadSample("truncated", f"{path}: ends at frame {start + len(frames)}, sooner than its header says")
    return frames


def _at_times(container: Any, times: list[float]) -> list[Any]:
    """What a video shows at each of `times`, in seconds from its first frame; fewer where it ends before."""
    stream = container.streams.video[0]
    begin = stream.start_time or 0
    container.seek(begin + int(times[0] / stream.time_base), stream=stream)  # to the key frame before it
    frames: list[Any] = []
    before, end = None, 0.0
    for frame in chain(container.decode(stream), [None]):
        # The last frame is shown until its end
        time = end + 2 * EPSILON if frame is None else float((frame.pts - begin) * stream.time_base)
        while before is not None and len(frames) < len(times) and times[len(frames)] + EPSILON < time:
            frames.append(before.to_image())
        if frame is None or len(frames) == len(times):
            break
        before, end = frame, time + float((frame.duration or 0) * stream.time_base)
    return frames


@contextmanager
def _open_video(path: Path) -> Generator[Any]:
    av = require("train", "av")
    if not path.is_file():  # to open a pipe would wait for a writer
        raise BadSample("not_a_video", f"{path}: not a regular file")
    limit = {"max_pixels": str(MAX_PIXELS)}  # of each frame, whatever the header says; also while its size is probed
    try:
        with av.open(str(path), options=limit) as container:
            if not container.streams.video:
                raise BadSample("not_a_video", f"{path}: no video in it")
            codec = container.streams.video[0].codec_context
            if not 0 < codec.width * codec.height <= MAX_PIXELS:  # libav gives no size where it is too large
                raise BadSample("too_large", f"{path}: a frame has no pixels, or more than {MAX_PIXELS:,}")
            codec.options = limit
            yield container
    except (av.error.FFmpegError, OSError) as error:
        raise BadSample("not_a_video", f"{path}: cannot be read ({error})") from error
