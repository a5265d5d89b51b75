"""A run from its config to its last checkpoint.

<output_dir>/config.json      what was asked, without any token
             manifest.json    versions, machine, source state, data, stage
             checkpoint-N/    delta weights, config, processor, and what continuing needs
             logs/            TensorBoard
             skipped.jsonl    rows that gave no example
"""

from collections.abc import Generator, Sized
from contextlib import contextmanager
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
from theworld.utils.imports import require
from theworld.utils.io import write_json
from theworld.utils.logging import logger
from theworld.utils.reproducibility import environment, seed_everything

from .align import AlignModel, encode_rows
from .arguments import reporters, training_arguments
from .callbacks import progress
from .config import TrainingConfig
from .objectives import OBJECTIVES
from .preemption import PreemptionCallback
from .publish import Publisher
from .resume import STATE, Resume, locked, newest_checkpoint, resolve
from .rows import image_files, load_rows
from .stages import Stage, compile_layers, data_fingerprint, load_model, stage_table, trained_parts
from .streams import EndlessRows
from .trainer import TheWorldTrainer

MARKERS = 2  # tokens around an image, and around a world block
OBJECT = "an object given to train"  # the path of rows that no file holds
SKIPPED, SKIPPED_EVAL = "skipped.jsonl", "skipped_eval.jsonl"


@dataclass(frozen=True)
class RunResult:
    """What a run did.

    Args:
        checkpoint: The newest one in `output_dir`.
        step: Optimiser steps done, including those before it was resumed.
        loss: The last logged training loss.
        metrics: The last evaluation.
        skipped: Rows that gave no example.
        skip_causes: Those by cause, one line each.
        stopped: Whether a signal ended it before its last step.
    """

    output_dir: str
    checkpoint: str | None
    step: int
    loss: float | None
    metrics: dict[str, float]
    skipped: int
    skip_causes: str
    stopped: bool


def train(config: TrainingConfig, *, train_dataset: Any = None, eval_dataset: Any = None) -> RunResult:
    """Run `config` to its end, or continue it where `config.resume` says.

    Args:
        train_dataset: Rows in place of those that the config names: a list of dicts, a `TheWorldDataset`, a
            `datasets.Dataset`, a `torch.utils.data.Dataset`, or an iterable one with `max_steps`.
        eval_dataset: Likewise, for an evaluation every `eval_steps` steps.

    Raises:
        ValueError: The config, the data or a checkpoint cannot be used, or the run cannot go on.
        FileNotFoundError: A file, folder or checkpoint is missing.
    """
    if train_dataset is not None:
        config = replace(config, train_dataset_path=OBJECT)
    if eval_dataset is not None:
        config = replace(config, do_eval=True, eval_dataset_path=OBJECT)
    with hub_token(config.hf_token):
        arguments = training_arguments(config)
        for line in config.without_effect() if arguments.process_index == 0 else ():
            logger.warning("%s", line)
        with locked(Path(config.output_dir), is_main=arguments.process_index == 0):
            return _train(config, arguments, train_dataset, eval_dataset)


@contextmanager
def hub_token(token: str | None) -> Generator[None]:
    """Set `HF_TOKEN`, where every library that uses the Hub looks first, to `token` if there is one."""
    if token is None:
        yield
        return
    keep_secret(token)
    with patch_environment(**{HUB_TOKEN: token}):
        yield


def _train(config: TrainingConfig, arguments: TrainingArguments, given: Any, given_eval: Any) -> RunResult:
    # 1. Data and model
    resume = resolve(config)
    publisher = Publisher(config) if config.push_to_hub and arguments.process_index == 0 else None
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
    # 2. The run that continues, or a new stage
    paths = config.train_dataset_path if given is None else rows_fingerprint(data)
    images = image_files(config, data) if given is None else []
    fingerprint = data_fingerprint(paths, data, config.split, images)
    world = config.enable_world, model.config.num_world_steps
    stage = Stage(config.objective, trained_parts(model), fingerprint, *world)
    continues = resume is not None and continues_stage(config, resume, stage)
    if resume is not None and not continues and newest_checkpoint(Path(config.output_dir)) is not None:
        raise TheWorldError(
            f"{config.output_dir}: holds {resume.folder.name} of another stage, "
            f"{', '.join(stage.differences(resume.stage.get('stage', {})))}; choose another --output_dir"
        )
    if not continues and arguments.process_index == 0:
        for name in (SKIPPED, SKIPPED_EVAL):  # of a run that failed here: rows may have been corrected since
            (Path(config.output_dir) / name).unlink(missing_ok=True)
    # 3. Train, save, push
    trainer = build_trainer(config, model, arguments, stage, data, eval_data)
    if publisher is not None:
        trainer.add_callback(publisher)
    if trainer.is_world_process_zero():
        write_run(config, stage, resume, data)
        logger.info("%s", stage_table(model, config))
    if continues and resume is not None and resume.step >= trainer.total_steps():
        logger.warning("%s: all steps are done; raise max_steps or num_epochs to go on", resume.folder)
        trainer.state = TrainerState.load_from_json(str(resume.folder / STATE))
    else:
        _run(config, trainer, resume if continues else None)
    result = result_of(config, trainer)
    if publisher is not None and result.checkpoint is not None and not result.stopped:
        publisher.finish(Path(result.checkpoint))
    return result


def check_length(config: TrainingConfig, model: TheWorld) -> None:
    """Raise a ValueError, before any row is read, if an image and its world block are longer than `max_seq_length`."""
    shape = model.config
    if config.objective != "answers" or not config.enable_world or not FUSIONS[shape.fusion].block:
        return
    world, image = shape.world_tokens(shape.num_world_steps) + MARKERS, cast(int, shape.mm_tokens_per_image) + MARKERS
    if world + image > config.max_seq_length:
        raise TheWorldError(
            f"num_world_steps={shape.num_world_steps} with world_pooling={shape.world_pooling} gives a world block of "
            f"{world} tokens, and its image has {image}: more than max_seq_length={config.max_seq_length}; lower "
            "num_world_steps, or raise world_pooling or max_seq_length"
        )


def continues_stage(config: TrainingConfig, resume: Resume, stage: Stage) -> bool:
    """Whether the checkpoint's run continues, or a new stage starts from its weights. Logs which, and why."""
    if not resume.stage:
        logger.info("%s: no trainer state, a new stage starts from its weights", resume.folder)
        return False
    other = stage.differences(resume.stage["stage"])
    if other:
        logger.info("%s: a new stage starts from its weights, because of %s", resume.folder, ", ".join(other))
        return False
    changed = config.changes(resume.stage["config"])
    logger.info("%s: the run continues after step %d", resume.folder, resume.step)
    if changed:
        logger.warning(
            "resuming with changed settings: %s. Losses will differ from those of an uninterrupted run; peak "
            "learning rates and weight decay stay those of the checkpoint",
            ", ".join(changed),
        )
    return True


def build_trainer(
    config: TrainingConfig, model: TheWorld, arguments: TrainingArguments, stage: Stage, data: Any, eval_data: Any
) -> TheWorldTrainer:
    """The trainer with its collator, skip lists and callbacks."""
    skips = {
        training: SkipLog(
            Path(config.output_dir) / name, config.skip_budget, len(rows) if isinstance(rows, Sized) else None
        )
        for training, name, rows in ((True, SKIPPED, data), (False, SKIPPED_EVAL, eval_data))
    }
    collator = OBJECTIVES[config.objective].collator(config, model)
    if config.encode_once:
        assert isinstance(model, AlignModel)
        cast(nn.Module, model).to(arguments.device)
        logs = skips if arguments.process_index == 0 else {}
        data = encode_rows(model, data, collator, logs.get(True))
        eval_data = encode_rows(model, eval_data, collator, logs.get(False)) if config.do_eval else None
        collator = default_collate
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
    for callback in (PrinterCallback, ProgressCallback):  # both write to stdout, which belongs to the result
        trainer.remove_callback(callback)
    for callback in progress():
        trainer.add_callback(callback)
    return trainer


def write_run(config: TrainingConfig, stage: Stage, resume: Resume | None, data: Any) -> None:
    """`config.json` and `manifest.json` of the run folder."""
    manifest = {
        "environment": environment(),
        "stage": asdict(stage),
        "mixture": data.record() if isinstance(data, Mixture) else None,
        "resumed_from": None if resume is None else str(resume.folder),
    }
    write_json(Path(config.output_dir) / "config.json", config.to_dict())
    write_json(Path(config.output_dir) / "manifest.json", manifest)


def _run(config: TrainingConfig, trainer: TheWorldTrainer, resume: Resume | None) -> None:
    is_main = trainer.is_world_process_zero()
    for callback in reporters(config, resume.step if resume else 0) if is_main else []:
        trainer.add_callback(callback)
    try:
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume.folder))
    finally:
        if config.log_to_wandb and is_main:
            require("wandb", "wandb").finish()


def result_of(config: TrainingConfig, trainer: TheWorldTrainer) -> RunResult:
    """The result of a run that ended now or earlier."""
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
