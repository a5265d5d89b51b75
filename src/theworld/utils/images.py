"""`open_image`, which opens every image of the package, from any of the accepted kinds.

Its limits are in `image_decoding`.

Shape legend: `B` images, `C` channels (1, 3 or 4), `H` rows, `W` columns.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
import torch
from PIL import Image

from .image_decoding import (
    MAX_BYTES,
    ImageError,
    check_size,
    looks_like_image,
    open_header,
    scale_16_bits,
    shown,
    to_rgb,
)
from .public_http import FetchError, fetch

URL_TIMEOUT = 30.0
"""Seconds for one URL, including redirects."""

SOURCES = ("image", "bytes", "url", "image_url", "path", "base64")
"""Keys of a mapping that can hold its image; the first that is not None counts."""

_URLS = ("http://", "https://", "data:")
_ACCEPTED = "a PIL image, file path, URL, data URI, base64 text, bytes, array, tensor or a mapping that holds one"


def open_image(image: Any) -> Image.Image:
    """One image of any accepted kind as RGB.

    Rotated by its EXIF tag; the first frame of an animation; white behind transparency; 16 bits scaled to 8.

    Args:
        image: A PIL image; a file path; a public http(s) URL; a data URI; base64 text; the bytes of a file; a uint8 or
            uint16 array (H, W) or (H, W, C); a tensor (C, H, W), uint8 or float in [0, 1]; the {"bytes", "path"} of
            Hugging Face datasets; the content of a chat message, as {"type": "image", "url": ...} with one of
            `SOURCES`. `url` and `image_url` hold a URL or a data URI, never a file.

    Returns:
        A new image; `image` itself if it is upright RGB in memory already.

    Raises:
        ImageError: The image cannot be read, or exceeds the limits of `image_decoding`.
        FileNotFoundError: The path does not exist, or is not a regular file.
    """
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if isinstance(image, Path):
        return to_rgb(open_header(image), shown(image))
    if isinstance(image, str):
        return _open_text(image)
    if isinstance(image, bytes | bytearray):
        return to_rgb(open_header(image))
    if isinstance(image, Mapping):
        return _open_mapping(image)
    if isinstance(image, torch.Tensor):
        return to_rgb(_array_to_pil(_tensor_to_array(image)))
    if isinstance(image, np.ndarray):
        return to_rgb(_array_to_pil(image))
    raise ImageError("not_an_image", f"image of type {type(image).__name__}: expected {_ACCEPTED}")


def flatten_images(images: Any) -> list[Image.Image]:
    """Images in nested lists, and batches (B, C, H, W) or (B, H, W, C), as one flat list of RGB PIL images."""
    if images is None:
        return []
    if isinstance(images, list | tuple) or (isinstance(images, torch.Tensor | np.ndarray) and images.ndim == 4):
        return [flat for image in images for flat in flatten_images(image)]
    return [open_image(images)]


def _open_text(text: str) -> Image.Image:
    """The image of a URL, a data URI, a file path or base64 text, tried in this order."""
    if text[:8].lower().startswith(_URLS):
        return _open_url(text)
    if not text:
        raise ImageError("not_an_image", "the image is empty text; expected a path, a URL or base64")
    try:
        return open_image(Path(text))
    except FileNotFoundError:
        data = _from_base64(text)
        if data is None or not looks_like_image(data):
            raise
    return to_rgb(open_header(data))


def _open_url(url: str) -> Image.Image:
    name = shown(url)
    if not url[:8].lower().startswith(_URLS):
        raise ImageError("bad_url", f"{name}: not a URL; expected http://, https:// or data:, and a file under 'path'")
    if url[:5].lower() == "data:":
        kind, _, content = url[5:].partition(",")
        data = unquote_to_bytes(content)
        if kind.lower().endswith(";base64"):
            data = _from_base64(data)
        if data is None:
            raise ImageError("not_an_image", f"{name}: this data URI is not base64")
        return to_rgb(open_header(data, name), name)
    try:
        data = fetch(url, timeout=URL_TIMEOUT, max_bytes=MAX_BYTES)
    except FetchError as error:
        raise ImageError(
            error.cause, f"{name}: cannot be fetched ({error}); check the address or save the image first"
        ) from error
    return to_rgb(open_header(data, name), name)


def _open_mapping(content: Mapping[str, Any]) -> Image.Image:
    """The image of a mapping; each key accepts its own kind only."""
    key = next((key for key in SOURCES if content.get(key) is not None), None)
    if key is None:
        keys = ", ".join(map(str, content)) or "no keys"
        raise ImageError("not_an_image", f"an image content with {keys}: expected one of {', '.join(SOURCES)}")
    value = content[key]
    if key == "image" or (key == "url" and isinstance(value, Image.Image)):
        return open_image(value)
    if key == "image_url" and isinstance(value, Mapping):
        value = value.get("url")
    if key in ("url", "image_url") and isinstance(value, str):
        return _open_url(value)
    if key == "path" and isinstance(value, str | Path):
        return open_image(Path(value))
    if key == "base64" and isinstance(value, str):
        value = _from_base64(value)
    if key in ("bytes", "base64") and isinstance(value, bytes | bytearray):
        return to_rgb(open_header(value))
    raise ImageError("not_an_image", f"{shown(repr(content[key]))}: not a valid value of {key!r} in an image content")


def _from_base64(text: str | bytes) -> bytes | None:
    """The bytes of base64 text, which may have line breaks and lack padding; `None` for any other text."""
    try:
        packed = b"".join((text.encode("ascii") if isinstance(text, str) else text).split())
        return base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        return None


def _tensor_to_array(image: torch.Tensor) -> np.ndarray[Any, Any]:
    """A tensor (C, H, W) as a uint8 array (H, W, C)."""
    shape = tuple(image.shape)
    if len(shape) != 3 or shape[0] not in (1, 3, 4):
        raise ImageError("not_an_image", f"image tensor of shape {shape}: expected (3, H, W)")
    check_size(shape[2], shape[1], "the image tensor")
    if image.is_floating_point():
        low, high = image.min().item(), image.max().item()
        if not (low >= 0 and high <= 1):  # so that NaN fails too
            raise ImageError(
                "not_an_image", f"float image tensor with values in [{low:.3g}, {high:.3g}]: expected [0, 1]"
            )
        image = (image.detach().float() * 255).round().to(torch.uint8)
    return image.permute(1, 2, 0).cpu().numpy()


def _array_to_pil(values: np.ndarray[Any, Any]) -> Image.Image:
    """An array (H, W) or (H, W, C) of uint8 or uint16 as a PIL image of 8 bits."""
    shape, kind = values.shape, values.dtype
    if kind not in (np.uint8, np.uint16) or len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)):
        raise ImageError(
            "not_an_image", f"image array of shape {shape} and type {kind}: expected uint8 or uint16 (H, W, 3)"
        )
    check_size(shape[1], shape[0], "the image array")
    values = values[..., 0] if shape[2:] == (1,) else values
    return Image.fromarray(scale_16_bits(values) if kind == np.uint16 else values)


def open_message_images(conversation: Any) -> Any:
    """A conversation, or several, with each image as {"type": "image", "image": PIL image}.

    transformers would pass on the values of all source keys, also `None`, without their names.
    """
    if isinstance(conversation, list | tuple):
        return [open_message_images(part) for part in conversation]
    if not isinstance(conversation, Mapping) or not isinstance(conversation.get("content"), list | tuple):
        return conversation
    return {**conversation, "content": [_open_content(content) for content in conversation["content"]]}


def _open_content(content: Any) -> Any:
    if not isinstance(content, Mapping) or content.get("type") not in ("image", "image_url"):
        return content
    rest = {name: value for name, value in content.items() if name not in SOURCES}
    if all(content.get(name) is None for name in SOURCES):  # its image is given outside of the messages
        return rest
    return {**rest, "type": "image", "image": open_image(content)}
