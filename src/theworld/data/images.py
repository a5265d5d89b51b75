"""The one place where an untrusted picture is opened: decoded to RGB, or refused with a cause, never a hang."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from theworld.utils.images import scale_16_bits, to_rgb

from .schema import BadSample

MAX_BYTES = 64 * 2**20
"""Of a file."""

MAX_PIXELS = 64 * 2**20
"""Width times height, as the header says: 8,192 x 8,192, which is 200 MB once decoded."""

MIN_SIDE = 16
"""Pixels; below are tracking pixels, icons and rules."""

# Raster formats that PIL decodes by itself: it would hand EPS and WMF to other programs
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

# What PIL's decoders raise on damaged files
_DAMAGE = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, EOFError),
    *(AttributeError, MemoryError, struct.error, zlib.error),
)


def open_image(source: Any, folder: Path | None = None) -> Image.Image:
    """One picture of an untrusted source as RGB.

    Upright by its EXIF, the first frame of an animation, transparency over white, 16 bits scaled to 8.

    Args:
        source: A path, absolute or within `folder`; the bytes of a file; a PIL image; a uint8 or uint16 array (H, W),
            (H, W, 1), (H, W, 3) or (H, W, 4); or the {"bytes", "path"} of Hugging Face datasets.
        folder: Where names are looked up; names that lead out of it, also by a link, are refused.

    Raises:
        BadSample: With the cause `missing`, `outside_folder`, `not_an_image`, `truncated` (cut or damaged),
            `too_large` (`MAX_BYTES`, `MAX_PIXELS`) or `tiny` (`MIN_SIDE`).
    """
    if isinstance(source, Mapping):
        source = source.get("bytes") or source.get("path")
    if isinstance(source, str | Path):
        return _decode(_read(locate(source, folder), str(source)), str(source))
    if isinstance(source, bytes | bytearray):
        return _decode(source, "the picture's bytes")
    if isinstance(source, np.ndarray):
        source = _array_to_pil(source)
    if isinstance(source, Image.Image):
        return _convert(source, "the picture")
    raise BadSample(
        "not_an_image", f"picture of type {type(source).__name__}: expected a path, bytes, PIL image or array"
    )


def count_frames(path: Path) -> int:
    """The frames of an animation; 1 of a still picture.

    Raises:
        BadSample: As from `open_image`.
    """
    image = _open(_read(path, str(path)), str(path))
    try:
        return getattr(image, "n_frames", 1)
    except _DAMAGE as error:
        raise BadSample("truncated", f"{path}: cut or damaged ({error})") from error


def open_frames(path: Path, start: int, count: int) -> list[Image.Image]:
    """Frames `start` to `start + count - 1` of an animation, each as `open_image` would give it.

    Raises:
        BadSample: As from `open_image`; `truncated` also where there are not as many.
    """
    image = _open(_read(path, str(path)), str(path))
    frames: list[Image.Image] = []
    for index in range(start, start + count):
        try:
            image.seek(index)
        except _DAMAGE as error:
            raise BadSample("truncated", f"{path}, frame {index}: cut or damaged ({error})") from error
        frames.append(_convert(image, str(path)))
    return frames


def locate(name: str | Path, folder: Path | None) -> Path:
    """The path of `name`, which must lie within `folder` when there is one; links are followed first.

    Raises:
        BadSample: `outside_folder`, or `missing` for what cannot be a path.
    """
    try:
        if folder is None:
            return Path(name).resolve()
        path, root = (folder / name).resolve(), folder.resolve()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a null byte, a circle of links
        raise BadSample("missing", f"{str(name)[:200]!r}: not a path ({error})") from error
    if not path.is_relative_to(root):
        raise BadSample("outside_folder", f"{name}: leads out of the image folder {folder}")
    return path


def _read(path: Path, name: str) -> bytes:
    try:
        if not path.is_file():  # opening a pipe would wait for its writer
            raise BadSample("missing", f"{name}: {'not a regular file' if path.exists() else 'no such file'} ({path})")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadSample("missing", f"{name[:200]}: cannot be read ({error.strerror})") from error
    if len(data) > MAX_BYTES:
        raise BadSample("too_large", f"{name}: more than {MAX_BYTES:,} bytes")
    return data


def _decode(data: bytes | bytearray, name: str) -> Image.Image:
    return _convert(_open(data, name), name)


def _open(data: bytes | bytearray, name: str) -> Image.Image:
    if len(data) > MAX_BYTES:
        raise BadSample("too_large", f"{name}: {len(data):,} bytes, allowed are {MAX_BYTES:,}")
    Image.init()
    try:
        return Image.open(BytesIO(data), formats=[kind for kind in FORMATS if kind in Image.OPEN])
    except UnidentifiedImageError as error:
        raise BadSample("not_an_image", f"{name}: not one of {', '.join(FORMATS)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadSample("too_large", f"{name}: {error}") from error
    except _DAMAGE as error:
        raise BadSample("truncated", f"{name}: cut or damaged ({error})") from error


def _convert(image: Image.Image, name: str) -> Image.Image:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadSample("too_large", f"{name}: {width} x {height}, allowed are {MAX_PIXELS:,} pixels")
    if min(width, height) < MIN_SIDE:
        raise BadSample("tiny", f"{name}: {width} x {height}, expected {MIN_SIDE} pixels a side at least")
    if image.mode == "F":
        raise BadSample("not_an_image", f"{name}: floats have no fixed range; expected 8 or 16 bits a channel")
    try:
        return to_rgb(image)
    except _DAMAGE as error:
        raise BadSample("truncated", f"{name}: cut or damaged ({error})") from error


def _array_to_pil(values: np.ndarray[Any, Any]) -> Image.Image:
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.dtype == np.uint16:
        values = scale_16_bits(values)
    if values.dtype != np.uint8 or values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (3, 4)):
        raise BadSample(
            "not_an_image", f"array of shape {values.shape} and type {values.dtype}: expected uint8 (H, W, 3)"
        )
    return Image.fromarray(values)
