"""A training run, from its config to its last checkpoint.

<output_dir>/config.json      the config, without any token
             manifest.json    versions, machine, source state, data, stage
             checkpoint-N/    delta weights, config, processor and trainer state
             logs/            TensorBoard
             skipped.jsonl    rows that gave no example
"""

import sys
from collections.abc import Sized
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from accelerate.utils import patch_environment
from torch import nn
from torch.utils.data import default_collate
from transformers import TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerState

from theworld.data.mixture import Mixture
from theworld.data.open_source import rows_fingerprint
from theworld.data.skips import SkipLog
from theworld.data.sources.hf_dataset import StreamedRows
from theworld.model import TheWorld
from theworld.model.fusion import FUSIONS
from theworld.utils.errors import HUB_TOKEN, TheWorldError, keep_secret
from theworld.utils.folders import locked
from theworld.utils.imports import require
from theworld.utils.io import write_json
from theworld.utils.logging import logger
from theworld.utils.reproducibility import environment, seed_everything

from .align import AlignModel, encode_rows
from .arguments import reporters, training_arguments
from .callbacks import LogLines, ProgressBar
from .config import TrainingConfig
from .objectives import OBJECTIVES
from .preemption import PreemptionCallback
from .publish import Publisher
from .resume import STATE, Resume, newest_checkpoint, resolve
from .rows import image_files, load_rows
from .stages import Stage, compile_layers, data_fingerprint, load_model, stage_table, trained_components
from .streams import EndlessRows
from .trainer import TheWorldTrainer

MARKERS = 2  # tokens around an image, and around a world block
OBJECT = "an object given to train"  # in place of a path, for rows that are given as an object
SKIPPED, SKIPPED_EVAL = "skipped.jsonl", "skipped_eval.jsonl"


@dataclass(frozen=True)
class RunResult:
    """Result of a run."""

    output_dir: str
    checkpoint: str | None  # the newest one in `output_dir`
    step: int  # optimiser steps done, including those before it was resumed
    loss: float | None  # the last logged training loss
    metrics: dict[str, float]  # the last evaluation
    skipped: int  # rows that gave no example
    skip_causes: str  # skipped rows by cause, one line each
    stopped: bool  # whether a signal ended it before its last step


def train(config: TrainingConfig, *, train_dataset: Any = None, eval_dataset: Any = None) -> RunResult:
    """Run `config` to its end, or resume it from `config.resume`.

    Args:
        train_dataset: Rows in place of those that the config names: a list of dicts, a `TheWorldDataset`, a
            `datasets.Dataset`, a `torch.utils.data.Dataset`, or an iterable one with `max_steps`.
        eval_dataset: Likewise, for an evaluation every `eval_steps` steps.

    Raises:
        ValueError: The config, the data or a checkpoint is not usable, or the run cannot continue.
        FileNotFoundError: A file, folder or checkpoint is missing.
    """
    if train_dataset is not None:
        config = replace(config, train_dataset_path=OBJECT)
    if eval_dataset is not None:
        config = replace(config, do_eval=True, eval_dataset_path=OBJECT)
    if config.hf_token is not None:
        keep_secret(config.hf_token)
    # All libraries that use the Hub read the token from the environment first
    with patch_environment(**({} if config.hf_token is None else {HUB_TOKEN: config.hf_token})):
        arguments = training_arguments(config)
        for line in config.without_effect() if arguments.process_index == 0 else ():
            logger.warning("%s", line)
        with locked(Path(config.output_dir), is_main=arguments.process_index == 0):
            return _train(config, arguments, train_dataset, eval_dataset)


def _train(config: TrainingConfig, arguments: TrainingArguments, given: Any, given_eval: Any) -> RunResult:
    # 1. Load data and model
    output, is_main = Path(config.output_dir), arguments.process_index == 0
    resume = resolve(config)
    publisher = Publisher(config) if config.push_to_hub and is_main else None
    start = config.model_name if resume is None else resume.folder
    data = load_rows(config, start, given=given)
    eval_data = load_rows(config, start, evaluation=True, given=given_eval) if config.do_eval else None
    if isinstance(data, StreamedRows):
        data = EndlessRows(data, config.seed, arguments.process_index, arguments.world_size)
    seed_everything(config.seed)
    objective = OBJECTIVES[config.objective]
    model = load_model(config, start, objective.model_class, objective.model_keys)
    check_length(config, model)
    if config.compile:
        compile_layers(model)
    # 2. Resume the run, or start a new stage
    paths = config.train_dataset_path if given is None else rows_fingerprint(data)
    images = image_files(config, data) if given is None else []
    fingerprint = data_fingerprint(paths, data, config.split, images)
    num_world_steps = model.config.num_world_steps
    stage = Stage(config.objective, trained_components(model), fingerprint, config.enable_world, num_world_steps)
    continued = None if resume is None else continued_run(config, resume, stage)
    if continued is None and is_main:
        for name in (SKIPPED, SKIPPED_EVAL):  # left by a failed run; rows may have been corrected since
            (output / name).unlink(missing_ok=True)
    # 3. Train, save, push
    trainer = build_trainer(config, model, arguments, stage, data, eval_data)
    if publisher is not None:
        trainer.add_callback(publisher)
    if is_main:
        manifest = {
            "environment": environment(),
            "stage": asdict(stage),
            "mixture": data.record() if isinstance(data, Mixture) else None,
            "resumed_from": None if resume is None else str(resume.folder),
        }
        write_json(output / "config.json", config.to_dict())
        write_json(output / "manifest.json", manifest)
        logger.info("%s", stage_table(model, config))
    if (
        continued is not None
        and continued.step >= trainer.set_initial_training_values(arguments, trainer.get_train_dataloader())[-1]
    ):
        logger.warning("%s: all steps are done; raise max_steps or num_epochs to continue", continued.folder)
        trainer.state = TrainerState.load_from_json(str(continued.folder / STATE))
    else:
        for callback in reporters(config, continued.step if continued else 0) if is_main else []:
            trainer.add_callback(callback)
        try:
            trainer.train(resume_from_checkpoint=str(continued.folder) if continued else None)
        finally:
            if config.log_to_wandb and is_main:
                require("wandb", "wandb").finish()
    result = result_of(config, trainer)
    if publisher is not None and result.checkpoint is not None and not result.stopped:
        publisher.finish(Path(result.checkpoint))
    return result


def check_length(config: TrainingConfig, model: TheWorld) -> None:
    """Raise a ValueError, before any row is read, if an image and its world block are longer than `max_seq_length`."""
    shape = model.config
    if config.objective != "answers" or not config.enable_world or not FUSIONS[shape.fusion].block:
        return
    steps = max(shape.num_world_steps, *(config.train_world_steps or [0]))
    world, image = shape.world_tokens(steps) + MARKERS, cast(int, shape.mm_tokens_per_image) + MARKERS
    if world + image > config.max_seq_length:
        unpooled = shape.world_unpooling > 1  # world_pooling is 1 then
        setting = f"world_unpooling={shape.world_unpooling}" if unpooled else f"world_pooling={shape.world_pooling}"
        raise TheWorldError(
            f"num_world_steps={steps} with {setting} gives a world block of {world} tokens, and its image has {image}: "
            f"more than max_seq_length={config.max_seq_length}; lower num_world_steps and train_world_steps, "
            f"{'lower world_unpooling' if unpooled else 'raise world_pooling'}, or raise max_seq_length"
        )


def continued_run(config: TrainingConfig, resume: Resume, stage: Stage) -> Resume | None:
    """`resume` if its run continues, `None` if a new stage starts from its weights. Logs which one, and why."""
    if other := ", ".join(stage.differences(resume.stage.get("stage", {}))):
        if newest_checkpoint(Path(config.output_dir)) is not None:
            message = f"{config.output_dir}: holds {resume.folder.name} of another stage, {other}"
            raise TheWorldError(f"{message}; choose another --output_dir")
        reason = other if resume.stage else "its missing trainer state"
        logger.info("%s: a new stage starts from its weights, because of %s", resume.folder, reason)
        return None
    logger.info("%s: the run continues after step %d", resume.folder, resume.step)
    if changed := config.changes(resume.stage["config"]):
        logger.warning(
            "resuming with changed settings: %s. Losses will differ from those of an uninterrupted run; peak "
            "learning rates and weight decay stay those of the checkpoint",
            ", ".join(changed),
        )
    return resume


def build_trainer(
    config: TrainingConfig, model: TheWorld, arguments: TrainingArguments, stage: Stage, data: Any, eval_data: Any
) -> TheWorldTrainer:
    """The trainer with its collator, skip lists and callbacks."""
    # 1. Skip lists, collator, and rows that are encoded before the first step
    skips: dict[bool, SkipLog] = {}
    for training, name, rows in ((True, SKIPPED, data), (False, SKIPPED_EVAL, eval_data)):
        total = len(rows) if isinstance(rows, Sized) else None
        skips[training] = SkipLog(Path(config.output_dir) / name, config.skip_budget, total)
    collator = OBJECTIVES[config.objective].collator(config, model)
    if config.encode_once:
        assert isinstance(model, AlignModel)
        cast(nn.Module, model).to(arguments.device)
        logs = skips if arguments.process_index == 0 else {}
        data = encode_rows(model, data, collator, logs.get(True))
        eval_data = encode_rows(model, eval_data, collator, logs.get(False)) if config.do_eval else None
        collator = default_collate
    # 2. The trainer, which logs to stderr
    trainer = TheWorldTrainer(
        model,
        config=config,
        stage={"stage": asdict(stage), "config": config.to_dict()},
        skips=skips,
        args=arguments,
        train_dataset=data,
        eval_dataset=eval_data,
        data_collator=collator,
        callbacks=[PreemptionCallback()],
    )
    for callback in (PrinterCallback, ProgressCallback):  # both write to stdout, which is for the result
        trainer.remove_callback(callback)
    for callback in (*([ProgressBar()] if sys.stderr.isatty() else []), LogLines()):
        trainer.add_callback(callback)
    return trainer


def result_of(config: TrainingConfig, trainer: TheWorldTrainer) -> RunResult:
    """The result of a run, which may have ended in an earlier call."""
    losses, metrics = ([row for row in trainer.state.log_history if name in row] for name in ("loss", "eval_loss"))
    preemption = trainer.pop_callback(PreemptionCallback)
    return RunResult(
        output_dir=config.output_dir,
        checkpoint=str(trainer.saved[-1]) if trainer.saved else None,
        step=trainer.state.global_step,
        loss=losses[-1]["loss"] if losses else None,
        metrics=metrics[-1] if metrics else {},
        skipped=len(trainer.skips[True]),
        skip_causes=trainer.skips[True].summary(),
        stopped=isinstance(preemption, PreemptionCallback) and preemption.stopped,
    )
