"""The vision stage trains SigLIP and Gemma's projector with dense labels.

Temporary heads predict from each image token which classes cover its cells and where the token lies. The class of every
pixel is known from the renderer. Answers alone are too weak a signal for such a small vision tower.

Shapes: `B` images, `N` image tokens per image (16 for 32 x 32 pixels), `D` width of the language model, `S` cells per
side of a token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Gemma3ForConditionalGeneration

from theworld.utils.errors import TheWorldError

from .conversations import frame_weights
from .fit import Draws, Group, Progress, fit
from .foreign import foreign_image
from .render import CLASSES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    from .scenes import SceneSet

IMAGE_SIZE = 32
TOKEN_PIXELS = 8  # side of the square that an image token covers, the same as of a latent pixel
IMAGE_TOKENS = (IMAGE_SIZE // TOKEN_PIXELS) ** 2
CELLS = 4  # per side of an image token: a token covers 8 x 8 pixels, a cell 2 x 2
IMAGES_PER_STEP = 32


def to_pixels(frames: NDArray[np.uint8]) -> Tensor:
    """Convert uint8 (B, H, W, 3) to float (B, 3, H, W) in [-1, 1], like the image processor."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1


def cell_classes(classes: NDArray[np.uint8]) -> Tensor:
    """Return the share of every class in every cell of every image token.

    `classes` (B, H, W) holds class ids. Returns (B, N, S * S, classes), which sums to 1 over the last axis.
    """
    count, side = len(classes), classes.shape[1] // TOKEN_PIXELS
    shares = F.one_hot(torch.from_numpy(classes).long(), len(CLASSES)).float()
    pixels = classes.shape[1] // (side * CELLS)
    shares = shares.view(count, side, CELLS, pixels, side, CELLS, pixels, len(CLASSES)).mean((3, 6))
    return shares.permute(0, 1, 3, 2, 4, 5).reshape(count, side * side, CELLS * CELLS, len(CLASSES))


def image_tokens(model: Gemma3ForConditionalGeneration, pixels: Tensor) -> Tensor:
    """Return the image tokens (B, N, D), the inputs of the language model, of pixels (B, 3, H, W) in [-1, 1]."""
    features = cast("BaseModelOutputWithPooling", model.get_image_features(pixels))
    return cast(Tensor, features.pooler_output)


class VisionHeads(nn.Module):
    """Heads of the vision stage. They predict from an image token the classes in its cells, and its position."""

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        self.cells = nn.Linear(width, CELLS * CELLS * len(CLASSES))
        self.place = nn.Linear(width, tokens)

    def forward(self, tokens: Tensor, shares: Tensor, weights: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Return loss and figures for `tokens` (B, N, D), `shares` (B, N, S * S, classes), `weights` (classes,)."""
        logits = self.cells(tokens).float().view(shares.shape)
        weighted = shares * weights
        cells = -(weighted * logits.log_softmax(-1)).sum() / weighted.sum()
        places = torch.arange(tokens.shape[1], device=tokens.device).expand(len(tokens), -1)
        place = F.cross_entropy(self.place(tokens).float().flatten(0, 1), places.flatten())
        things = shares[..., 1:].sum(-1) > 0.5  # class 0 is the background
        right = (logits.argmax(-1) == shares.argmax(-1))[things].float().mean()
        return cells + 0.1 * place, {"cells": cells.item(), "place": place.item(), "right": right.item()}


def train_vision(
    model: Gemma3ForConditionalGeneration,
    scenes: SceneSet,
    *,
    steps: int,
    learning_rate: float = 1.5e-3,
    progress: Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Train the vision tower and Gemma's projector on the class maps of single frames, on the device of `model`.

    Args:
        progress: Progress file, see `fit`.

    Returns the figures of `fit`.
    """
    # 1. Heads that are only used here, and weights of rare classes and of first and last frames
    draws, device = Draws(seed), model.device
    heads = VisionHeads(model.config.get_text_config().hidden_size, cast(int, model.config.mm_tokens_per_image)).to(
        device
    )
    frequency = np.bincount(scenes.classes[:500].ravel(), minlength=len(CLASSES)) / scenes.classes[:500].size
    weights = torch.from_numpy(1 / np.sqrt(frequency + 1e-4)).float().to(device)
    of_frames = frame_weights(scenes.frames.shape[1], 0.25, 0.25)

    # 2. Class maps of random frames, predicted from their image tokens
    def step_function(_: int) -> tuple[Tensor, dict[str, float]]:
        clips = np.sort(draws.numpy.integers(len(scenes.records), size=IMAGES_PER_STEP))
        frames = draws.numpy.choice(len(of_frames), size=IMAGES_PER_STEP, p=of_frames)
        pixels = to_pixels(scenes.frames[clips, frames]).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            tokens = image_tokens(model, pixels)
        loss, figures = heads(tokens.float(), cell_classes(scenes.classes[clips, frames]).to(device), weights)
        return loss, {**figures, "samples": IMAGES_PER_STEP}

    vision = [*model.model.vision_tower.parameters(), *model.model.multi_modal_projector.parameters()]
    return fit(
        "vision",
        step_function,
        [Group([*vision, *heads.parameters()], learning_rate)],
        steps=steps,
        clip=5.0,
        progress=None if progress is None else Progress(progress, draws),
    )


@torch.no_grad()
def encode_images(model: Gemma3ForConditionalGeneration, scenes: SceneSet, images: Sequence[tuple[int, int]]) -> Tensor:
    """Return the image tokens (images, N, D) of (clip, frame) pairs. Repeated pairs are encoded once.

    A negative clip is a foreign image, see `Conversation`.
    """
    unique, size = list(dict.fromkeys(images)), scenes.frames.shape[2]
    seen = [scenes.frames[clip, frame] if clip >= 0 else foreign_image(-1 - clip, size) for clip, frame in unique]
    tokens = image_tokens(model, to_pixels(np.stack(seen)).to(model.device))
    place = {image: index for index, image in enumerate(unique)}
    return tokens[[place[image] for image in images]]


def take_vision(model: Gemma3ForConditionalGeneration, start_from: Path) -> None:
    """Copy the vision tower and Gemma's projector of another nano Gemma.

    Raises:
        ValueError: The weights have other shapes.
    """
    other = Gemma3ForConditionalGeneration.from_pretrained(start_from, dtype=torch.float32).model
    for part in ("vision_tower", "multi_modal_projector"):
        own, given = (getattr(one, part).state_dict() for one in (model.model, other))
        shapes = [{name: tuple(value.shape) for name, value in state.items()} for state in (own, given)]
        for name, shape in shapes[0].items():
            if shapes[1].get(name) != shape:
                told = f"{part}.{name} has the shape {shapes[1].get(name)}, expected {shape}"
                raise TheWorldError(f"{start_from}: {told}; leave start_from out, or set `vision` to its sizes")
        getattr(model.model, part).load_state_dict(given)
