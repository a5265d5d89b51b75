"""The content of the page: two answers, the imagined frames, and the attention of the answer."""

from __future__ import annotations

import base64
import html
import tempfile
from collections.abc import Iterator, Sequence
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
from ..explain import GROUPS, Explanation, explain
from ..explain_plots import COLOURS, NAMES, attention_over, frames_behind, frames_of

MAX_SIDE = 480  # pixels of a frame with its attention
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
        attention: The attention of the answer as HTML: drawn on the frames, and as shares of every layer.
    """

    plain: str | None = None
    world: str | None = None
    frames: list[Image.Image] = field(default_factory=list)
    attention: str | None = None


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
    if frames := frames_of(model, explained):
        shown = replace(shown, frames=frames)
        yield shown
    behind = frames_behind(model, image, explained, frames)
    yield replace(shown, attention=attention_page(explained, behind))


def attention_page(explained: Explanation, behind: Sequence[Image.Image]) -> str:
    """HTML that takes the width and the colours of the page around it: text stays text on a phone and in the dark.

    Args:
        behind: `T` images to draw on, as of `frames_behind`.
    """
    # 1. Each latent frame with its attention, on one scale for all
    attention = explained.world_attention().numpy()  # (T, R, C)
    scale = float(attention.max()) or 1.0
    figures: list[str] = []
    for step, frame in enumerate(behind):
        small, data = frame.copy(), BytesIO()
        small.thumbnail((MAX_SIDE, MAX_SIDE))
        attention_over(small, attention[step], scale).save(data, "PNG")
        told = f"{f'step +{step}' if step else 'now'}: {100 * attention[step].sum():.1f} %"
        figures.append(f'<figure><img alt="attention, {told}" src="{_uri(data.getvalue(), "png")}">')
        figures[-1] += f"<figcaption>{told}</figcaption></figure>"
    # 2. The shares of each layer, as a bar
    shares = explained.shares()
    bars: list[str] = []
    for layer in range(len(explained.sliding)):
        widths = {name: 100 * shares[name][layer] for name in GROUPS}
        title = ", ".join(f"{NAMES[name]} {width:.0f} %" for name, width in widths.items())
        parts = (f'<i style="width:{width:.2f}%;background:{COLOURS[name]}"></i>' for name, width in widths.items())
        bars.append(f'<div class="layer" title="{title}"><span>layer {layer}</span><b>{"".join(parts)}</b></div>')
    keys = (f'<span><i style="background:{COLOURS[name]}"></i>{NAMES[name]}</span>' for name in GROUPS)
    answer = html.escape(explained.answer or "(nothing)")
    return (
        f"<p>Share of the attention of the answer <strong>{answer}</strong> that goes to the world tokens of each "
        "latent frame, mean over layers. Yellow cells get little of it, red ones much.</p>"
        f'<div class="looked">{"".join(figures)}</div>'
        f'<p>Share of each layer that goes to</p><p class="keys">{"".join(keys)}</p>{"".join(bars)}'
    )


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def animation(frames: list[Image.Image]) -> str:
    """An HTML image element that plays the frames; empty for fewer than two frames."""
    if len(frames) < 2:
        return ""
    with tempfile.TemporaryDirectory() as folder:
        data = save_rollout(frames, Path(folder, "rollout.gif")).read_bytes()
    return f'<img class="rollout" alt="the imagined frames, one after the other" src="{_uri(data, "gif")}">'


__all__ = ["NO_IMAGE", "Scene", "Shown", "animation", "answer_twice", "attention_page"]
