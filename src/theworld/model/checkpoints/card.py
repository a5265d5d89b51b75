"""The model card of a checkpoint: base models, how to load it, and licences."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jinja2 import Template

from theworld.constants import NANO
from theworld.utils.hub import is_local, shown

from ..components import UNCOUNTED, canonical, component_sizes
from ..world_encoders import WORLD_ENCODERS


def model_card(
    model: Any, names: Iterable[str], *, full: bool = False, training: str = "", repository: str | None = None
) -> str:
    """Markdown card of `model`. Its numbers are computed from the model; it contains no local path.

    Args:
        names: Names of the tensors in its delta.
        full: Whether the checkpoint holds the base models too.
        training: Markdown about the training run, ending with an empty line.
        repository: The name that users load it by.
    """
    config, held = model.config, set(names)
    encoder = WORLD_ENCODERS[config.world_encoder]
    world = config.cosmos_model_name if encoder.probe_file else None  # an encoder without files has no repository
    bases = [name for name in (config.gemma_model_name, world) if name]
    card = Template(Path(__file__).with_suffix(".md").read_text("utf-8"), trim_blocks=True, keep_trailing_newline=True)
    return card.render(
        config=config,
        full=full,
        training=training,
        repository=repository or "path or id of this repository",
        on_hub=[name for name in bases if not is_local(name)],
        nano=bool(world) and all(name.startswith(f"{NANO}/") for name in bases),
        gemma=shown(config.gemma_model_name or "unnamed"),
        licence=encoder.licence,
        cosmos=shown(world) if world else f"world encoder {config.world_encoder}, without a repository",
        trained=_steps(recorded_steps(model)),
        delta=sum(value.numel() for name, value in model.named_parameters() if canonical(name) in held),
        total=sum(size.total for size in component_sizes(model).values()),
    )


def recorded_steps(model: Any) -> dict[str, int] | None:
    """`trained_steps` for a checkpoint; `None` if world weights changed without counted optimiser steps."""
    steps = model.config.trained_steps
    return None if model.world_is_trained and not (steps or {}).get("projector") else steps


def _steps(trained_steps: dict[str, int] | None) -> str:
    """The optimiser steps of every component that was trained."""
    if trained_steps is None:
        return "not recorded"
    counted = {name: f"{name}: {steps:,}" for name, steps in trained_steps.items() if name != UNCOUNTED}
    return ", ".join([*counted.values(), *(trained_steps.keys() - counted.keys())]) or "none, never trained"
