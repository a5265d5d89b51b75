"""Finds what differs from the base models, by comparison (`theworld.utils.tensors.differs`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from theworld.utils.tensors import Snapshot, differs, snapshot
from theworld.utils.weights import shorten

from ..components import ENCODER, FRESH, component_of, component_table, find_component
from .names import canonical


def recorded(model: Any) -> dict[str, Snapshot]:
    """The tensors of the base models of a `TheWorld` as they were loaded, by their saved names."""
    encoder = model.model.world_encoder
    late = {} if encoder is None else {f"{ENCODER}{name}": value for name, value in encoder.late_weights.items()}
    return {**late, **model.base_tensors}


def remember(parameters: Iterable[tuple[str, torch.Tensor]]) -> dict[str, Snapshot]:
    """Record named tensors as they are now."""
    return {canonical(name): snapshot(value) for name, value in parameters}


def delta_names(model: Any, values: Mapping[str, torch.Tensor] | None = None) -> list[str]:
    """Names of what a delta checkpoint of a `TheWorld` holds, in the order of the model's parameters.

    Args:
        values: The model's tensors as a distributed trainer gathered them; what is missing there was not changed.

    Raises:
        ValueError: The model has parameters that a delta cannot express; names them.
    """
    table, record = component_table(model.model.world_encoder), recorded(model)
    held, names = set[str](model.config.changed or ()), list[str]()
    stepped = model.config.trained_steps or {}
    for name, parameter in model.named_parameters():
        name, component = canonical(name), component_of(name, table)
        if component in FRESH or (parameter.requires_grad and component in stepped):
            names.append(name)  # also if it did not change, so that a Trainer can load this checkpoint later
        elif isinstance(parameter, DTensor) and values is None:
            # A shard cannot be compared: take what trains, or was changed before
            if parameter.requires_grad or component in held or name in held:
                names.append(name)
        elif name in record and (values is None or name in values):
            value = parameter if values is None else values[name]
            if differs(value, record[name], thorough=not model.training):
                names.append(name)
    return names


def check_expressible(model: Any, values: Mapping[str, torch.Tensor] | None) -> None:
    """Refuse to save what would load to another model.

    Raises:
        ValueError: Parameters were added, removed or resized, or quantised ones were changed; names them.
    """
    if not model.base_tensors:
        raise ValueError(
            "this model was not loaded from base models, so it is unknown what differs from them: load it with "
            "TheWorld.from_pretrained"
        )
    table, record = component_table(model.model.world_encoder), recorded(model)
    current = {canonical(name): value for name, value in (values or dict(model.named_parameters())).items()}
    own = {canonical(name) for name, _ in model.named_parameters()}
    problems = {
        "added": [
            name
            for name in sorted(own - record.keys())
            if find_component(name, table) not in FRESH and not name.startswith(ENCODER)
        ],
        "removed": sorted((record.keys() | model.fresh_tensors.keys()) - own),
        "resized": [
            f"{name} {tuple(record[name].shape)} to {tuple(current[name].shape)}"
            for name in sorted(record.keys() & current.keys())
            if current[name].shape != record[name].shape
        ],
        "changed while quantised": [
            name
            for name in sorted(record.keys() & current.keys())
            if not record[name].dtype.is_floating_point and differs(current[name], record[name])
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {shorten(keys)}" for kind, keys in problems.items() if keys)
        raise ValueError(
            f"a checkpoint cannot express parameters that are {listed}. Undo it before saving (keep the vocabulary and "
            "tied embeddings of the base model, and merge adapters into an unquantised model)"
        )


def summarise(model: Any, names: Iterable[str]) -> list[str]:
    """`names` as the config lists them: components that are complete, and single parameters of the others."""
    table, given = component_table(model.model.world_encoder), set(names)
    members: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        members.setdefault(component_of(name, table), []).append(canonical(name))
    listed: list[str] = []
    for component in table:
        own = members.get(component, [])
        held = [name for name in own if name in given]
        listed += [component] if held and len(held) == len(own) else held
    return listed


def expected_names(model: Any, changed: Iterable[str]) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """The parameters that a checkpoint whose config lists `changed` must hold, by their saved names."""
    table, held = component_table(model.model.world_encoder), set(changed)
    for name, parameter in model.named_parameters():
        if component_of(name, table) in held or canonical(name) in held:
            yield canonical(name), parameter


__all__ = ["check_expressible", "delta_names", "expected_names", "remember", "summarise"]
