"""Pictures of every mode as RGB, in one way for prompts and for training data."""

from typing import Any

import numpy as np
from PIL import Image, ImageOps


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
