"""`TheWorldTrainer`: transformers' `Trainer` with what a fused model needs.

Parameter groups by component, logits at supervised positions only, delta checkpoints that are renamed when complete, a
check that world tokens are consumed, and figures of closed questions.
"""

import math
import pickle
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import gather_object
from accelerate.utils.fsdp_utils import save_fsdp_optimizer
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer import SCHEDULER_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput
from typing_extensions import override

from theworld.constants import IGNORE_INDEX
from theworld.data.collator import TheWorldCollator
from theworld.data.schema import Skipped
from theworld.data.skips import SkipLog
from theworld.model import TheWorld
from theworld.model.checkpoints.load import load_into
from theworld.utils.errors import FileError, TheWorldError
from theworld.utils.io import write_json, write_text
from theworld.utils.logging import logger

from .callbacks import FirstSteps, GradientNorms, Moments
from .card import training_card
from .config import TrainingConfig
from .distributed import configure_fsdp, gather_delta
from .metrics import CHOICE_FIGURES, choice_figures, choice_logs, frame_logs, total_norm
from .resume import SAVING, STAGE, checkpoints, prune, publish
from .stages import parameter_groups
from .streams import EndlessRows, dead_workers_named

LOADING = ("num_workers", "pin_memory", "prefetch_factor", "persistent_workers")


class TheWorldTrainer(Trainer):
    """Trains a `TheWorld`. Takes the arguments of `transformers.Trainer` too.

    `stage` is written to `stage.json` of each checkpoint. `skips` are the lists of unusable rows of training (`True`)
    and evaluation (`False`).
    """

    def __init__(
        self, model: TheWorld, config: TrainingConfig, stage: dict[str, Any], skips: dict[bool, SkipLog], **kwargs: Any
    ) -> None:
        super().__init__(model, **kwargs)
        if config.train_world_steps and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            # Processes that use different numbers would gather sharded weights at different times
            raise TheWorldError("train_world_steps with FSDP or DeepSpeed: use DDP, or leave it out")
        if self.is_fsdp_enabled:
            configure_fsdp(cast(Any, self.accelerator.state).fsdp_plugin, model)
        self.config = config
        self.stage = stage
        self.skips = skips
        self.gradients = GradientNorms()
        # DeepSpeed does not keep gradients in `parameter.grad`, so the check is off
        learns = self.is_deepspeed_enabled
        self.first_steps = FirstSteps(self.gradients, enable_world=config.enable_world, learns=learns)
        for callback in (Moments(), self.gradients, self.first_steps):
            self.add_callback(callback)
        # Summed `choice_figures`; then summed errors of every latent frame, and their count
        figures = CHOICE_FIGURES + 2 + (config.num_world_steps or 0)
        self.figures = {training: torch.zeros(figures, device=self.args.device) for training in (True, False)}
        self.evaluated: list[tuple[float, int]] = []  # mean loss of a batch, and its number of tokens or rows

    # Optimiser

    @override
    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW over the groups of `parameter_groups`."""
        if self.optimizer is None:
            model = self.model if model is None else model
            make, options = self.get_optimizer_cls_and_kwargs(self.args, cast(Any, model))
            self.optimizer = make(parameter_groups(cast(nn.Module, model), self.config), **options)
        return self.optimizer

    @override
    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The stock schedule; warns if the warm-up is as long as the run."""
        warmup = self.args.get_warmup_steps(num_training_steps)
        if warmup >= num_training_steps and self.lr_scheduler is None:
            message = "warmup_steps=%d of a run of %d steps: its learning rates stay below the peak; lower the warm-up"
            logger.warning(message, warmup, num_training_steps)
        return super().create_scheduler(num_training_steps, optimizer)

    # Batches

    @override
    def get_train_dataloader(self) -> DataLoader[Any]:
        if not isinstance(self.train_dataset, EndlessRows):
            return super().get_train_dataloader()
        return DataLoader(  # not prepared by accelerate, which would split the rows between processes again
            self.train_dataset,
            batch_size=self.args.train_batch_size,
            collate_fn=self.data_collator,
            generator=torch.Generator(),
            **{name: getattr(self.args, f"dataloader_{name}") for name in LOADING},
        )

    @override
    def _get_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader[Any]:
        loader = super()._get_dataloader(*args, **kwargs)
        # Its own generator: drawing the workers' seed from the global one would change dropout after a resume
        base = cast(Any, loader).base_dataloader
        base.generator = torch.Generator()
        if isinstance(self.data_collator, TheWorldCollator) and not kwargs.get("is_training"):
            base.collate_fn = self.data_collator.for_evaluation()
        return loader

    @override
    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Tensor | int | None]:
        with dead_workers_named():
            batches, items = super().get_batch_samples(*args, **kwargs)
        rows = sum(len(next(iter(batch.values()))) for batch in batches)
        skipped = [row for batch in batches for row in batch.pop("skipped", [])]
        if not skipped and items is not None and not int(torch.as_tensor(items).max()):
            message = "every label is masked: the answers of these rows are empty, or max_seq_length cuts them"
            raise TheWorldError(message)
        self._note_skipped(skipped, rows, training=True)
        return batches, items

    def _note_skipped(self, skipped: list[Skipped], rows: int, *, training: bool) -> None:
        """Record the skipped rows of all processes in the first one, which stops the run above the budget."""
        if self.args.world_size > 1:
            skipped = gather_object(skipped)
        if self.is_world_process_zero():
            self.skips[training].seen(rows * self.args.world_size + len(skipped))
            self.skips[training].record(skipped)

    # Loss

    @override
    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The stock Trainer's loss; a ValueError if the batch has an image but no world token reached the model."""
        # 1. Compute the loss, with logits at supervised positions only
        inputs = dict(inputs)
        choice_ids = inputs.pop("choice_ids", None)
        labels = inputs.get("labels")
        if labels is not None:
            inputs["supervised_logits_only"] = True
        loss, outputs = cast(tuple[Tensor, Any], super().compute_loss(model, inputs, True, num_items_in_batch))
        # 2. Update the metrics; stop if the world tokens were lost
        if labels is not None:
            has_image = inputs.get("pixel_values") is not None
            if self.config.enable_world and has_image and not outputs.num_world_tokens:
                raise TheWorldError(
                    "the world is enabled and the batch has an image, but no world token reached the language model: "
                    "make batches with TheWorldCollator, or train with enable_world=False"
                )
            if model.training and self.first_steps.pending and (labels != IGNORE_INDEX).any():
                self.first_steps.note(has_image=has_image, world_tokens=outputs.num_world_tokens)
            if choice_ids is not None:
                figures = choice_figures(outputs.logits.detach(), labels, choice_ids)
                self.figures[model.training][:CHOICE_FIGURES] += figures
        elif outputs.get("frame_errors") is not None:
            errors = outputs["frame_errors"]
            self.first_steps.note(has_image=True, world_tokens=errors.numel())
            self.figures[model.training][CHOICE_FIGURES:] += torch.cat([errors, errors.new_ones(1)])
        # 3. In an evaluation, record the weight of the batch, because numbers of supervised tokens differ
        if not model.training:
            rows = len(next(iter(inputs.values())))
            self.evaluated.append((loss.item(), rows if num_items_in_batch is None else int(num_items_in_batch)))
        return (loss, outputs) if return_outputs else loss

    @override
    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """The stock Trainer's step; a ValueError if memory is too small or the loss is not finite."""
        try:
            loss = super().training_step(model, inputs, *args, **kwargs)
        except torch.OutOfMemoryError as error:
            raise TheWorldError(
                "out of memory: lower batch_size (and raise gradient_accumulation_steps), set "
                f"use_gradient_checkpointing, or train fewer components ({str(error).partition('. ')[0]})"
            ) from error
        if not torch.isfinite(loss):
            raise self._diverged(f"the loss is {loss.item()}")
        return loss

    def _diverged(self, what: str) -> TheWorldError:
        settings = f"learning_rate={self.args.learning_rate} and adam_epsilon={self.args.adam_epsilon}"
        cure = "lower the learning rates, raise warmup_steps or adam_epsilon, or use mixed_precision=bf16"
        message = f"{what} after step {self.state.global_step}, with {settings}"
        return TheWorldError(f"{message}: {cure}; earlier checkpoints are intact")

    @override
    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        inputs = dict(inputs)
        self._note_skipped(inputs.pop("skipped", []), len(next(iter(inputs.values()))), training=False)
        return super().prediction_step(model, inputs, *args, **kwargs)

    # Figures

    @override
    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self._summed_logs(training=True)
            norms = {component: norm.item() for component, norm in self.gradients.norms.items()}
            clipped = sum(value**2 for value in norms.values()) ** 0.5
            unclip = logs.get("grad_norm", clipped) / clipped if clipped else 1.0
            logs |= {f"grad_norm/{component}": value * unclip for component, value in norms.items()}
            gate = self.unwrapped.model.world_gate
            if gate is not None:
                logs["world_gate"] = gate.detach().float().tanh().abs().max().item()
            weights = self.gradients.components.items()
            sizes = {f"param_norm/{component}": total_norm(values).item() for component, values in weights}
            if broken := [f"{name} is {value}" for name, value in sizes.items() if not math.isfinite(value)]:
                raise self._diverged(", ".join(broken))
            logs |= sizes
        super().log(logs, start_time)

    def _summed_logs(self, *, training: bool, prefix: str = "") -> dict[str, float]:
        """Figures of closed questions and of aligned frames since the last call, over all processes."""
        figures = cast(Tensor, self.accelerator.reduce(self.figures[training].clone(), "sum"))
        self.figures[training].zero_()
        return choice_logs(figures[:CHOICE_FIGURES], prefix) | frame_logs(figures[CHOICE_FIGURES:], prefix)

    @override
    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        with dead_workers_named():
            output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        assert output.metrics is not None
        output.metrics.update(self._summed_logs(training=False, prefix=f"{metric_key_prefix}_"))
        evaluated, self.evaluated = gather_object(self.evaluated), []
        total = sum(weight for _, weight in evaluated)
        mean = sum(loss * weight for loss, weight in evaluated if weight) / total if total else math.nan
        output.metrics[f"{metric_key_prefix}_loss"] = mean
        return output

    # Checkpoints

    @override
    def _get_output_dir(self, trial: Any) -> str:
        return str(Path(self.args.output_dir or ".") / SAVING)

    @override
    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write the checkpoint to a hidden folder, and rename it at the end; an OSError if that fails."""
        run, name = Path(cast(str, self.args.output_dir)), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(run / SAVING, ignore_errors=True)  # left by a run that was killed during a save
        self.accelerator.wait_for_everyone()
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                write_json(run / SAVING / name / STAGE, self.stage)
                stage, skipped = self.stage["stage"], len(self.skips[True])
                card = training_card(self.unwrapped, self.config, stage, self.state, self.train_dataset, skipped)
                write_text(run / SAVING / name / "README.md", card)
                publish(run / SAVING / name, run / name)
                (run / SAVING).rmdir()
                self.saved[:] = [path for path in self.saved if path != run / name] + [run / name]
                prune(self.saved, self.config.save_total_limit)
        except (OSError, SafetensorError, RuntimeError) as error:  # torch and safetensors raise their own types
            free = shutil.disk_usage(run).free
            raise FileError(
                f"{run / name} cannot be written ({error}), with {free / 1e9:.1f} GB free there; earlier "
                "checkpoints are intact: free disk space, then resume with --resume_from auto"
            ) from error
        self.accelerator.wait_for_everyone()

    @cached_property
    def saved(self) -> list[Path]:
        """The complete checkpoints in the run folder, oldest first.

        Listed once, because the check reads files of each.
        """
        return checkpoints(Path(cast(str, self.args.output_dir)))

    @property
    def unwrapped(self) -> Any:
        """The model itself, without the wrappers of DDP and `torch.compile`."""
        return self.accelerator.unwrap_model(cast(nn.Module, self.model), keep_torch_compile=False)

    @override
    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if self.is_fsdp_enabled:  # gather only what differs from the base models
            self._save(output_dir, gather_delta(cast(TheWorld, self.model)))
        else:
            super().save_model(output_dir, _internal_call)

    @override
    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if self.args.should_save:
            folder = output_dir or self.args.output_dir
            self.unwrapped.save_pretrained(folder, state_dict=state_dict, is_main_process=True)

    @override
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if not self.is_fsdp_enabled:  # with FSDP, `load_model` has read it before sharding
            load_into(self.model, resume_from_checkpoint)

    @override
    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        # The stock Trainer would write the whole model too, frozen base and all, as a pickle
        plugin = cast(Any, self.accelerator.state).fsdp_plugin
        save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.model, output_dir)
        if self.args.should_save:
            torch.save(cast(Any, self.lr_scheduler).state_dict(), Path(output_dir) / SCHEDULER_NAME)

    @override
    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with readable_state(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and isinstance(self.lr_scheduler, LambdaLR) and self.optimizer is not None:
            # The next step's rate was saved by the old schedule, which may have had another length
            schedule, step = cast(Any, self.lr_scheduler), self.lr_scheduler.last_epoch
            peaks = zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
            schedule._last_lr = [peak * share(step) for peak, share in peaks]
            for group, rate in zip(self.optimizer.param_groups, schedule._last_lr, strict=True):
                group["lr"] = rate

    @override
    def _load_rng_state(self, checkpoint: str | None) -> None:
        with readable_state(checkpoint):
            super()._load_rng_state(checkpoint)


@contextmanager
def readable_state(checkpoint: str | None) -> Generator[None]:
    """Turn torch's errors about state files into a ValueError. transformers reads them with `weights_only`."""
    try:
        yield
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, TypeError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise TheWorldError(
            f"{checkpoint}: its trainer state is damaged or belongs to other parameters ({reason}); resume from an "
            "earlier checkpoint, or start a new stage from its weights with --model_name"
        ) from error
