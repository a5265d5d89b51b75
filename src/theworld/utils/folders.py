"""Atomic replacement of folders, and the lock and the numbered checkpoints of a run folder."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import sys
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from huggingface_hub.constants import SAFETENSORS_INDEX_FILE, SAFETENSORS_SINGLE_FILE
from huggingface_hub.utils import WeakFileLock

from .errors import FileError, MissingFileError, TheWorldError
from .io import naming_path, unique_keys

NUMBERED = re.compile(r"checkpoint-(\d+)")
LOCK, LOCK_SECONDS = ".lock", 0.2
RENAME_EXCHANGE, AT_FDCWD = 2, -100  # constants of renameat2 (Linux)


def put(folder: Path, target: Path, *, replaced: Sequence[str], marks: Sequence[str]) -> None:
    """Replace `target` by a new folder atomically, and keep its other files.

    An older folder is exchanged for the new one in one step. If the system cannot do this, the old one is renamed
    first, and `recover` restores it after a crash in between.

    Args:
        folder: On the file system of `target`.
        replaced: Patterns of the files in an older `target` to replace.
        marks: An older `target` has one of these files. A folder without them gets the new files one by one, these
            last.
    """
    # 1. A new folder, or one without an older version
    recover(target)
    if not target.exists():
        folder.rename(target)
        return
    has_older = any((target / name).exists() for name in marks)
    if has_older and target in folder.parents:
        raise FileError(
            f"{target}: cannot be replaced, because its parent folder is not writable or on another "
            "file system; save to a new folder"
        )
    if not has_older:
        for path in sorted(folder.iterdir(), key=lambda path: path.name in marks):
            if path.is_dir():
                shutil.rmtree(target / path.name, ignore_errors=True)
            path.replace(target / path.name)
        return
    # 2. Copy the other files of the older folder
    old = {path.name for pattern in replaced for path in target.glob(pattern)}
    for path in target.iterdir():
        if path.name in old or (folder / path.name).exists():
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, folder / path.name, symlinks=True, copy_function=link_or_copy)
        else:
            link_or_copy(path, folder / path.name)  # a link keeps a log that is open
    # 3. Exchange the folders
    here = Path.cwd()
    if not exchanged(folder, target):
        target.rename(aside(target))
        folder.rename(target)
        shutil.rmtree(aside(target), ignore_errors=True)
    os.chdir(here)  # enter it by name again: it may be the folder that was exchanged


@contextmanager
def made_whole(target: Path) -> Generator[Path]:
    """A new folder to write in, which becomes `target` at the end, or is removed after an error."""
    partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)  # of an earlier process with this number
    with naming_path(target):
        partial.mkdir(parents=True)
    try:
        yield partial
        with naming_path(target):
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def place_for(target: Path) -> Path:
    """The folder to write a new `target` in: its parent, or `target` if it is a mount point or the parent read-only."""
    apart = target.is_dir() and target.stat().st_dev != target.parent.stat().st_dev
    return target if apart or (target.is_dir() and not os.access(target.parent, os.W_OK)) else target.parent


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Hard-link a file; copy it if the file system has no hard links."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def exchanged(first: Path, second: Path) -> bool:
    """Exchange two folders in one step; False if the system cannot (it can on Linux, with most file systems)."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    return rename is not None and not rename(
        AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE
    )


def aside(target: Path) -> Path:
    """Temporary name of an older folder in `put`."""
    return target.with_name(f".{target.name}.old")


def recover(target: Path) -> None:
    """Restore a folder that a crash left under its temporary name."""
    target = target.resolve()
    if aside(target).is_dir() and not target.exists():
        aside(target).rename(target)


def read_object(path: Path, *keys: str, cure: str = "resume from an earlier checkpoint") -> dict[str, Any]:
    """The JSON object in a file; its values under `keys` must be objects.

    Raises:
        ValueError: It holds something else, and the error ends with `cure`; or a key is repeated.
    """
    try:
        value = json.loads(path.read_bytes(), object_pairs_hook=unique_keys)
    except TheWorldError as error:
        raise TheWorldError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise TheWorldError(f"{path}: damaged, not JSON ({error}); {cure}") from error
    if not isinstance(value, dict) or not all(isinstance(value.get(key), dict) for key in keys):
        expected = f" with the objects {', '.join(keys)}" if keys else f", got {type(value).__name__}"
        raise TheWorldError(f"{path}: damaged, expected a JSON object{expected}; {cure}")
    return value


def missing_weights(folder: Path) -> list[str]:
    """Files of the config and the weights that the checkpoint in `folder` lacks; empty if it can be loaded."""
    names = [SAFETENSORS_SINGLE_FILE]
    if not (folder / SAFETENSORS_SINGLE_FILE).is_file() and (folder / SAFETENSORS_INDEX_FILE).is_file():
        names = sorted(set(read_object(folder / SAFETENSORS_INDEX_FILE, "weight_map")["weight_map"].values()))
    return [name for name in ("config.json", *names) if not (folder / name).is_file()]


def numbered_checkpoints(run: Path) -> list[Path]:
    """The folders `checkpoint-N` of a run, by number: 1000 after 999."""
    found = {int(match[1]): path for path in run.glob("checkpoint-*") if (match := NUMBERED.fullmatch(path.name))}
    return [found[number] for number in sorted(found) if found[number].is_dir()]


def model_folder(name: str) -> str:
    """The newest checkpoint with all of its weights, if `name` is the folder of a run; otherwise `name`.

    Raises:
        FileNotFoundError: No checkpoint of the run has all of its weights.
    """
    checkpoints = numbered_checkpoints(Path(name))
    if not checkpoints or not missing_weights(Path(name)):
        return name
    whole = [path for path in checkpoints if not missing_weights(path)]
    if not whole:
        raise MissingFileError(f"{name}: no complete checkpoint in this run folder; expected {SAFETENSORS_SINGLE_FILE}")
    return str(whole[-1])


@contextmanager
def locked(folder: Path, *, is_main: bool, option: str = "output_dir") -> Generator[None]:
    """Hold the lock of a run folder. The system frees it when the process ends. All ranks of a launch are one run.

    Args:
        option: The setting that names the folder.

    Raises:
        ValueError: Another run holds it, or `folder` is a file.
    """
    with ExitStack() as stack:
        if is_main:
            if folder.exists() and not folder.is_dir():
                raise TheWorldError(f"{option}={str(folder)!r}: is a file; name the folder of the run")
            if not folder.is_dir():
                folder.mkdir(parents=True)
                stack.callback(_remove_empty, folder)  # an early error leaves no folder
            try:
                stack.enter_context(WeakFileLock(folder / LOCK, timeout=LOCK_SECONDS))
            except TimeoutError as error:
                raise TheWorldError(
                    f"{option}={str(folder)!r}: another run uses this folder; wait for its end, or choose another "
                    "folder"
                ) from error
            # Removed while held: a run that opened it meanwhile notices the removal and makes a new one
            stack.callback((folder / LOCK).unlink, missing_ok=True)
        yield


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
