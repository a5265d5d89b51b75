"""The benchmarks: one file each, registered in `TASKS`."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from runpy import run_path
from typing import ParamSpec, TypeVar

from theworld.data.schema import Message, SourceSettings
from theworld.utils.errors import TheWorldError, brief

from ..settings import check_task
from ..store.predictions import Item
from .answers import parse_choice
from .base import Score, Task, TaskItems
from .blink import BLINK
from .custom import CUSTOM
from .micro_world import MICRO_WORLD
from .spatial_rgpt import SPATIAL_RGPT
from .vsr import VSR

P = ParamSpec("P")
R = TypeVar("R")

TASKS: dict[str, Task] = {task.name: task for task in (BLINK, CUSTOM, MICRO_WORLD, SPATIAL_RGPT, VSR)}
"""`--task` -> the benchmark."""


def find_task(name: str) -> Task:
    """The benchmark of `--task`: a key of `TASKS`, or `path/to/file.py:NAME` for a `Task` in a user's file.

    The file is executed.

    Raises:
        TheWorldError: The task is unknown, or the file is missing, fails, or does not define the `Task`. So do errors
            of its `load` and `score`, with the line.
    """
    check_task(name)
    if name in TASKS:
        return TASKS[name]
    path, _, attribute = name.rpartition(":")
    try:
        defined = run_path(path, run_name=f"task_file_{Path(path).stem}")
    except Exception as error:
        raise TheWorldError(f"task file {path} failed: {type(error).__name__}: {brief(str(error))}") from error
    found = defined.get(attribute)
    if not isinstance(found, Task):
        is_what = "missing" if found is None else f"a {type(found).__name__}"
        tasks = ", ".join(f"{path}:{key}" for key, value in defined.items() if isinstance(value, Task)) or "none"
        raise TheWorldError(f"task {brief(name)!r}: {attribute} is {is_what}, expected a Task; the file has {tasks}")
    if found.name in TASKS:
        raise TheWorldError(f"task {brief(name)!r}: its name {found.name!r} is that of a built-in task: rename it")
    return replace(found, load=_of_file(path, found.load), score=_of_file(path, found.score))


def _of_file(path: str, function: Callable[P, R]) -> Callable[P, R]:
    """`function` of a task file. Its errors name the file, the line and the function."""

    @wraps(function)
    def named(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except TheWorldError:
            raise
        except Exception as error:
            lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
            told = f"{type(error).__name__}: {brief(str(error))}"
            raise TheWorldError(f"{path}, line {(lines or [0])[-1]}, {function.__name__}() failed: {told}") from error

    return named


__all__ = ["TASKS", "Item", "Message", "Score", "SourceSettings", "Task", "TaskItems", "find_task", "parse_choice"]
