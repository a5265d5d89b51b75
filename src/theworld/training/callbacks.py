"""What happens beside a training step: log lines at saves, norms, progress on stderr."""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor, nn
from transformers import (
    IntervalStrategy,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from typing_extensions import override

from theworld.utils.logging import logger

from .metrics import total_norm, trained_parameters


class Moments(TrainerCallback):
    """A log line with every checkpoint, an evaluation after the last step.

    Averages then never span a checkpoint, so a resumed run logs the same ones.
    """

    @override
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if control.should_save:
            control.should_log = True
        if state.global_step >= state.max_steps and args.eval_strategy != IntervalStrategy.NO:
            control.should_evaluate = True


class GradientNorms(TrainerCallback):
    """The norm of every part's gradients in the last optimiser step, after clipping."""

    def __init__(self) -> None:
        self.parts: dict[str, list[nn.Parameter]] = {}
        self.norms: dict[str, Tensor] = {}

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: Any, **kwargs: Any
    ) -> None:
        self.parts = trained_parameters(model)

    @override
    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        gradients = {part: [p.grad for p in values if p.grad is not None] for part, values in self.parts.items()}
        self.norms = {part: total_norm(values) for part, values in gradients.items() if values}


class LogLines(TrainerCallback):
    """A line a log on stderr: stdout belongs to the result."""

    @override
    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        shown = {name: f"{value:.4g}" for name, value in (logs or {}).items() if isinstance(value, int | float)}
        line = " ".join(f"{name} {value}" for name, value in shown.items() if name not in ("epoch", "total_flos"))
        logger.info("step %d/%d %s", state.global_step, state.max_steps, line)


class ProgressBar(ProgressCallback):
    """transformers' bars, for a terminal: a file or an error line would carry their remains."""

    @override
    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        if self.training_bar is not None:
            self.training_bar.clear()  # `LogLines` writes there


def progress() -> list[TrainerCallback]:
    """What shows how far a run is."""
    return [*([ProgressBar()] if sys.stderr.isatty() else []), LogLines()]


__all__ = ["GradientNorms", "Moments", "progress"]
