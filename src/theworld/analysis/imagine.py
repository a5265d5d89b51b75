"""What the world model imagines: the rollout behind an answer, decoded to pictures.

Pictures decoded from NVIDIA's weights fall under the NVIDIA Open Model Licence, which asks for its guardrail wherever
they are shown.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from theworld.model import TheWorld
from theworld.model.configuration_theworld import check_world_steps
from theworld.model.world_encoders import CosmosWorldEncoder

GAP, BACKGROUND = 4, (255, 255, 255)


@torch.no_grad()
def imagine(
    model: TheWorld, image: Any, num_world_steps: int | None = None, seed: int | None = None
) -> list[Image.Image]:
    """The frames, `1 + 4 K` of them, that the model imagines after `image`; the first is `image` as the VAE keeps it.

    The latents are those whose tokens the language model gets for the same image, steps and seed.

    Raises:
        ValueError: The world is off, or its encoder cannot decode.
    """
    encoder = model.model.world_encoder
    if not isinstance(encoder, CosmosWorldEncoder):
        raise ValueError("imagining needs a world encoder that can decode: load the model with enable_world=True")
    steps = model.config.num_world_steps if num_world_steps is None else num_world_steps
    check_world_steps(steps, model.config.max_world_steps)
    latents = encoder.encode(model.processor.world_pixels(image), steps, seed).latents
    frames = encoder.decode(latents)[0]  # (1 + 4K, 3, H, W) in [0, 1]
    return VaeImageProcessor.numpy_to_pil(VaeImageProcessor.pt_to_numpy(frames))


def contact_sheet(rows: list[list[Image.Image]], height: int = 128) -> Image.Image:
    """Rows of pictures on one sheet, every picture `height` pixels high, without smoothing."""
    scaled = [
        [frame.resize((frame.width * height // frame.height, height), Image.Resampling.NEAREST) for frame in row]
        for row in rows
    ]
    width = max(sum(frame.width + GAP for frame in row) for row in scaled) + GAP
    sheet = Image.new("RGB", (width, len(rows) * (height + GAP) + GAP), BACKGROUND)
    for index, row in enumerate(scaled):
        left = GAP
        for frame in row:
            sheet.paste(frame, (left, GAP + index * (height + GAP)))
            left += frame.width + GAP
    return sheet


__all__ = ["contact_sheet", "imagine"]
