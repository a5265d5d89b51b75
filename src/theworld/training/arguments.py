"""`TrainingConfig` in the words of transformers: its `TrainingArguments`, and the loggers it reports to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback, WandbCallback

from theworld.utils.imports import require

from .config import TrainingConfig

SCHEDULES = {"cosine": "cosine_with_min_lr", "linear": "linear", "constant": "constant_with_warmup"}


def training_arguments(config: TrainingConfig) -> TrainingArguments:
    """What the stock Trainer is told; it never sees the token, and neither prunes checkpoints nor reports by itself."""
    return TrainingArguments(
        output_dir=config.output_dir,
        use_cpu=not torch.accelerator.is_available(),  # unsaid, accelerate runs CPU processes beside each other, alone
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.eval_batch_size or config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        num_train_epochs=config.num_epochs,
        max_steps=config.max_steps or -1,
        learning_rate=config.learning_rate,
        lr_scheduler_type=SCHEDULES[config.lr_scheduler],
        lr_scheduler_kwargs=(
            {"min_lr_rate": config.min_learning_rate_ratio} if config.lr_scheduler == "cosine" else None
        ),
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        bf16=config.mixed_precision == "bf16",
        activation_checkpointing=config.use_gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if config.use_gradient_checkpointing else None,
        seed=config.seed,
        data_seed=config.seed,
        logging_steps=config.logging_steps,
        eval_strategy="steps" if config.do_eval else "no",
        eval_steps=config.eval_steps,
        save_strategy="steps",
        save_steps=config.save_steps,
        save_total_limit=None,
        report_to=[],
        log_level="error",
        dataloader_num_workers=config.num_workers,
        dataloader_pin_memory=config.pin_memory,
        dataloader_persistent_workers=config.persistent_workers,
        dataloader_prefetch_factor=config.prefetch_factor,
        remove_unused_columns=False,
        label_names=["labels"] if config.objective == "answers" else None,
        accelerator_config={"dispatch_batches": False},
        ddp_find_unused_parameters=False,
    )


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
        try:
            wandb.init(
                project=config.wandb_project,
                name=config.wandb_run_name,
                dir=config.output_dir,
                config=config.to_dict(),
                settings=wandb.Settings(x_disable_meta=config.hf_token is not None),  # it keeps the command line
            )
        except wandb.Error as error:
            raise ValueError(
                f"log_to_wandb=True, but no run can be started there ({error}); `wandb login`, or set "
                "WANDB_MODE=offline"
            ) from error
        callbacks.append(WandbCallback())
    return callbacks


__all__ = ["reporters", "training_arguments"]
