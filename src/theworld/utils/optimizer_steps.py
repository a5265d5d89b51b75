"""Callback after every optimiser step of any training loop: the Trainer's, TRL's, or the user's own."""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

_watched: WeakKeyDictionary[nn.Module, Callable[[Any, list[str]], None]] = WeakKeyDictionary()


def after_steps(model: nn.Module, call: Callable[[Any, list[str]], None]) -> None:
    """Call `call(model, names)` after each step that has a gradient for parameters of `model`, with their names.

    Gradients that are all zero do not count: modules that a batch does not use get them, so that every rank has the
    same gradients. `call` must not hold a reference to `model`, which is kept weakly.
    """
    _watched[model] = call


def _after_step(optimizer: Optimizer, *_: Any) -> None:
    groups: list[dict[str, Any]] = optimizer.param_groups
    stepped = {id(value) for group in groups for value in group["params"] if value.grad is not None}
    for model, call in list(_watched.items()):
        gradients = {name: value.grad for name, value in model.named_parameters() if id(value) in stepped}
        names = _not_zero({name: value for name, value in gradients.items() if value is not None and not value.is_meta})
        if names:
            call(model, names)


def _not_zero(gradients: dict[str, Tensor]) -> list[str]:
    """Names of gradients with a value other than zero, in the local shard if sharded; waits for the device once."""
    local = [value.to_local() if isinstance(value, DTensor) else value for value in gradients.values()]
    flags = [value.any() for value in local]
    found = torch.stack([flag.to(flags[0].device) for flag in flags]).tolist() if flags else []
    return [name for name, some in zip(gradients, found, strict=True) if some]


register_optimizer_step_post_hook(_after_step)


__all__ = ["after_steps"]
