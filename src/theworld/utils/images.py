"""Pictures of every mode as RGB, in one way for prompts and for training data."""

from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode as RGB: upright by its EXIF, 16 bits scaled to 8, transparency over white.

    Over white is what transformers' own image processors do.

    Raises:
        ValueError: It holds floats, which have no fixed range.
        OSError: Its file is cut or damaged, which PIL sees only here.
    """
    if image.mode == "F":
        raise ValueError("a float image has no fixed range; expected 8 or 16 bits a channel")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # PIL would clip 16 bits to white
        image = Image.fromarray(scale_16_bits(np.asarray(image)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def scale_16_bits(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Integers of [0, 65535] as uint8."""
    return (values.astype(np.int64).clip(0, 65535) // 257).astype(np.uint8)

URL_TIMEOUT = 30
def open_image(image: Any) -> Image.Image:
    """One image of any accepted kind as an RGB PIL image.

    Args:
        image: A PIL image; a path, URL or data URL; a uint8 array (H, W, 3) or (H, W); a tensor (3, H, W), uint8 or
            float in [0, 1].

    Raises:
        ValueError: It is no readable image, or its shape or range is not one of the above.
        FileNotFoundError: The path does not exist.
    """
    if isinstance(image, Image.Image):
        return _rgb(image, "the image")
    if isinstance(image, str | Path):
        return _open(image)
    if isinstance(image, torch.Tensor):
        image = _tensor_to_array(image)
    if isinstance(image, np.ndarray):
        return _array_open_image(image)
    raise ValueError(f"image of type {type(image).__name__}: expected a PIL image, path, URL, array or tensor")


def flatten_images(images: Any) -> list[Image.Image]:
    """Images nested in any way, batched tensors (B, C, H, W) included, as one flat list of RGB PIL images."""
    if images is None:
        return []
    if isinstance(images, torch.Tensor | np.ndarray) and images.ndim == 4:
        return [open_image(image) for image in images]
    if isinstance(images, list | tuple):
        return [flat for image in images for flat in flatten_images(image)]
    return [open_image(images)]


def _open(source: str | Path) -> Image.Image:
    text = str(source)
    if text.startswith(("http://", "https://", "data:")):
        return _decode(_fetch(text), text[:80])
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"{text}: {'a folder, not an image file' if path.is_dir() else 'no such image file'}")
    return _decode(path, text)


def _fetch(url: str) -> BytesIO:
    try:
        with urlopen(url, timeout=URL_TIMEOUT) as answer:
            return BytesIO(answer.read())
    except OSError as error:  # URLError is one
        raise ValueError(
            f"{url[:80]}: cannot be fetched ({error}); check the address or save the image first"
        ) from error


def _decode(file: Path | BytesIO, name: str) -> Image.Image:
    try:
        return _rgb(Image.open(file), name)
    except UnidentifiedImageError as error:
        raise ValueError(f"{name}: not an image that PIL can read (expected PNG, JPEG, WebP, ...)") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: the image is too large to open safely ({error}); scale it down first") from error
    except OSError as error:
        raise ValueError(f"{name}: the image is damaged ({error}); export it again") from error


def _rgb(image: Image.Image, name: str) -> Image.Image:
    try:
        return to_rgb(image)
    except OSError as error:  # PIL decodes here, so a truncated file shows only now
        raise ValueError(f"{name}: the image is damaged ({error}); export it again") from error
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _tensor_to_array(image: torch.Tensor) -> np.ndarray:
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"image tensor of shape {tuple(image.shape)}: expected (3, H, W)")
    if image.is_floating_point():
        low, high = image.min().item(), image.max().item()
        if not (low >= 0 and high <= 1):  # so that NaN fails too
            raise ValueError(f"float image tensor with values in [{low:.3g}, {high:.3g}]: expected [0, 1]")
        image = (image * 255).round().to(torch.uint8)
    return image.permute(1, 2, 0).cpu().numpy()


def _array_open_image(image: np.ndarray) -> Image.Image:
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)):
        raise ValueError(f"image array of shape {image.shape} and type {image.dtype}: expected uint8 (H, W, 3)")
    return to_rgb(Image.fromarray(image))


