"""A folder of videos as clips of 1 + 4K frames without questions, for alignment.

Each entry of the folder is one video: a sub-folder of frames in the order of their names, an animated GIF, WebP or PNG,
or a file such as .mp4. With `clip_fps` a clip has one frame every 1 / `clip_fps` seconds, by the frame times of the
file. Frames in a folder have no times: their rate is the number in `fps.txt`, beside them or one folder up.
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

CLIP_STEPS = 2  # future latent frames of a clip without `clip_frames`
RATE_FILE = "fps.txt"
EPSILON = 1e-4  # seconds; tolerance for times, which files round

FRAME_FILES = {*IMAGE_SUFFIXES} - {".gif"}
ANIMATIONS = {".gif", ".webp", ".png", ".apng"}
VIDEOS = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v"}


@dataclass(frozen=True)
class Window:
    """A clip of a video."""

    path: Path
    start: int  # index of the first frame in the video at the clip's rate
    frames: int
    fps: float | None = None  # frames per second; None takes all frames
    picks: tuple[Any, ...] = ()  # names of frames in a folder, or indices of frames in an animation

    def open(self) -> tuple[Any, ...]:
        """The frames, as inputs of `open_image`; BadSample if the file is damaged."""
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
        """The clip, without messages; a video that is too short is `Skipped` already."""
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
    """The consecutive clips, without overlap, of the videos in the folder `settings.path`."""
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
        logger.warning(
            "%s: %d folders of frames have no %s: assuming %g frames per second", folder, unstated, RATE_FILE, fps
        )
    return items, _Clips()


def stated_rate(folder: Path) -> float | None:
    """Frames per second of the frames in `folder`; None without `fps.txt`, ValueError if it holds no number."""
    file = next((path for path in (folder / RATE_FILE, folder.parent / RATE_FILE) if path.is_file()), None)
    if file is None:
        return None
    text = file.read_text(encoding="utf-8").strip()
    if not re.fullmatch(r"\d+(\.\d+)?", text) or not float(text):
        raise TheWorldError(
            f"{file}: {text[:20]!r}; expected the frames per second of the images beside it, such as 30"
        )
    return float(text)


def shown_at(seconds: Sequence[float], fps: float) -> list[int]:
    """Index of the frame that is shown at each of the times 0, 1 / fps, 2 / fps, ... of a video.

    `seconds` are the durations of its frames.
    """
    ends = list(accumulate(seconds, initial=0.0))
    times = (number / fps for number in range(int((ends[-1] + EPSILON) * fps)))
    return [bisect_right(ends, time + EPSILON) - 1 for time in times]


def _windows(path: Path, count: int, fps: float | None) -> list[Window | Skipped]:
    """The clips of one video; empty if `path` is not a video."""
    kind = path.suffix.lower()
    if path.name.startswith(".") or not (path.is_dir() or kind in ANIMATIONS | VIDEOS):
        return []
    # 1. List the frames, and how long each is shown
    picks, seconds = list[Any](), list[float]()
    try:
        if path.is_dir():
            picks = [file.name for file in sorted(path.iterdir(), key=in_order) if file.suffix.lower() in FRAME_FILES]
            rate = stated_rate(path)
            seconds = [1 / rate] * len(picks) if rate else []
        elif kind not in VIDEOS:
            seconds = frame_seconds(path)
            picks = list(range(len(seconds)))
        # 2. Resample them to the clip's rate
        if fps is not None and seconds:
            picks = [picks[place] for place in shown_at(seconds, fps)]
        total = _count_video(path, fps) if kind in VIDEOS and not path.is_dir() else len(picks)
        if total < count:
            rate = "" if fps is None else f" at {fps:g} per second"
            raise BadSample("short_clip", f"{path}: {total} frames{rate}, a clip has {count}")
    except BadSample as bad:
        return [bad.skipped(path.name)]
    # 3. Cut consecutive clips
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
        raise BadSample("truncated", f"{path}: ends at frame {start + len(frames)}, before the end in its header")
    return frames


def _at_times(container: Any, times: list[float]) -> list[Any]:
    """The frames of a video at `times`, in seconds from its first frame; fewer if it ends earlier."""
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
    if not path.is_file():  # opening a pipe would block
        raise BadSample("not_a_video", f"{path}: not a regular file")
    limit = {"max_pixels": str(MAX_PIXELS)}  # limits each frame, also during the probe of its size
    try:
        with av.open(str(path), options=limit) as container:
            if not container.streams.video:
                raise BadSample("not_a_video", f"{path}: no video in it")
            codec = container.streams.video[0].codec_context
            if not 0 < codec.width * codec.height <= MAX_PIXELS:  # libav gives no size if it is too large
                raise BadSample("too_large", f"{path}: a frame has no pixels, or more than {MAX_PIXELS:,}")
            codec.options = limit
            yield container
    except (av.error.FFmpegError, OSError) as error:
        raise BadSample("not_a_video", f"{path}: cannot be read ({error})") from error
