"""Checkpoints of a run: finds, checks and writes them.

A checkpoint is written to a hidden folder and renamed when every file is on disk. A run that is killed during a save
leaves the hidden folder, so every `checkpoint-N` is complete.
"""

import os
import shutil
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError, HTTPError, LocalEntryNotFoundError
from transformers.trainer import SCHEDULER_NAME
from transformers.trainer_callback import TrainerState
from transformers.utils import SAFE_WEIGHTS_NAME as WEIGHTS

from theworld.utils.errors import MissingFileError, TheWorldError, brief
from theworld.utils.folders import NUMBERED, missing_weights, numbered_checkpoints, read_object
from theworld.utils.hub import HUB_ID, warn_of_hub
from theworld.utils.io import write_json
from theworld.utils.logging import logger

from .config import AUTO, TrainingConfig
from .stages import Stage

SAVING = ".saving"
STATE = "trainer_state.json"
STAGE = "stage.json"
CHECKSUMS = "checksums.json"
TRAINING_STATE = ("*.pt", "*.pth", STATE, STAGE, CHECKSUMS)  # needed to resume, but not to load the model
CHECKED = (".safetensors", ".pt", ".pth", ".bin", ".distcp")  # the other files may be edited by hand
RNG_STATES = "rng_state*.pth"  # one per process
OPTIMIZER_STATES = ("optimizer.pt", "optimizer.bin", "optimizer_0", "latest")  # plain, FSDP whole or sharded, DeepSpeed
LAST = "last-checkpoint"  # the folder of the newest checkpoint in a published repository
CONTROL = "TrainerControl"  # transformers expects it in the state at the next save
FITS: dict[str, Callable[[Any], bool]] = {  # checks of the trainer's state, beyond the types of its fields
    "global_step": lambda step: step >= 1,
    "train_batch_size": lambda size: isinstance(size, int | None),
    "stateful_callbacks": lambda states: (
        CONTROL in states and all(isinstance(one, dict | list) for one in states.values())
    ),
    "log_history": lambda lines: all(
        isinstance(line, dict) and isinstance(line.get(name, 0), int | float)
        for line in lines
        for name in ("loss", "eval_loss")
    ),
}


@dataclass(frozen=True)
class Resume:
    """A checkpoint to start from, with `stage.json` and optimiser step; empty and 0 if it has only weights."""

    folder: Path
    stage: dict[str, Any]
    step: int = 0


def resolve(config: TrainingConfig) -> Resume | None:
    """The checkpoint that `config.resume` names; `None` for a fresh start. A ValueError if the run has newer ones."""
    newest = newest_checkpoint(Path(config.output_dir))
    start = newest if config.resume == AUTO else None if config.resume is None else locate(config.resume)
    if newest is not None and (start is None or start.resolve() != newest.resolve()):
        raise TheWorldError(
            f"{config.output_dir}: holds {newest.name} of an earlier run; continue it with --resume_from {AUTO}, or "
            "choose another --output_dir"
        )
    return None if start is None else read(start)


def read(folder: Path) -> Resume:
    """The complete checkpoint in `folder`; a ValueError names a damaged file, which training would not notice."""
    for path in sorted(folder.glob("*.json")):
        read_object(path)
    checksums = _checksums(folder)
    for name, checksum in checksums.items():
        if _crc32(folder / name) != checksum:
            raise _damaged(folder / name, "its checksum differs")
    if not has_state(folder):
        return Resume(folder, {})
    if unknown := [name for name in _binaries(folder) if name not in checksums]:
        raise _damaged(folder / CHECKSUMS, f"{', '.join(unknown)} is not in it")
    stage = read_object(folder / STAGE, "stage", "config")
    kinds: dict[str, Any] = {field.name: list if field.name == "trains" else field.type for field in fields(Stage)}
    for name, value in stage["stage"].items():
        if name not in kinds or type(value) is not kinds[name]:
            raise _damaged(folder / STAGE, f"{name} is {brief(repr(value))}")
    saved, defaults = read_object(folder / STATE), asdict(TrainerState())
    for name, value in ({"global_step": None, "stateful_callbacks": None} | saved).items():
        if name not in defaults or not _is_like(value, defaults[name]) or (name in FITS and not FITS[name](value)):
            raise _damaged(folder / STATE, f"{name} is {brief(repr(value))}")
    step, last, numbered = int(saved["global_step"]), saved.get("max_steps"), NUMBERED.fullmatch(folder.name)
    if (last is not None and step > last) or (numbered and step != int(numbered[1])):
        raise _damaged(folder / STATE, f"global_step is {step} in {folder.name}, of a run of {last} steps")
    return Resume(folder, stage, step)


def _damaged(path: Path, reason: str) -> TheWorldError:
    return TheWorldError(f"{path}: damaged, {reason}; resume from an earlier checkpoint")


def _is_like(value: Any, default: Any) -> bool:
    """Whether `value` has the type of a field with this default; any type fits the default None."""
    kinds = (int, float) if isinstance(default, int | float) else type(default)
    return default is None or isinstance(default, bool) or (isinstance(value, kinds) and not isinstance(value, bool))


def locate(name: str) -> Path:
    """The checkpoint `name`, or the newest one in the run folder or Hub repository; a FileNotFoundError if none is."""
    folder = Path(name).expanduser()
    if folder.is_file():
        raise TheWorldError(f"{name}: is a file; name the folder of a checkpoint or of a run")
    if not folder.is_dir():
        if HUB_ID.fullmatch(name):
            warn_of_hub(name)
            return _download(name)
        raise MissingFileError(f"{name}: no such checkpoint or run folder")
    if missing_weights(folder):
        if newest := newest_checkpoint(folder):
            return newest
        raise MissingFileError(f"{name}: no complete checkpoint there; expected {WEIGHTS} or checkpoint-N folders")
    if missing := missing_files(folder):
        raise MissingFileError(
            f"{name}: incomplete, {', '.join(missing)} is missing, so the run cannot continue exactly; resume from "
            "an earlier checkpoint, or start a new stage from its weights with --model_name"
        )
    return folder


def _download(name: str) -> Path:
    try:
        files = HfApi().list_repo_files(name)
        folders = {file.rpartition("/")[0] for file in files}
        numbers = [int(match[1]) for folder in folders if (match := NUMBERED.fullmatch(folder))]
        folder = f"checkpoint-{max(numbers)}" if numbers else LAST if LAST in folders else ""
        wanted = [file for file in files if file.rpartition("/")[0] == folder]
        found = Path(snapshot_download(name, allow_patterns=wanted)) / folder
    except (HTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        message = f"{name}: no such checkpoint or run folder here, and not readable on the Hub ({reason})"
        raise MissingFileError(message) from error
    if missing := missing_files(found):
        raise MissingFileError(f"{name}: the repository holds no complete checkpoint ({', '.join(missing)} is missing)")
    return found


def has_state(folder: Path) -> bool:
    """Whether a checkpoint was saved with optimiser, schedule and data order; a published one has only the model."""
    names = (CHECKSUMS, STATE, STAGE, SCHEDULER_NAME, *OPTIMIZER_STATES)
    return any((folder / name).exists() for name in names) or any(folder.glob(RNG_STATES))


def missing_files(folder: Path) -> list[str]:
    """Files that the checkpoint in `folder` lacks: weights and, if it has a trainer state, files of that state."""
    missing = missing_weights(folder)
    if has_state(folder):
        names = {*_checksums(folder), CHECKSUMS, STATE, STAGE}
        names |= {SCHEDULER_NAME} if (folder / "optimizer.pt").is_file() else set()
        missing += sorted(name for name in names if not (folder / name).is_file())
        missing += [] if any(folder.glob(RNG_STATES)) else [RNG_STATES]
    return list(dict.fromkeys(missing))


def _checksums(folder: Path) -> dict[str, int]:
    return read_object(folder / CHECKSUMS) if (folder / CHECKSUMS).is_file() else {}


def checkpoints(run: Path) -> list[Path]:
    """The complete `checkpoint-N` of a run folder, oldest first."""
    missing = {path: missing_files(path) for path in numbered_checkpoints(run)}
    for path, names in missing.items():
        if names:
            logger.warning("%s: not complete, ignored (%s is missing)", path, ", ".join(names))
    return [path for path, names in missing.items() if not names]


def newest_checkpoint(run: Path) -> Path | None:
    """The complete `checkpoint-N` of the largest N, if there is one."""
    return next(reversed(checkpoints(run)), None)


def publish(written: Path, target: Path) -> None:
    """Rename a checkpoint to `target`, once its files and their checksums are on disk."""
    write_json(written / CHECKSUMS, {name: _crc32(written / name) for name in _binaries(written)})
    for path in [*written.rglob("*"), written]:
        _sync(path)
    if target.exists():  # incomplete, or saved twice at one step
        shutil.rmtree(target)
    written.rename(target)
    _sync(target.parent)


def prune(saved: list[Path], limit: int | None) -> None:
    """Remove the first of the checkpoints `saved` until there are at most `limit`."""
    while limit and len(saved) > limit:
        shutil.rmtree(saved.pop(0))


def _binaries(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix in CHECKED)


def _crc32(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(2**24):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
