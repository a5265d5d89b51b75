"""The training loop of the VAE, dynamics, vision and language stages of the recipe.

Its length is counted in steps and not in minutes, so that the speed of a machine does not change the weights. An
interrupted stage continues from its last saved progress and ends with the same weights.
"""

import copy
import io
import logging
import math
import pickle
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from theworld.utils.errors import TheWorldError
from theworld.utils.io import write_bytes

logger = logging.getLogger(__name__)

ModuleT = TypeVar("ModuleT", bound=nn.Module)

# (step) -> loss, figures. Figures are averaged between two log lines; "samples" is summed to log the speed
StepFunction = Callable[[int], tuple[Tensor, dict[str, float]]]


@dataclass
class Group:
    """Parameters that share a peak learning rate.

    The learning rate is zero for `delay` steps, then the warm-up of the group begins. In this way, a decoder can first
    be trained on a fixed encoder.
    """

    parameters: Iterable[nn.Parameter]
    learning_rate: float
    delay: int = 0
    weight_decay: float | None = None


class Ema(Generic[ModuleT]):
    """Exponential moving average of the weights of a module, in a copy of the module that can be used at any time.

    The decay rises as (1 + step) / (10 + step) up to `decay`, so that the random start soon has no influence.
    """

    def __init__(self, module: ModuleT, decay: float = 0.999) -> None:
        self.source = module
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average after optimiser step `step`, counted from 0."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        for average, value in zip(self.module.parameters(), self.source.parameters(), strict=True):
            average.lerp_(value, weight)


class Stateful(Protocol):
    """An object whose state can be saved and restored."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors and plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Restore the state that `state_dict` returned."""
        ...


class Draws:
    """Random generators of a stage. They draw on the CPU, so the numbers are the same on every device."""

    def __init__(self, seed: int) -> None:
        self.numpy = np.random.default_rng(seed)
        self.torch = torch.Generator().manual_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both generators."""
        return {"numpy": self.numpy.bit_generator.state, "torch": self.torch.get_state()}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Restore the states that `state_dict` returned."""
        self.numpy.bit_generator.state = state["numpy"]
        self.torch.set_state(state["torch"])


@dataclass(frozen=True)
class Progress:
    """The progress file of a stage, and the random generators of its batches."""

    path: Path
    draws: Stateful

    def save(self, plan: str, parameters: Sequence[nn.Parameter], parts: dict[str, Stateful], **values: Any) -> None:
        """Save everything that later steps depend on: parameters, `parts`, draws, torch's generators, and `values`."""
        state = {name: part.state_dict() for name, part in {**parts, "draws": self.draws}.items()}
        generators = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
        tensors = [parameter.detach() for parameter in parameters]
        buffer = io.BytesIO()
        torch.save({"plan": plan, "parameters": tensors, "state": state, "generators": generators, **values}, buffer)
        write_bytes(self.path, buffer.getvalue())

    @torch.no_grad()
    def load(self, plan: str, parameters: Sequence[nn.Parameter], parts: dict[str, Stateful]) -> dict[str, Any]:
        """Restore everything that `save` wrote. Returns the saved values, or an empty dict if there is no file.

        Raises:
            ValueError: The file is damaged, or the progress was saved with another plan.
        """
        if not self.path.is_file():
            return {}
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            saved_plan = saved["plan"]
        except (RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
            raise TheWorldError(f"{self.path}: damaged progress; remove the file to start this stage again") from error
        if saved_plan != plan:
            raise TheWorldError(f"{self.path}: progress of {saved_plan}, not of {plan}; remove the file to start again")
        for parameter, value in zip(parameters, saved.pop("parameters"), strict=True):
            parameter.copy_(value)
        for name, part in {**parts, "draws": self.draws}.items():
            part.load_state_dict(saved["state"][name])
        own, *cuda = saved["generators"]
        torch.set_rng_state(own)
        if len(cuda) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(cuda)
        return saved


@dataclass
class _Window:
    """Sums of losses and figures between two log lines."""

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
    """Return the factor of the peak learning rate: linear warm-up times a half cosine from 1 to `floor`."""
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
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Minimise the loss of `step_function` with AdamW, warm-up, cosine decay and gradient clipping.

    Args:
        step_function: Draws its own batch, with `progress.draws` if `progress` is given.
        save: Called at the first log line after `save_minutes`, and at the end. It keeps an interrupted run
            usable.
        progress: Saved at the same times as `save`. If its file exists, training continues from it and ends with the
            same weights as without the interruption. The caller removes the file after saving the weights.

    Returns:
        `{"name", "steps", "minutes", **last averages, "curve": [a row per log line]}`.

    Raises:
        ValueError: The loss is not finite, or the saved progress belongs to another training.
    """
    # 1. Parameters and optimiser
    groups = [Group(list(group.parameters), group.learning_rate, group.delay, group.weight_decay) for group in groups]
    parameters = [parameter for group in groups for parameter in group.parameters]
    decays = [weight_decay if group.weight_decay is None else group.weight_decay for group in groups]
    pairs = zip(groups, decays, strict=True)
    settings = [{"params": group.parameters, "weight_decay": decay} for group, decay in pairs]
    optimizer = torch.optim.AdamW(settings, betas=betas, fused=True)
    # 2. The progress that an earlier call saved
    parts: dict[str, Stateful] = {"optimizer": optimizer, **({} if ema is None else {"ema": ema.module})}
    plan = f"{name}: {steps} steps, {sum(parameter.numel() for parameter in parameters):,} parameters"
    found = {} if progress is None else progress.load(plan, parameters, parts)
    curve = cast(list[dict[str, float]], found.get("curve", []))
    if found:
        logger.info("%s: continues after step %d", name, found["step"])
    # 3. The steps
    saved = time.perf_counter()
    started, window = saved - found.get("seconds", 0.0), _Window()
    for step in range(found.get("step", 0), steps):
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
        done = step + 1
        if done % log_every and done != steps:
            continue
        # 4. Log and save; a non-finite loss raises before anything is saved
        now = time.perf_counter()
        curve.append({"step": done, "minutes": round((now - started) / 60, 2), **window.figures()})
        window = _Window()
        described = " ".join(f"{key} {value:.4g}" for key, value in curve[-1].items() if key != "step")
        logger.info("%s %d/%d %s", name, done, steps, described)
        if not math.isfinite(curve[-1]["loss"]):
            told = f"{name}: the loss is {curve[-1]['loss']} at step {done}"
            raise TheWorldError(f"{told}; run it in another folder with a lower learning rate")
        if now - saved > 60 * save_minutes or done == steps:
            if save is not None:
                save()
            if progress is not None:
                progress.save(plan, parameters, parts, step=done, curve=curve, seconds=now - started)
            saved = now
    return {"name": name, "steps": steps, **(curve[-1] if curve else {}), "curve": curve}
