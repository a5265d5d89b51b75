"""Checkpoints of a run: where they are, whether they are whole, and how one appears at once.

A checkpoint is written to a hidden folder and takes its name when every file is on disk. A run that dies in the middle
of a save leaves the folder hidden, and every `checkpoint-N` there is, is whole.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError, HTTPError, LocalEntryNotFoundError
from transformers.trainer_callback import TrainerState
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME as WEIGHTS_INDEX
from transformers.utils import SAFE_WEIGHTS_NAME as WEIGHTS

from theworld.utils.io import write_json
from theworld.utils.logging import logger

from .config import AUTO, TrainingConfig

SAVING = ".saving"
STATE = "trainer_state.json"
STAGE = "stage.json"
CHECKSUMS = "checksums.json"
CHECKED = (".safetensors", ".pt", ".pth", ".bin", ".distcp")
"""Files without checksums of their own that anyone verifies; people edit the others."""
OPTIMIZER_STATES = ("optimizer.pt", "optimizer.bin", "optimizer_0", "latest")  # plain, FSDP whole or cut up, DeepSpeed
LAST = "last-checkpoint"  # what publishing calls the one checkpoint that it keeps up to date
NUMBERED = re.compile(r"checkpoint-(\d+)")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Resume:
    """A checkpoint to go on from.

    Args:
        folder: Where it lies on this machine.
        stage: What `stage.json` says of the run that wrote it; empty if it has no trainer state.
        step: Its optimiser step; 0 without trainer state.
    """

    folder: Path
    stage: dict[str, Any]
    step: int = 0

    @property
    def has_state(self) -> bool:
        """Whether optimiser, schedule and data order can continue, not only the weights."""
        return bool(self.stage)


def resolve(config: TrainingConfig) -> Resume | None:
    """The checkpoint that `config.resume` means; `None` for a fresh start.

    Raises:
        FileNotFoundError: It names nothing.
        ValueError: `output_dir` is no folder, or holds newer checkpoints than the one to start from; or that one is
            damaged.
    """
    output = Path(config.output_dir)
    if output.exists() and not output.is_dir():
        raise ValueError(f"output_dir={config.output_dir!r}: is a file; name the folder of the run")
    newest = newest_checkpoint(output)
    start = newest
    if config.resume != AUTO:
        start = None if config.resume is None else locate(config.resume)
    if newest is not None and (start is None or start.resolve() != newest.resolve()):
        raise ValueError(
            f"{output}: holds {newest.name} of an earlier run; continue it with --resume_from {AUTO}, or choose "
            "another --output_dir"
        )
    return None if start is None else read(start)


def read(folder: Path) -> Resume:
    """What the checkpoint in `folder` can continue.

    Raises:
        ValueError: A file of it is damaged.
    """
    check_whole(folder)
    has_optimizer = any((folder / name).exists() for name in OPTIMIZER_STATES)
    if not has_optimizer or not (folder / STATE).is_file() or not (folder / STAGE).is_file():
        return Resume(folder, {})
    try:
        stage = json.loads((folder / STAGE).read_text(encoding="utf-8"))
        step = TrainerState.load_from_json(str(folder / STATE)).global_step
    except (ValueError, TypeError) as error:
        raise ValueError(f"{folder}: damaged trainer state ({error}); resume from an earlier checkpoint") from error
    return Resume(folder, stage, step)


def check_whole(folder: Path) -> None:
    """Compare the files of a checkpoint with their checksums: a flipped byte would train on unnoticed.

    Raises:
        ValueError: One is damaged.
    """
    for path in sorted(folder.glob("*.json")):
        try:
            json.loads(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path}: damaged, not JSON ({error}); resume from an earlier checkpoint") from error
    known: dict[str, int] = json.loads((folder / CHECKSUMS).read_bytes()) if (folder / CHECKSUMS).is_file() else {}
    for name, checksum in known.items():
        if (folder / name).is_file() and _crc32(folder / name) != checksum:
            raise ValueError(f"{folder / name}: damaged, its checksum differs; resume from an earlier checkpoint")


def locate(name: str) -> Path:
    """The folder of the checkpoint that `name` means: itself, or the newest of a run folder or Hub repository.

    Raises:
        FileNotFoundError: There is no such folder and no such repository, or it holds no complete checkpoint.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        found = folder if is_complete(folder) else newest_checkpoint(folder)
        if found is None:
            raise FileNotFoundError(f"{name}: no complete checkpoint there; expected {WEIGHTS} or checkpoint-N folders")
        return found
    if not HUB_ID.fullmatch(name):
        raise FileNotFoundError(f"{name}: no such checkpoint or run folder")
    return _download(name)


def _download(name: str) -> Path:
    try:
        files = HfApi().list_repo_files(name)
        steps = [int(match[1]) for file in files if (match := NUMBERED.match(file))]
        candidates = [f"checkpoint-{step}" for step in sorted(steps, reverse=True)[:1]] or [LAST, ""]
        parents = {file.rpartition("/")[0] for file in files}
        folder = next((candidate for candidate in candidates if candidate in parents), "")
        wanted = [file for file in files if file.rpartition("/")[0] == folder]
        found = Path(snapshot_download(name, allow_patterns=wanted)) / folder
    except (HTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise FileNotFoundError(
            f"{name}: no such checkpoint or run folder here, and not readable on the Hub ({reason})"
        ) from error
    if not is_complete(found):
        raise FileNotFoundError(f"{name}: the repository holds no complete checkpoint ({WEIGHTS})")
    return found


def is_complete(folder: Path) -> bool:
    """Whether `folder` holds a model's config and all of its weight files."""
    if not (folder / "config.json").is_file():
        return False
    if (folder / WEIGHTS).is_file():
        return True
    index = folder / WEIGHTS_INDEX
    if not index.is_file():
        return False
    return all(
        (folder / shard).is_file()
        for shard in set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    )


def checkpoints(run: Path) -> list[Path]:
    """The complete `checkpoint-N` of a run folder, oldest first."""
    numbered = [path for path in run.glob("checkpoint-*") if NUMBERED.fullmatch(path.name) and path.is_dir()]
    incomplete = [path for path in numbered if not is_complete(path)]
    if incomplete:
        logger.warning("%s: not complete, ignored", ", ".join(map(str, incomplete)))
    return sorted((path for path in numbered if path not in incomplete), key=lambda path: int(path.name.split("-")[1]))


def newest_checkpoint(run: Path) -> Path | None:
    """The complete `checkpoint-N` of the largest N, if there is one."""
    return next(reversed(checkpoints(run)), None)


def publish(written: Path, target: Path) -> None:
    """Give a checkpoint its name, once all of its bytes are on disk and their checksums beside them."""
    binary = (path for path in written.rglob("*") if path.suffix in CHECKED)
    write_json(written / CHECKSUMS, {path.relative_to(written).as_posix(): _crc32(path) for path in sorted(binary)})
    for path in [*written.rglob("*"), written]:
        _sync(path)
    if target.exists():  # incomplete, or saved twice at one step
        shutil.rmtree(target)
    written.rename(target)
    _sync(target.parent)


def prune(run: Path, limit: int | None) -> None:
    """Remove the oldest checkpoints past `limit`; what is not complete does not count as one."""
    for path in checkpoints(run)[: -limit if limit else 0]:
        shutil.rmtree(path)


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


__all__ = [
    "Resume",
    "check_whole",
    "checkpoints",
    "is_complete",
    "locate",
    "newest_checkpoint",
    "prune",
    "publish",
    "read",
    "resolve",
]
