"""The table of components: their parameters, the flags that freeze them, and their optimiser steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from theworld.utils.errors import TheWorldError, brief
from theworld.utils.optimizer_steps import after_steps
from theworld.utils.tables import text_table

from .configuration_theworld import TheWorldConfig
from .fusion import FUSIONS
from .projectors import PROJECTORS
from .world_encoders import WORLD_ENCODERS, Component, WorldEncoder

ENCODER = "model.world_encoder."

COMPONENTS: dict[str, Component] = {
    "projector": Component(("model.world_projector.", "model.world_markers.", "model.world_gate")),
    "vision": Component(("model.vision_tower.", "model.multi_modal_projector."), "freeze_gemma_vision"),
    "language_lora": Component(("model.language_model.",), "freeze_language_lora", part=".lora_"),
    "language": Component(("model.language_model.", "lm_head."), "freeze_gemma_language"),
}
"""The components of every model, by their names in `TheWorld.named_parameters()`; the world encoder adds its own."""

FRESH = ("projector", "language_lora")
"""Components that no base model has: a checkpoint always holds them."""


def component_table(encoder: WorldEncoder | None) -> dict[str, Component]:
    """`COMPONENTS` and those of the world encoder."""
    if encoder is None:
        return COMPONENTS
    own = {
        name: replace(entry, prefixes=tuple(f"{ENCODER}{prefix}" for prefix in entry.prefixes))
        for name, entry in encoder.components().items()
    }
    return {**COMPONENTS, **own}


def component_of(name: str, table: dict[str, Component]) -> str | None:
    """The component that a parameter belongs to; `None` for a module that a user added to the model."""
    for key, entry in table.items():
        if name.startswith(entry.prefixes) and entry.part in name:
            return key
    return None


def canonical(name: str) -> str:
    """The name of a parameter in a checkpoint: without the wrappers of PEFT and `torch.compile` around its module."""
    return name.replace(".base_layer.", ".").replace("._orig_mod.", ".")


def named_components(model: Any) -> list[tuple[str, str, nn.Parameter]]:
    """(name in a checkpoint, component, parameter) of every parameter; a ValueError for one without a component."""
    table, named = component_table(model.model.world_encoder), list[tuple[str, str, nn.Parameter]]()
    for name, value in model.named_parameters():
        component = component_of(name, table)
        if component is None:
            raise TheWorldError(f"parameter {name!r} belongs to no component of {', '.join(table)}")
        named.append((canonical(name), component, value))
    return named


REGISTRIES: dict[str, Any] = {"world_encoder": WORLD_ENCODERS, "projector": PROJECTORS, "fusion": FUSIONS}


def check_choice(name: str, value: Any) -> None:
    """Raise a ValueError, which names the known keys, if `value` of the config field `name` is in no registry."""
    if value not in REGISTRIES[name]:
        known = ", ".join(REGISTRIES[name])
        raise TheWorldError(
            f"{name}={brief(repr(value))}: expected one of {known}, or one that is registered in Python first"
        )


def check_choices(config: TheWorldConfig) -> None:
    """Check every field that names a registry's key, before anything is loaded; raises as `check_choice`."""
    for name in REGISTRIES:
        check_choice(name, getattr(config, name))


UNCOUNTED = "earlier stages, not counted"
"""Key of `config.trained_steps` that stands for steps of version 0.1, which did not count them."""


def count_steps(model: Any) -> None:
    """From now on, count the optimiser steps of every component of a `TheWorld` in `config.trained_steps`."""
    after_steps(model, _count_step)


def _count_step(model: Any, names: list[str]) -> None:
    table = component_table(model.model.world_encoder)
    moved = {component_of(name, table) for name in names} - {None}  # `None`: a module that a user added
    if moved:
        steps = {UNCOUNTED: 0} if model.config.trained_steps is None else model.config.trained_steps
        counted = {component: steps.get(component, 0) + 1 for component in table if component in moved}
        model.config.trained_steps = {**steps, **counted}


@dataclass(frozen=True)
class ComponentSize:
    """Parameters of one component."""

    trainable: int
    total: int

    @property
    def percentage(self) -> float:
        return 100 * self.trainable / self.total if self.total else 0.0


def component_sizes(model: Any) -> dict[str, ComponentSize]:
    """Trainable and total parameters per component, in the table's order; tied weights count once."""
    counts = {component: [0, 0] for component in component_table(model.model.world_encoder)}
    for _, component, parameter in named_components(model):
        counts[component][0] += parameter.numel() if parameter.requires_grad else 0
        counts[component][1] += parameter.numel()
    return {component: ComponentSize(*count) for component, count in counts.items() if count[1]}


class ComponentsMixin:
    """Counts and freezes the components of a model."""

    config: TheWorldConfig
    model: Any

    def get_trainable_parameters(self) -> tuple[int, int, float]:
        """(trainable, total, percentage) of all parameters."""
        sizes = component_sizes(self).values()
        whole = ComponentSize(sum(size.trainable for size in sizes), sum(size.total for size in sizes))
        return whole.trainable, whole.total, whole.percentage

    def parameter_table(self) -> str:
        """Trainable and total parameters per component, as text."""
        trainable, total, _ = self.get_trainable_parameters()
        sizes = {**component_sizes(self), "all": ComponentSize(trainable, total)}
        rows = [(name, f"{s.trainable:,}", f"{s.total:,}", f"{s.percentage:.3f}") for name, s in sizes.items()]
        return text_table(("component", "trainable", "total", "%"), rows)

    def freeze(self) -> None:
        """Set `requires_grad` of every parameter by the table and the config's `freeze_*` flags."""
        table = component_table(self.model.world_encoder)
        for _, component, parameter in named_components(self):
            if parameter.is_floating_point():  # quantised weights take no gradient
                parameter.requires_grad_(table[component].trainable(self.config))


__all__ = ["COMPONENTS", "ComponentsMixin", "component_of", "component_sizes", "component_table", "named_components"]
