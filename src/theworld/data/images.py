"""Images of datasets, opened by `theworld.utils.images`. An image that it refuses is a skipped row with a cause."""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from theworld.utils import images
from theworld.utils.image_decoding import ImageError, decoding, open_header, shown, to_rgb

from .schema import BadSample

MIN_SIDE = 16  # pixels; smaller images are tracking pixels, icons and rules


def open_image(source: Any, folder: Path | None = None) -> Image.Image:
    """One image of a dataset as RGB, under the limits of `theworld.utils.images.open_image`.

    Args:
        source: As for that function, but text is always a file name: absolute, or within `folder`.
        folder: Folder of relative names. A name that leads out of it raises an error.

    Raises:
        BadSample: With the cause `missing`, `outside_folder`, `not_an_image`, `truncated` (cut or damaged),
            `too_large` or `tiny` (`MIN_SIDE`).
    """
    if isinstance(source, Mapping):
        source = source.get("bytes") or source.get("path")
    if isinstance(source, str | Path):
        source = locate(source, folder)
    with _bad_samples():
        image = images.open_image(source)
    if min(image.size) < MIN_SIDE:
        name = shown(source) if isinstance(source, Path) else "the image"
        raise BadSample("tiny", f"{name}: {image.width} x {image.height}, expected at least {MIN_SIDE} pixels per side")
    return image


def in_order(path: Path) -> list[tuple[int, str]]:
    """Sort key that compares numbers in names as numbers: frame 2 before frame 10."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def frame_seconds(path: Path) -> list[float]:
    """Duration of each frame of an animation in seconds, from its file; a still image has one frame."""
    seconds: list[float] = []
    with _bad_samples():
        image = open_header(path)
        with decoding(str(path)):
            count = getattr(image, "n_frames", 1)
        for index in range(count):
            with decoding(f"{path}, frame {index}"):
                image.seek(index)
                seconds.append(image.info.get("duration", 100) / 1000)
    return seconds


def open_frames(path: Path, start: int, count: int) -> list[Image.Image]:
    """`count` frames of an animation from `start`, as from `open_image`; BadSample `truncated` if there are fewer."""
    frames: list[Image.Image] = []
    with _bad_samples():
        image = open_header(path)
        for index in range(start, start + count):
            name = f"{path}, frame {index}"
            with decoding(name):
                image.seek(index)
            frames.append(open_image(to_rgb(image, name)))
    return frames


def locate(name: str | Path, folder: Path | None) -> Path:
    """The path of `name`. If `folder` is given, the path must be inside it: `..` and absolute names are refused.

    Links within the folder are followed: snapshots of the Hub, git-annex and DVC consist of them. BadSample
    `outside_folder`, or `missing` for an invalid path.
    """
    try:
        root = None if folder is None else folder.resolve()
        path = Path(os.path.normpath((root or Path.cwd()) / name))
        resolved = path.resolve()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a null byte, circular links
        raise BadSample("missing", f"{str(name)[:200]!r}: not a path ({error})") from error
    if folder is None or root is None:
        return resolved
    if not any(path.is_relative_to(allowed) for allowed in (root, os.path.normpath(folder.absolute()))):
        raise BadSample("outside_folder", f"{name}: leads out of the image folder {folder}")
    return path


def located(images: Iterable[Any], folder: Path | None) -> tuple[Any, ...]:
    """Images of a row, with names located within `folder`; unchanged without a folder."""
    return tuple(locate(image, folder) if folder and isinstance(image, str) else image for image in images)


@contextmanager
def _bad_samples() -> Generator[None]:
    try:
        yield
    except ImageError as error:
        raise BadSample(error.cause, error.detail) from error
    except FileNotFoundError as error:
        raise BadSample("missing", str(error)) from error
