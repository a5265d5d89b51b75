"""Converts image files and PIL images to RGB, under one set of limits.

Every image is untrusted: its size is checked from the header before anything is decoded, only raster formats that PIL
decodes by itself are read, and any error of a decoder is raised as an `ImageError`.
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import CausedError, MissingFileError, one_line

MAX_PIXELS = 64 * 2**20
"""Largest width times height: 8,192 x 8,192, which is 256 MiB after decoding."""

MAX_BYTES = 4 * MAX_PIXELS
"""Largest size of a file: 256 MiB."""

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Raster formats that PIL decodes by itself. For EPS it calls Ghostscript, and for WMF the system."""

ORIENTATION = 0x0112
"""EXIF tag; 1 is upright."""

# What PIL's decoders raise on damaged files
_DAMAGE = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, EOFError),
    *(AttributeError, MemoryError, struct.error, zlib.error),
)


class ImageError(CausedError):
    """An image that cannot be used.

    Args:
        cause: One word for counts: `not_an_image`, `truncated` (cut or damaged), `too_large`, `missing` (cannot be
            read), or one of those of `FetchError`.
        detail: One line to read, with the image's name.
    """


def open_header(source: Path | bytes | bytearray, name: str | None = None) -> Image.Image:
    """A file as a PIL image; only its header is decoded.

    Raises:
        ImageError: As from `open_image`.
        FileNotFoundError: As from `open_image`.
    """
    if isinstance(source, Path):
        name, source = name or shown(source), _read(source)
    name = name or "the image"
    if len(source) > MAX_BYTES:
        raise ImageError("too_large", f"{name}: more than {MAX_BYTES:,} bytes; scale the image down first")
    Image.init()
    with decoding(name):
        image = Image.open(BytesIO(source), formats=[kind for kind in FORMATS if kind in Image.OPEN])
    _check_header(image, name)
    return image


def to_rgb(image: Image.Image, name: str = "the image") -> Image.Image:
    """A PIL image of any mode as RGB, under the limits of `open_image`.

    Transparent images get a white background, as in transformers' image processors.

    Raises:
        ImageError: It is too large, holds floats, which have no fixed range, or its file is damaged, which PIL detects
            only here.
    """
    _check_header(image, name)
    with decoding(name):
        upright = image.getexif().get(ORIENTATION, 1) == 1
        in_memory = type(image) is Image.Image
        if in_memory and upright and image.mode == "RGB" and not image.has_transparency_data:
            return image
        return _converted(image if upright else ImageOps.exif_transpose(image))


@contextmanager
def decoding(name: str) -> Generator[None]:
    """Raise any error of a decoder as an `ImageError` with the image's name."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise ImageError(
            "not_an_image", f"{name}: not an image that PIL can read; expected one of {', '.join(FORMATS)}"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("too_large", f"{name}: the image is too large ({error}); scale it down first") from error
    except _DAMAGE as error:
        reason = one_line(error) or type(error).__name__
        raise ImageError("truncated", f"{name}: the image is damaged ({reason}); export it again") from error


def shown(source: str | Path) -> str:
    """A path, URL or base64 text for errors: one line, shortened."""
    text = str(source)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= 200 else f"{text[:100]}...{text[-60:]}"


def check_size(width: int, height: int, name: str) -> None:
    """Raise `ImageError` for an image with more than `MAX_PIXELS`, or without pixels."""
    if width * height > MAX_PIXELS:
        size = f"{width} x {height}, expected at most {MAX_PIXELS:,} pixels"
        raise ImageError("too_large", f"{name}: the image is too large, {size}; scale it down first")
    if width * height == 0:
        raise ImageError("not_an_image", f"{name}: the image has no pixels, {width} x {height}")


def _check_header(image: Image.Image, name: str) -> None:
    check_size(*image.size, name)
    if image.mode == "F":
        raise ImageError("not_an_image", f"{name}: floats have no fixed range; expected 8 or 16 bits per channel")
    if image.format in ("EPS", "WMF"):
        raise ImageError("not_an_image", f"{name}: PIL starts another program for {image.format}; export it as PNG")


def _converted(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # PIL would clip 16 bits to white
        image = Image.fromarray(scale_16_bits(np.asarray(image)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def scale_16_bits(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Integers of [0, 65535] as uint8; PIL's mode I holds them in 32 bits."""
    return (values.clip(0, 65535).astype(np.uint16, copy=False) // np.uint16(257)).astype(np.uint8)


def looks_like_image(data: bytes) -> bool:
    """Whether `data` begins like a file of one of `FORMATS`."""
    Image.init()
    tests = [Image.OPEN[kind][1] for kind in FORMATS if kind in Image.OPEN]
    return any(test is not None and test(data[:16]) for test in tests)


def _read(path: Path) -> bytes:
    """A regular file's content; other files, such as pipes, are not opened."""
    name = shown(path)
    try:
        mode = path.stat().st_mode
    except PermissionError as error:
        raise ImageError("missing", f"{name}: cannot be read ({error.strerror})") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte
        raise MissingFileError(f"{name}: no such image file: give the path or URL of an image") from error
    if not stat.S_ISREG(mode):
        raise MissingFileError(f"{name}: {'a folder' if stat.S_ISDIR(mode) else 'a special file'}, not an image file")
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ImageError("missing", f"{name}: cannot be read ({error.strerror})") from error
