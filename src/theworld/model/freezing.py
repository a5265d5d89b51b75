"""One table: which parameters form a component, and when each trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from .configuration_theworld import TheWorldConfig
    from .modeling_theworld import TheWorld


@dataclass(frozen=True)
class Component:
    """A named set of parameters.

    Args:
        prefixes: Beginnings of the parameters' names in `TheWorld.named_parameters()`.
        freeze_flag: The config field that freezes it; `None` for what always or never trains.
        trains: Whether it trains when no flag freezes it.
        part: What those names also contain.
    """

    prefixes: tuple[str, ...]
    freeze_flag: str | None = None
    trains: bool = True
    part: str = ""

    def trainable(self, config: TheWorldConfig) -> bool:
        return self.trains and not (self.freeze_flag is not None and getattr(config, self.freeze_flag))


COMPONENTS: dict[str, Component] = {
    "projector": Component(("model.world_projector.", "model.world_markers.")),
    "vision": Component(("model.vision_tower.", "model.multi_modal_projector."), "freeze_gemma_vision"),
    "language_lora": Component(("model.language_model.",), "freeze_language_lora", part=".lora_"),
    "language": Component(("model.language_model.", "lm_head."), "freeze_gemma_language"),
    # Run between frames only, and a world encoder encodes one: without a gradient, DDP would refuse them
    "vae_temporal": Component(("model.world_encoder.vae.encoder.",), trains=False, part=".time_conv."),
    "vae_encoder": Component(
        ("model.world_encoder.vae.encoder.", "model.world_encoder.vae.quant_conv."), "freeze_cosmos_vae"
    ),
    "vae_decoder": Component(
        ("model.world_encoder.vae.decoder.", "model.world_encoder.vae.post_quant_conv."), trains=False
    ),
    "world_transformer": Component(("model.world_encoder.transformer.",), trains=False),
}


def component_of(name: str) -> str:
    """The component that a parameter belongs to.

    Raises:
        KeyError: It belongs to none.
    """
    for component, entry in COMPONENTS.items():
        if name.startswith(entry.prefixes) and entry.part in name:
            return component
    raise KeyError(f"parameter {name!r} belongs to no component of {', '.join(COMPONENTS)}")


def apply_freezing(model: TheWorld) -> None:
    """Set `requires_grad` of every parameter by the table, and remember in the config what has ever trained."""
    trainable = {name for name, component in COMPONENTS.items() if component.trainable(model.config)}
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():  # quantised weights take no gradient
            parameter.requires_grad_(component_of(name) in trainable)
    record_trained(model)


def record_trained(model: TheWorld) -> None:
    """Add what trains now to the config's `trained_components`: it then stays in every later checkpoint."""
    training = {component_of(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
    ever = training.union(model.config.trained_components or ())
    model.config.trained_components = [name for name in COMPONENTS if name in ever]


@dataclass(frozen=True)
class ComponentSize:
    """Parameters of one component."""

    trainable: int
    total: int

    @property
    def percentage(self) -> float:
        return 100 * self.trainable / self.total if self.total else 0.0


def component_sizes(model: nn.Module) -> dict[str, ComponentSize]:
    """Trainable and total parameters per component, in the table's order; tied weights count once."""
    counts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        count = counts.setdefault(component_of(name), [0, 0])
        count[0] += parameter.numel() if parameter.requires_grad else 0
        count[1] += parameter.numel()
    return {name: ComponentSize(*counts[name]) for name in COMPONENTS if name in counts}


def parameter_table(model: nn.Module) -> str:
    """The sizes as a table for people."""
    sizes = component_sizes(model)
    total = ComponentSize(sum(s.trainable for s in sizes.values()), sum(s.total for s in sizes.values()))
    lines = [f"{'component':<18}{'trainable':>16}{'total':>16}{'%':>9}"]
    for name, size in {**sizes, "all": total}.items():
        lines.append(f"{name:<18}{size.trainable:>16,}{size.total:>16,}{size.percentage:>9.3f}")
    return "\n".join(lines)


__all__ = ["COMPONENTS", "apply_freezing", "component_of", "component_sizes", "parameter_table", "record_trained"]
