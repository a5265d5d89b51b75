"""A `TrainingConfig` as `transformers.TrainingArguments`, and the loggers it reports to."""

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    TensorBoardCallback,
    WandbCallback,
    get_available_reporting_integrations,
)

from theworld.utils.errors import TheWorldError, brief
from theworld.utils.imports import require
from theworld.utils.settings import keys

from .config import OWN, TrainingConfig
from .passed_keys import trainer_fields

SCHEDULES = {"cosine": "cosine_with_min_lr", "constant": "constant_with_warmup"}
"""Names of transformers for schedules that have another name here."""


def training_arguments(config: TrainingConfig) -> TrainingArguments:
    """The arguments of the stock Trainer, without the token; it neither prunes checkpoints nor publishes.

    Raises:
        ValueError: transformers refuses a value; or as `other_loggers`.
    """
    # Keys under the names of transformers; of those passed on, the ones that differ from its defaults
    given: dict[str, Any] = {}
    for name, key in keys(TrainingConfig).items():
        argument = key.argument.split()[0] if key.argument else name
        value = getattr(config, name)
        if argument in trainer_fields() and (name in OWN or value != key.default):
            given[argument] = value
    # What is said in another way, or not at all
    cosine = {"min_lr_rate": config.min_learning_rate_ratio} if config.lr_scheduler == "cosine" else {}
    given |= {
        "use_cpu": config.use_cpu or not torch.accelerator.is_available(),  # else accelerate runs CPU processes alone
        "per_device_eval_batch_size": config.eval_batch_size or config.batch_size,
        "max_steps": config.max_steps or -1,
        "lr_scheduler_type": SCHEDULES.get(config.lr_scheduler, config.lr_scheduler),
        "lr_scheduler_kwargs": {**cosine, **(config.lr_scheduler_kwargs or {})} or None,
        "warmup_steps": config.warmup_steps if config.warmup_ratio is None else config.warmup_ratio,
        "bf16": config.mixed_precision == "bf16",
        "activation_checkpointing_kwargs": {"use_reentrant": False} if config.use_gradient_checkpointing else None,
        "torch_compile": False,  # `compile_layers` does it
        "seed": config.seed,
        "eval_strategy": "steps" if config.do_eval and config.eval_strategy == "no" else config.eval_strategy,
        "report_to": other_loggers(config.report_to),
        **{"save_total_limit": None, "push_to_hub": False, "hub_token": None, "resume_from_checkpoint": None},
        "log_level": "error",
        "remove_unused_columns": False,
        "label_names": ["labels"] if config.objective == "answers" else None,
        "accelerator_config": {"dispatch_batches": False},
        "ddp_find_unused_parameters": False,
    }
    return TrainingArguments(**given)


def other_loggers(report_to: str | list[str] | None) -> list[str]:
    """The loggers that transformers reports to, beside TensorBoard and Weights & Biases, which have keys of their own.

    Raises:
        ValueError: One is unknown, not installed, or has a key of its own.
    """
    names = [report_to] if isinstance(report_to, str) else report_to or []
    for name in names:
        if name in ("tensorboard", "wandb", "all"):
            raise TheWorldError(
                f"report_to={name!r}: use log_to_tensorboard and log_to_wandb; report_to takes the others"
            )
        if name != "none" and name not in get_available_reporting_integrations():
            known = ", ".join(INTEGRATION_TO_CALLBACK)
            raise TheWorldError(
                f"report_to={brief(repr(name))}: expected an installed one of {known}; install it with pip"
            )
    return [name for name in names if name != "none"]


def reporters(config: TrainingConfig, step: int) -> list[TrainerCallback]:
    """The loggers of the main process. A run that continues after `step` replaces what a dead one logged past it.

    Raises:
        ImportError: A logger is not installed; names the extra.
        ValueError: Weights & Biases does not start a run.
    """
    callbacks: list[TrainerCallback] = []
    if config.log_to_tensorboard:
        require("train", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        writer: Any = SummaryWriter(str(Path(config.output_dir) / "logs"), purge_step=step + 1 if step else None)
        callbacks.append(TensorBoardCallback(writer))
    if config.log_to_wandb:
        wandb = require("wandb", "wandb")
        settings = wandb.Settings(x_disable_meta=config.hf_token is not None)  # it keeps the command line
        named = {"project": config.wandb_project, "name": config.wandb_run_name, "dir": config.output_dir}
        try:
            wandb.init(**named, config=config.to_dict(), settings=settings)
        except wandb.Error as error:
            told = f"log_to_wandb=True, but no run can be started there ({error}); `wandb login`, or set "
            raise TheWorldError(f"{told}WANDB_MODE=offline") from error
        callbacks.append(WandbCallback())
    return callbacks
