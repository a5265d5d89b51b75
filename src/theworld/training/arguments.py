"""A `TrainingConfig` as `transformers.TrainingArguments`, and the loggers it reports to."""

import inspect
import math
from collections.abc import Generator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import integration_utils as integrations
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION, get_scheduler

from theworld.utils.errors import TheWorldError, brief, one_line
from theworld.utils.imports import require
from theworld.utils.logging import logger
from theworld.utils.settings import keys

from .config import OWN, TrainingConfig
from .passed_keys import trainer_fields
from .samples import SampleAnswers

SCHEDULES = {"cosine": "cosine_with_min_lr", "constant": "constant_with_warmup"}
"""Transformers' names of the schedules that have other names here."""
ADAM = ("adam_beta1", "adam_beta2", "adam_epsilon")
OF_SCHEDULES = ("optimizer", "num_warmup_steps", "num_training_steps", "last_epoch")
SCHEDULE_STEPS = 1000  # length of the run on which a schedule is checked


def training_arguments(config: TrainingConfig) -> TrainingArguments:
    """The arguments of the stock Trainer, without the token; it neither prunes checkpoints nor publishes."""
    # 1. Keys under transformers' names; passed-on keys only if they differ from the default
    given: dict[str, Any] = {}
    for name, key in keys(TrainingConfig).items():
        argument = key.argument.split()[0] if key.argument else name
        value = getattr(config, name)
        if argument in trainer_fields() and (name in OWN or value != key.default):
            given[argument] = value
    # 2. Arguments that are derived from other keys, or fixed
    cosine = {"min_lr_rate": config.min_learning_rate_ratio} if config.lr_scheduler == "cosine" else {}
    given |= {
        "use_cpu": config.use_cpu or not torch.accelerator.is_available(),  # otherwise CPU processes stay separate
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
    try:
        arguments = TrainingArguments(**given)
    except (ValueError, TypeError) as error:
        raise TheWorldError(f"transformers does not accept these settings: {error}") from error
    check_optimizer(arguments, config)
    return arguments


def check_optimizer(arguments: TrainingArguments, config: TrainingConfig) -> None:
    """Build optimiser and schedule for one weight, to report settings that they refuse before the model is loaded."""
    # 1. Build the optimiser, and find settings that have no effect in it
    pairs = config.optim_args.split(",") if config.optim_args else []
    with naming_keys("optim", "optim_args", *ADAM, config=config):
        make, options = optimizer_options(arguments)
        optimizer = make([nn.Parameter(torch.zeros(1, device=arguments.device))], **options)
        for pair in pairs:
            if optimizer_options(arguments, optim_args=",".join({*pairs} - {pair}))[1] == options:
                raise TheWorldError(f"{brief(repr(pair))} has no effect in {make.__name__}: leave it out")
        for name in ADAM:
            default, value = keys(TrainingConfig)[name].default, getattr(config, name)
            if value != default and optimizer_options(arguments, **{name: default})[1] == options:
                logger.warning("%s=%s has no effect in %s", name, value, make.__name__)
    # 2. Compute the schedule at each of its steps
    name, settings = cast(Any, arguments.lr_scheduler_type), cast(Any, arguments.lr_scheduler_kwargs or {})
    with naming_keys("lr_scheduler", "lr_scheduler_kwargs", config=config):
        taken = inspect.signature(TYPE_TO_SCHEDULER_FUNCTION[name]).parameters.keys()
        taken = [name for name in taken if name not in OF_SCHEDULES]
        if unknown := settings.keys() - set(taken):
            raise TheWorldError(f"{brief(', '.join(sorted(unknown)))}: expected {' or '.join(taken) or 'nothing'}")
        schedule: Any = get_scheduler(name, optimizer, 0, SCHEDULE_STEPS, settings)
        shares = [schedule.lr_lambdas[0](step) for step in range(SCHEDULE_STEPS)]
        if not all(math.isfinite(share) for share in shares):
            raise TheWorldError("its learning rates are not finite")


def optimizer_options(arguments: TrainingArguments, **changed: Any) -> tuple[Any, dict[str, Any]]:
    """Class and keyword arguments of the optimiser, from `arguments` with some of them `changed`."""
    other = copy(arguments)
    vars(other).update(changed)
    return Trainer.get_optimizer_cls_and_kwargs(other, cast(Any, nn.Linear(1, 1)))


@contextmanager
def naming_keys(first: str, *others: str, config: TrainingConfig) -> Generator[None]:
    """Add the keys to the error of a library that was given their values; `others` only if they are set."""
    try:
        yield
    except (ValueError, TypeError, ArithmeticError, AttributeError) as error:
        given = [name for name in others if getattr(config, name) != keys(TrainingConfig)[name].default]
        given += [] if getattr(config, first) is None else [first]
        raise TheWorldError(f"{config.show(*given, joined_by=' with ')}: {one_line(error)}") from error


def other_loggers(report_to: str | list[str] | None) -> list[str]:
    """The loggers that transformers reports to; TensorBoard and Weights & Biases have keys of their own."""
    given = [report_to] if isinstance(report_to, str) else report_to or []
    names = [name for name in given if name != "none"]
    for name in names:
        shown = f"report_to={brief(repr(name))}"
        if name in ("tensorboard", "wandb", "all"):
            raise TheWorldError(f"{shown}: use log_to_tensorboard and log_to_wandb; report_to takes the others")
        if name not in integrations.get_available_reporting_integrations():
            known = ", ".join(integrations.INTEGRATION_TO_CALLBACK)
            raise TheWorldError(f"{shown}: expected one of {known}, installed with pip")
    return names


def reporters(config: TrainingConfig, step: int) -> list[TrainerCallback]:
    """The loggers of the main process.

    A run that resumes after `step` replaces what an interrupted run logged past it.
    """
    callbacks: list[TrainerCallback] = []
    if config.log_to_tensorboard:
        require("train", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        writer: Any = SummaryWriter(str(Path(config.output_dir) / "logs"), purge_step=step + 1 if step else None)
        callbacks.append(integrations.TensorBoardCallback(writer))
        if config.do_eval and config.objective == "answers":
            callbacks.append(SampleAnswers(writer))
    if config.log_to_wandb:
        wandb = require("wandb", "wandb")
        settings = wandb.Settings(x_disable_meta=config.hf_token is not None)  # it has the command line
        named = {"project": config.wandb_project, "name": config.wandb_run_name, "dir": config.output_dir}
        try:
            wandb.init(**named, config=config.to_dict(), settings=settings)
        except wandb.Error as error:
            message = f"log_to_wandb=True, but no run can be started there ({error}): run `wandb login`, or set "
            raise TheWorldError(f"{message}WANDB_MODE=offline") from error
        callbacks.append(integrations.WandbCallback())
    return callbacks
