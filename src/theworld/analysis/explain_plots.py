"""The figure of an explanation: attention on each latent frame, and its shares per layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from theworld.model import TheWorld
from theworld.utils.imports import require

from .animate import enlarge
from .explain import GROUPS, Explanation
from .guardrail import can_show
from .imagine import decode_frames, seen_by_world

COLUMNS = 6
"""Largest number of latent frames in a row."""

HEAT = "YlOrRd"
"""matplotlib's colours of the attention: light ones, as the grey frame below may be dark."""

COLOURS = {"world": "#d1495b", "image": "#2e86ab", "text": "#9aa5b1", "start": "#e3e7eb"}
NAMES = {"world": "world", "image": "image", "text": "text", "start": "first token"}


def frames_of(model: TheWorld, explanation: Explanation) -> list[Image.Image]:
    """The `1 + 4 K` frames of the explanation's rollout.

    Empty if they cannot be shown, because the encoder does not decode or NVIDIA's guardrail is not installed.
    """
    encoder = model.model.world_encoder
    if encoder is None or not can_show(encoder, model.config.cosmos_subfolder):
        return []
    return decode_frames(model, explanation.latents)


def frames_behind(
    model: TheWorld, image: Any, explanation: Explanation, decoded: Sequence[Image.Image] | None = None
) -> list[Image.Image]:
    """One background image per latent frame: the world encoder's input `image`, then each step's last frame.

    If imagined frames cannot be shown, all are `image`.

    Args:
        decoded: The result of `frames_of`; `None` calls it.
    """
    present = seen_by_world(model, image)
    steps, compression = explanation.grid[0] - 1, model.config.world_temporal_compression
    if decoded is None:
        decoded = frames_of(model, explanation) if steps else []
    return [present, *(decoded[compression::compression] or [present] * steps)]


def draw_explanation(explanation: Explanation, frames: Sequence[Image.Image], layer: int | None = None) -> Any:
    """A matplotlib figure.

    Above: each latent frame, and under it the mean attention of the answer's tokens to its world tokens, on one scale
    for all frames. Below: the shares of each layer's attention to world, image and text.

    Args:
        explanation: What to draw.
        frames: `T` images, as from `frames_behind`.
        layer: Draw this layer's attention; `None` draws the mean over all.

    Raises:
        ValueError: There is no such layer.
        ImportError: matplotlib is not installed.
    """
    attention = explanation.world_attention(layer).numpy()  # (T, R, C)
    scale = float(attention.max()) or 1.0  # all 0 if a layer's window has no world token
    rows = math.ceil(len(frames) / COLUMNS)
    columns = math.ceil(len(frames) / rows)
    height = 0.7 + (4.6 * rows if len(frames) > 1 else 3.2)
    figure = require("analysis", "matplotlib.figure").Figure(
        figsize=(max(7.5, 2.4 * columns + 1), height + 2.6), layout="constrained"
    )
    above, below = figure.subfigures(2, 1, height_ratios=[height, 2.6])
    above.suptitle(f"{explanation.question}\nAnswer: {explanation.answer or '(nothing)'}", fontsize=11, wrap=True)
    # Rows of frames above rows of their attention; a single frame is beside its attention
    panels = above.subplots(2 * rows, columns, squeeze=False) if columns > 1 else above.subplots(1, 2, squeeze=False).T
    for panel in panels.flat:
        panel.set_axis_off()
    for step, frame in enumerate(frames):
        row, column = divmod(step, columns)
        plain, hot = panels[2 * row, column], panels[2 * row + 1, column]
        plain.imshow(frame, interpolation="nearest")
        plain.set_title(f"step +{step}" if step else "now", fontsize=10)
        hot.imshow(attention_over(frame, attention[step], scale), interpolation="nearest")
        hot.set_title(f"{100 * attention[step].sum():.1f} % of the attention", fontsize=9)
    colours = require("analysis", "matplotlib.cm").ScalarMappable(cmap=HEAT)
    colours.set_clim(0, 100 * scale)
    bar = above.colorbar(colours, ax=panels.ravel().tolist(), shrink=0.6, aspect=30, pad=0.02)
    which = "mean over layers" if layer is None else f"layer {layer % len(explanation.sliding)}"
    bar.set_label(f"% to one world token\n({which})", fontsize=9)
    _draw_shares(below.subplots(), explanation)
    return figure


def attention_over(frame: Image.Image, attention: np.ndarray[Any, Any], scale: float) -> Image.Image:
    """The frame in grey, overlaid with the attention of each cell; opacity grows with attention.

    Args:
        frame: A frame of any size; `enlarge` enlarges a small one.
        attention: (R, C), from 0 to `scale`.
    """
    frame = enlarge(frame)
    # Black becomes a middle grey, so that colours above it can be told apart
    grey = 127.5 + np.asarray(frame.convert("L"), np.float32)[..., None] / 2  # (H, W, 1)
    cells = Image.fromarray((attention / scale).astype(np.float32)).resize(frame.size, Image.Resampling.NEAREST)
    share = np.asarray(cells)  # (H, W), from 0 to 1
    colour = 255 * require("analysis", "matplotlib").colormaps[HEAT](share)[..., :3]
    opacity = 0.8 * np.sqrt(share)[..., None]
    return Image.fromarray((grey * (1 - opacity) + colour * opacity).round().astype(np.uint8))


def _draw_shares(panel: Any, explanation: Explanation) -> None:
    """Stacked bars of each layer's attention to each group of positions."""
    shares = explanation.shares()
    numbers = np.arange(len(explanation.sliding))
    bottom = np.zeros(len(numbers))
    for name in GROUPS:
        values = 100 * np.array(shares[name])
        label = f"{NAMES[name]} ({int(explanation.groups[name].sum())})"
        panel.bar(numbers, values, bottom=bottom, color=COLOURS[name], label=label, width=0.8, edgecolor="white")
        bottom += values
    panel.set_xticks(numbers[:: max(1, len(numbers) // 12)])
    panel.tick_params(labelsize=9)
    full = [str(number) for number in numbers if not explanation.sliding[number]]
    note = f" (all but {', '.join(full)} see a window of the prompt)" if len(full) < len(numbers) else ""
    panel.set_xlabel(f"layer{note}", fontsize=9)
    panel.set_ylabel("share of the answer's\nattention, %", fontsize=9)
    panel.set_ylim(0, 100)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9, title="to (positions)")


__all__ = ["COLOURS", "NAMES", "attention_over", "draw_explanation", "frames_behind", "frames_of"]
