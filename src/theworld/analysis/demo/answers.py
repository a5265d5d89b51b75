"""The content of the page: two answers, the imagined frames, and the attention of the answer."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from theworld.model import TheWorld
from theworld.model.configuration_theworld import check_world_steps
from theworld.utils.errors import TheWorldError
from theworld.utils.images import open_image

from ..animate import save_rollout
from ..explain import explain
from ..explain_plots import draw_explanation
from ..guardrail import can_show
from ..imagine import decode_frames, seen_by_world

NO_IMAGE = "there is no image: upload one, or pick an example scene"


@dataclass(frozen=True)
class Scene:
    """An example: an image, a question about its future, the true answer, and the true next frames."""

    name: str
    image: Image.Image
    question: str
    answer: str
    clip: list[Image.Image]


@dataclass(frozen=True)
class Shown:
    """The content of the page so far.

    Args:
        plain: Gemma 3's answer, without world tokens.
        world: The answer with them.
        frames: The current frame as the VAE reconstructs it, and all imagined frames; empty if frames may not be
            decoded.
        attention: The attention of the answer, drawn on the frames.
    """

    plain: str | None = None
    world: str | None = None
    frames: list[Image.Image] = field(default_factory=list)
    attention: Image.Image | None = None


def answer_twice(model: TheWorld, image: Any, question: str, num_world_steps: int) -> Iterator[Shown]:
    """Ask without and with the world; yields each result as soon as it is available.

    One rollout serves the answer, the attention and the frames.

    Args:
        image: Any kind of image that `open_image` opens, or `None`.

    Raises:
        ValueError: The image is missing or cannot be read, the question is empty, or steps are out of range.
    """
    if image is None:
        raise TheWorldError(NO_IMAGE)
    image = open_image(image)
    check_world_steps(num_world_steps, model.config.max_world_steps)
    shown = Shown(plain=model.ask(image, question, use_world=False))
    yield shown
    explained = explain(model, image, question, num_world_steps=num_world_steps)
    shown = replace(shown, world=explained.answer)
    yield shown
    present = seen_by_world(model, image)
    behind = [present] * (1 + num_world_steps)
    encoder = model.model.world_encoder
    if encoder is not None and can_show(encoder, model.config.cosmos_subfolder):
        shown = replace(shown, frames=decode_frames(model, explained.latents))
        compression = model.config.world_temporal_compression
        behind = [present, *shown.frames[compression::compression]]  # the last frame of each step
        yield shown
    yield replace(shown, attention=_drawn(draw_explanation(explained, behind)))


def _drawn(figure: Any) -> Image.Image:
    """A matplotlib figure as an RGB image."""
    data = BytesIO()
    figure.savefig(data, format="png", dpi=110)
    return open_image(data.getvalue())


def animation(frames: list[Image.Image]) -> str:
    """An HTML image element that plays the frames; empty for fewer than two frames."""
    if len(frames) < 2:
        return ""
    with tempfile.TemporaryDirectory() as folder:
        data = save_rollout(frames, Path(folder, "rollout.gif")).read_bytes()
    source = f"data:image/gif;base64,{base64.b64encode(data).decode()}"
    return f'<img class="rollout" alt="the imagined frames, one after the other" src="{source}">'


__all__ = ["NO_IMAGE", "Scene", "Shown", "animation", "answer_twice"]
