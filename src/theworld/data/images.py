"""The images of data sets: `theworld.utils.images` opens them, and what it refuses is a row to skip, with a cause."""

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

MIN_SIDE = 16  # pixels; below are tracking pixels, icons and rules


def open_image(source: Any, folder: Path | None = None) -> Image.Image:
    """One image of a data set as RGB, under the limits of `theworld.utils.images.open_image`.

    Args:
        source: As there, but text is always the name of a file: absolute, or within `folder`.
        folder: Where names are looked up; names that lead out of it are refused.

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
        raise BadSample("tiny", f"{name}: {image.width} x {image.height}, expected {MIN_SIDE} pixels a side at least")
    return image


def in_order(path: Path) -> list[tuple[int, str]]:
    """Sorts names with their numbers as numbers: frame 2 before frame 10."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def frame_seconds(path: Path) -> list[float]:
    """How long each frame of an animation is shown, in seconds, as its file says; a still image has one."""
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
    """`count` frames of an animation from `start` on, as from `open_image`; `truncated` also if there are fewer."""
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
    """The path of `name`, which must lie within `folder` when there is one: `..` and absolute names are refused.

    Links within the folder are followed: snapshots of the Hub, git-annex and DVC consist of them. BadSample
    `outside_folder`, or `missing` for what cannot be a path.
    """
    try:
        root = None if folder is None else folder.resolve()
        path = Path(os.path.normpath((root or Path.cwd()) / name))
        resolved = path.resolve()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a null byte, a circle of links
        raise BadSample("missing", f"{str(name)[:200]!r}: not a path ({error})") from error
    if folder is None or root is None:
        return resolved
    if not any(path.is_relative_to(allowed) for allowed in (root, os.path.normpath(folder.absolute()))):
        raise BadSample("outside_folder", f"{name}: leads out of the image folder {folder}")
    return path


def located(images: Iterable[Any], folder: Path | None) -> tuple[Any, ...]:
    """Images of a row, their names located within `folder`; unchanged where there is none."""
    return tuple(locate(image, folder) if folder and isinstance(image, str) else image for image in images)


@contextmanager
def _bad_samples() -> Generator[None]:
    try:
        yield
    except ImageError as error:
        raise BadSample(error.cause, error.detail) from error
    except FileNotFoundError as error:
        raise BadSample("missing", str(error)) from error
