"""The one training loop behind every stage of the recipe.

Counted in steps, never in minutes, so that a stage gives the same weights on a slow machine as on a fast one.
"""

import copy
import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

ModuleT = TypeVar("ModuleT", bound=nn.Module)

# (step) -> loss, figures to average between two log lines. "samples" is summed instead, for the speed.
StepFunction = Callable[[int], tuple[Tensor, dict[str, float]]]


@dataclass
class Group:
    """Parameters that share a peak learning rate.

    `delay` holds the group at zero for that many steps, then its own warm-up begins: a decoder can learn to read a
    fixed code before the code moves.
    """

    parameters: Iterable[nn.Parameter]
    learning_rate: float
    delay: int = 0
    weight_decay: float | None = None


class Ema(Generic[ModuleT]):
    """Exponential moving average of a module's weights, kept as a second module that is always ready for use.

    The decay rises as (1 + step) / (10 + step) up to `decay`, so that the random start is soon forgotten.
    """

    def __init__(self, module: ModuleT, decay: float = 0.999) -> None:
        self.source = module
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the source, after the optimiser's step number `step`."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        for average, value in zip(self.module.parameters(), self.source.parameters(), strict=True):
            average.lerp_(value, weight)


@dataclass
class _Window:
    """Sums between two log lines."""

    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    steps: int = 0
    started: float = field(default_factory=time.perf_counter)

    def add(self, loss: float, figures: dict[str, float]) -> None:
        self.steps += 1
        for name, value in {"loss": loss, **figures}.items():
            self.sums[name] += value

    def figures(self) -> dict[str, float]:
        seconds = time.perf_counter() - self.started
        means = {name: total / self.steps for name, total in self.sums.items() if name != "samples"}
        return {**means, "samples_per_second": self.sums["samples"] / seconds}


def schedule(step: int, steps: int, warmup: int, floor: float) -> float:
    """Factor of the peak learning rate: a linear warm-up, then half a cosine down to `floor`."""
    if step < 0:
        return 0.0
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, steps))))
    return min(1.0, (step + 1) / max(1, warmup)) * (floor + (1 - floor) * cosine)


def fit(
    name: str,
    step_function: StepFunction,
    groups: Sequence[Group],
    *,
    steps: int,
    warmup: int = 100,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.98),
    clip: float = 1.0,
    floor: float = 0.02,
    ema: Ema[Any] | None = None,
    log_every: int = 100,
    save: Callable[[], None] | None = None,
    save_minutes: float = 10.0,
) -> dict[str, Any]:
    """Minimise `step_function`'s loss with AdamW, warm-up, cosine decay and gradient clipping.

    `step_function` draws its own batch. `save` runs every `save_minutes` and at the end, so that a stopped run leaves
    something to use. Returns `{"name", "steps", "minutes", **last averages, "curve": [a row per log line]}`.

    Raises `FloatingPointError` when the loss is not finite.
    """
    groups = [Group(list(group.parameters), group.learning_rate, group.delay, group.weight_decay) for group in groups]
    parameters = [parameter for group in groups for parameter in group.parameters]
    optimizer = torch.optim.AdamW(
        [
            {
                "params": group.parameters,
                "weight_decay": weight_decay if group.weight_decay is None else group.weight_decay,
            }
            for group in groups
        ],
        betas=betas,
        fused=True,
    )
    started = saved = time.perf_counter()
    window, curve = _Window(), list[dict[str, float]]()
    for step in range(steps):
        for group, options in zip(groups, optimizer.param_groups, strict=True):
            factor = schedule(step - group.delay, steps - group.delay, warmup, floor)
            options["lr"] = group.learning_rate * factor
        loss, figures = step_function(step)
        optimizer.zero_grad(set_to_none=True)
        cast(Any, loss).backward()
        nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        if ema is not None:
            ema.update(step)
        window.add(loss.item(), figures)
        now = time.perf_counter()
        if (step + 1) % log_every == 0 or step + 1 == steps:
            minutes = (now - started) / 60
            curve.append({"step": step + 1, "minutes": round(minutes, 2), **window.figures()})
            window = _Window()
            described = " ".join(f"{key} {value:.4g}" for key, value in curve[-1].items() if key != "step")
            logger.info("%s %d/%d %s", name, step + 1, steps, described)
            if not math.isfinite(curve[-1]["loss"]):
                raise FloatingPointError(f"{name}: the loss is {curve[-1]['loss']} at step {step + 1}")
        if save is not None and (now - saved > 60 * save_minutes or step + 1 == steps):
            save()
            saved = now
    return {"name": name, "steps": steps, **(curve[-1] if curve else {}), "curve": curve}
