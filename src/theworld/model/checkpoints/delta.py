"""Finds the weights that differ from the base models (`theworld.utils.tensors.differs`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from theworld.utils.errors import TheWorldError
from theworld.utils.tensors import Snapshot, differs
from theworld.utils.weights import listed

from ..components import ENCODER, FRESH, canonical, component_of, component_table, named_components


def base_dtype(model: Any) -> torch.dtype:
    """The dtype of Gemma's weights; components that train may be held in fp32 beside them."""
    dtype = cast(nn.Embedding, model.get_input_embeddings()).weight.dtype
    return dtype if dtype.is_floating_point else model.dtype


def recorded(model: Any) -> dict[str, Snapshot]:
    """The tensors of the base models of a `TheWorld` as they were loaded, by their saved names."""
    encoder = model.model.world_encoder
    late = {} if encoder is None else {f"{ENCODER}{name}": value for name, value in encoder.late_weights.items()}
    return {**late, **model.base_tensors}


def delta_names(model: Any, values: Mapping[str, torch.Tensor] | None = None, *, thorough: bool = True) -> list[str]:
    """Names of the tensors in a delta checkpoint of a `TheWorld`, in the order of the model's parameters.

    Args:
        values: The model's tensors that a distributed trainer gathered; a missing one was not changed.
        thorough: See `differs`.
    """
    record, names = recorded(model), list[str]()
    held, stepped = set[str](model.config.changed or ()), model.config.trained_steps or {}
    for name, component, parameter in named_components(model):
        if component in FRESH or (parameter.requires_grad and component in stepped):
            names.append(name)  # even if unchanged, so that a Trainer can load this checkpoint later
        elif isinstance(parameter, DTensor) and values is None:
            # A shard cannot be compared: save it if it trains or was changed before
            if parameter.requires_grad or component in held or name in held:
                names.append(name)
        elif name in record and (values is None or name in values):
            value = parameter if values is None else values[name]
            if differs(value, record[name], thorough=thorough):
                names.append(name)
    return names


def check_expressible(model: Any, values: Mapping[str, torch.Tensor] | None) -> None:
    """Check that the saved checkpoint would load as the same model.

    Raises:
        ValueError: Parameters were added, removed or resized, or quantised ones were changed; names them.
    """
    if not model.base_tensors:
        raise TheWorldError(
            "this model was not loaded from base models, so it is unknown which weights differ from them: load it with "
            "TheWorld.from_pretrained"
        )
    table, record = component_table(model.model.world_encoder), recorded(model)
    own = {canonical(name): value for name, value in model.named_parameters()}
    both = [(name, value, record[name]) for name, value in sorted((values or own).items()) if name in record]
    problems = listed(
        {
            "added": [
                name
                for name in sorted(own.keys() - record.keys())
                if component_of(name, table) not in FRESH and not name.startswith(ENCODER)
            ],
            "removed": sorted((record.keys() | model.fresh_tensors.keys()) - own.keys()),
            "resized": [
                f"{name} {tuple(was.shape)} to {tuple(value.shape)}"
                for name, value, was in both
                if value.shape != was.shape
            ],
            "changed while quantised": [
                name for name, value, was in both if not was.dtype.is_floating_point and differs(value, was)
            ],
        }
    )
    if problems:
        raise TheWorldError(
            f"a checkpoint cannot express parameters that are {problems}. Undo this before saving (keep the vocabulary "
            "and tied embeddings of the base model, and merge adapters into an unquantised model)"
        )


def summarise(model: Any, names: Iterable[str]) -> list[str]:
    """`names` as the config lists them: components that are complete, and single parameters of the others."""
    given, parameters, listing = set(names), named_components(model), list[str]()
    for component in component_table(model.model.world_encoder):
        own = [name for name, part, _ in parameters if part == component]
        held = [name for name in own if name in given]
        listing += [component] if held and held == own else held
    return listing
