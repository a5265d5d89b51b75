"""Callbacks of the trainer: log lines at saves, gradient norms, checks of the first steps, progress on stderr."""

from typing import Any

from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import IntervalStrategy, TrainingArguments
from transformers.trainer_callback import ProgressCallback, TrainerCallback, TrainerControl, TrainerState
from typing_extensions import override

from theworld.utils.errors import TheWorldError
from theworld.utils.logging import logger

from .metrics import total_norm, trained_parameters

STEPS_WITHOUT_IMAGE = 10


class Moments(TrainerCallback):
    """Also logs at every save, and evaluates after the last step.

    Averages of log lines then never span a checkpoint, so a resumed run logs the same values.
    """

    @override
    def on_train_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **kwargs: Any) -> None:
        state.compute_steps(args, state.max_steps)  # a resumed trainer would take these steps from the checkpoint

    @override
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if control.should_save:
            control.should_log = True
        if state.global_step >= state.max_steps and args.eval_strategy != IntervalStrategy.NO:
            control.should_evaluate = True


class GradientNorms(TrainerCallback):
    """The norm of every component's gradients in the last optimiser step, after clipping."""

    def __init__(self) -> None:
        self.components: dict[str, list[nn.Parameter]] = {}
        self.norms: dict[str, Tensor] = {}

    @override
    def on_train_begin(self, *args: Any, model: Any, **kwargs: Any) -> None:
        self.components = trained_parameters(model)

    @override
    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        gradients = {name: [p.grad for p in group if p.grad is not None] for name, group in self.components.items()}
        self.norms = {name: total_norm(values) for name, values in gradients.items() if values}


class FirstSteps(TrainerCallback):
    """Stops a run that cannot learn: no gradient reaches a component, or no world token reaches the model.

    It checks the first optimiser step that has supervised tokens. Rows without an image have no world tokens and may
    give no gradient, so a mixed dataset may begin with `STEPS_WITHOUT_IMAGE` steps of them.
    """

    def __init__(self, gradients: GradientNorms, *, enable_world: bool, learns: bool) -> None:
        self.gradients = gradients
        self.enable_world = enable_world
        self.learns = learns  # whether a gradient arrived
        self.pending = True
        self.steps = 0
        self.fed = (0, 0, 0)  # batches with supervised tokens, those with an image, world tokens

    def note(self, *, has_image: bool, world_tokens: int) -> None:
        """Count a batch with supervised tokens."""
        batches, images, tokens = self.fed
        self.fed = batches + 1, images + has_image, tokens + world_tokens

    @override
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not self.pending:
            return
        # 1. Count the batches of all processes
        batches, images, tokens = (sum(counts) for counts in zip(*gather_object([self.fed]), strict=True))
        if not batches:  # every row was skipped, which `skip_budget` limits
            if state.global_step >= state.max_steps:
                raise TheWorldError("no usable rows: all rows that the run read were skipped; see skipped.jsonl")
            return
        self.steps += 1
        self.learns = self.learns or any(norm.item() > 0 for norm in self.gradients.norms.values())
        fed = bool(tokens) or not self.enable_world
        # 2. Accept, or wait for a step with an image
        self.pending = not (self.learns and fed)
        early = not images and self.steps < STEPS_WITHOUT_IMAGE and state.global_step < state.max_steps
        if not self.pending or early:
            return
        if not fed:
            raise TheWorldError(
                f"the world is enabled, but 0 world tokens reached the language model in {self.steps} steps: no "
                "row has an image; give rows with images, or train with enable_world=False"
            )
        raise TheWorldError(
            f"the gradients of {', '.join(self.gradients.components)} are 0 in {self.steps} steps: the loss does "
            "not depend on the components that train; unfreeze another component, or give rows that use them"
        )


class LogLines(TrainerCallback):
    """Writes one line per log to stderr, because stdout is for the result."""

    @override
    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **kwargs: Any) -> None:
        figures = {name: value for name, value in (logs or {}).items() if isinstance(value, int | float)}
        line = " ".join(f"{name} {figures[name]:.4g}" for name in figures if name not in ("epoch", "total_flos"))
        logger.info("step %d/%d %s", state.global_step, state.max_steps, line)


class ProgressBar(ProgressCallback):
    """transformers' progress bars, for terminals only: in a file they would leave partial lines."""

    @override
    def on_log(self, *args: Any, **kwargs: Any) -> None:
        if self.training_bar is not None:
            self.training_bar.clear()  # `LogLines` writes to the same terminal
