"""What of a model differs from its base models, told by comparison.

When a base model is loaded, the version counter, a hash and a few values of each tensor are kept. Later a tensor is
unchanged if its hash is still the same. PyTorch moves the counter with every in-place operation, except with those
through `.data`, which PEFT uses to merge adapters. So while a model trains, a tensor whose counter stands still is
compared by the kept values alone, which a merge moves; otherwise all bytes are hashed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.distributed.tensor import DTensor

from theworld.utils.tensors import content_digest, sampled

from ..components import ENCODER, FRESH, component_of, component_table
from .names import canonical

SHOWN_KEYS = 8


@dataclass(frozen=True)
class BaseTensor:
    """What is remembered of a tensor of a base model.

    Args:
        shape: Its shape.
        dtype: Its type.
        version: PyTorch's counter of in-place changes.
        digest: Of its bytes; `None` where they are not in memory.
        sample: A few of its values, on the CPU.
    """

    shape: torch.Size
    dtype: torch.dtype
    version: int
    digest: str | None
    sample: torch.Tensor | None


def remember(parameters: Iterable[tuple[str, torch.Tensor]]) -> dict[str, BaseTensor]:
    """Record named tensors as they are now."""
    return {canonical(name): _record(value) for name, value in parameters}


def _record(value: torch.Tensor) -> BaseTensor:
    if value.is_meta or type(value.data) is not torch.Tensor:  # offloaded, or a quantised type of its own
        return BaseTensor(value.shape, value.dtype, value._version, None, None)
    digest, sample = content_digest(value), sampled(value).cpu().clone()
    return BaseTensor(value.shape, value.dtype, value._version, digest, sample)


def differs(value: torch.Tensor, base: BaseTensor, *, thorough: bool = True) -> bool:
    """Whether a tensor no longer has the values of the base model.

    Args:
        thorough: Hash it even if its version counter stands still.
    """
    if base.digest is None or base.sample is None or value.is_meta:
        return False
    value, version = value.detach(), value._version
    if value.dtype != base.dtype:
        if torch.promote_types(value.dtype, base.dtype) != value.dtype:  # rounded with the whole model, by `.to(dtype)`
            return version != base.version or not torch.equal(sampled(value).cpu(), base.sample.to(value.dtype))
        exact = value.to(base.dtype)
        if not torch.equal(exact.to(value.dtype), value):
            return True
        value = exact
    if version == base.version and not thorough:
        return not torch.equal(sampled(value).cpu(), base.sample)
    return content_digest(value) != base.digest


def delta_names(model: Any, values: Mapping[str, torch.Tensor] | None = None) -> list[str]:
    """Names of what a delta checkpoint of a `TheWorld` holds, in the order of the model's parameters.

    Args:
        values: The model's tensors as a distributed trainer gathered them; what is missing there was not changed.

    Raises:
        ValueError: The model has parameters that a delta cannot express; names them.
    """
    table, record = component_table(model.model.world_encoder), cast(dict[str, BaseTensor], model.base_tensors)
    held, names = set(model.config.changed or ()), list[str]()
    stepped = model.config.trained_steps or {}
    for name, parameter in model.named_parameters():
        name, component = canonical(name), component_of(name, table)
        if component in FRESH or (parameter.requires_grad and component in stepped):
            names.append(name)  # what trains is there even if it did not move, so that a Trainer can come back to it
        elif isinstance(parameter, DTensor) and values is None:  # a shard tells nothing: what trains, or was changed
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
            "this model was not loaded from base models, so that nothing tells what differs from them: make it with "
            "TheWorld.from_pretrained"
        )
    table, record = component_table(model.model.world_encoder), cast(dict[str, BaseTensor], model.base_tensors)
    current = {canonical(name): value for name, value in (values or dict(model.named_parameters())).items()}
    own = {canonical(name) for name, _ in model.named_parameters()}
    problems = {
        "added": [
            name
            for name in sorted(own - record.keys())
            if component_of(name, table) not in FRESH and not name.startswith(ENCODER)
        ],
        "removed": sorted(record.keys() - own),
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


def shorten(keys: list[str]) -> str:
    """A list of keys for one line of an error."""
    more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
    return ", ".join(keys[:SHOWN_KEYS]) + more


__all__ = ["BaseTensor", "check_expressible", "delta_names", "differs", "expected_names", "remember", "summarise"]
