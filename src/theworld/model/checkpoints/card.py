"""The card that is written beside a checkpoint: what it is made of, how to load it, whose licences hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from theworld.constants import NANO

from ..components import component_sizes
from .delta import delta_names
from .names import canonical

CARD = Path(__file__).with_suffix(".md").read_text(encoding="utf-8")

TERMS = """\
The base models keep their own terms, which this card does not replace: Gemma is provided under and subject to the Gemma
Terms of Use (ai.google.dev/gemma/terms); Cosmos-Predict2 under the NVIDIA Open Model Licence, which asks for a
guardrail where its video is shown."""
NANO_TERMS = "The base models ship with the theworld package, trained from nothing, under its MIT licence."
LICENCE = """\
license: other
license_name: gemma-terms-and-nvidia-open-model-licence
license_link: https://ai.google.dev/gemma/terms
"""

DELTA = """\
This repository holds what differs from its two base models;
both are loaded with it."""
FULL = "This repository holds the base models as well."


def model_card(model: Any, *, full: bool = False, training: str = "", repository: str | None = None) -> str:
    """Markdown card of `model`, with numbers computed from it.

    Only base models that the Hub knows are linked there, and no path of this machine is told.

    Args:
        full: Whether the base models lie beside it.
        training: Markdown about the run that it comes from, ended by an empty line.
        repository: What it will be loaded by.
    """
    config = model.config
    sizes = component_sizes(model)
    held, parameters = set(delta_names(model)), dict(model.named_parameters())
    bases = [name for name in (config.gemma_model_name, config.cosmos_model_name) if name]
    on_hub = [name for name in bases if not is_local(name)]
    nano = all(name.startswith(f"{NANO}/") for name in bases)
    return CARD.format(
        bases="".join(["base_model:\n", *(f"- {name}\n" for name in on_hub)]) if on_hub else "",
        licence="" if nano else LICENCE,
        terms=NANO_TERMS if nano else TERMS,
        training=training,
        repository=repository or "path or id of this repository",
        contents=FULL if full else DELTA,
        gemma=shown(config.gemma_model_name or "unnamed"),
        cosmos=shown(config.cosmos_model_name),
        trained=steps_of(config.trained_steps),
        delta=sum(value.numel() for name, value in parameters.items() if canonical(name) in held),
        total=sum(size.total for size in sizes.values()),
        position=config.world_position,
        attention=config.world_attention,
        tokens=config.world_tokens_per_frame,
        steps=config.num_world_steps,
        max_steps=config.max_world_steps,
    )


def steps_of(trained_steps: dict[str, int] | None) -> str:
    """The optimiser steps of every component that was trained."""
    if trained_steps is None:
        return "not recorded"
    return ", ".join(f"{name}: {steps:,}" for name, steps in trained_steps.items()) or "none, never trained"


def is_local(name: str) -> bool:
    """Whether `name` is a folder or file of this machine, or comes with the package, and is nothing on the Hub."""
    return name == NANO or name.startswith((f"{NANO}/", "/", ".", "~")) or Path(name).exists()


def shown(name: str) -> str:
    """`name` without the folders of this machine that lead to it."""
    return Path(name).name if is_local(name) and not name.startswith(NANO) else name


__all__ = ["is_local", "model_card", "shown"]
