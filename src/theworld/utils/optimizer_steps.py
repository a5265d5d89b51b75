"""Calls back after every optimiser step, of any loop: the Trainer's, TRL's, and one written by hand."""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

_watched: WeakKeyDictionary[nn.Module, Callable[[Any, list[str]], None]] = WeakKeyDictionary()


def after_steps(model: nn.Module, call: Callable[[Any, list[str]], None]) -> None:
    """Call `call(model, names)` after each step that has a gradient for parameters of `model`, with their names.

    `call` must hold no reference to `model`, which is forgotten when nothing else holds it.
    """
    _watched[model] = call


def _after_step(optimizer: Optimizer, *_: Any) -> None:
    groups: list[dict[str, Any]] = optimizer.param_groups
    stepped = {id(value) for group in groups for value in group["params"] if value.grad is not None}
    for model, call in list(_watched.items()):
        names = [name for name, value in model.named_parameters() if id(value) in stepped]
        if names:
            call(model, names)


register_optimizer_step_post_hook(_after_step)


__all__ = ["after_steps"]
