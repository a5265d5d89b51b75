"""Lanes: sequences of stages that run in parallel processes, and end together.

A stage that has finished has left its file, so a lane continues where an earlier call ended.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, cast

import torch

from theworld.utils.errors import TheWorldError, is_users, one_line
from theworld.utils.logging import configure_logging

logger = logging.getLogger(__name__)

Lane = list[tuple[Path, Callable[[], object]]]
"""(file, stage) pairs in order. The file exists if the stage has finished."""

LONGEST = 20_000  # characters of a traceback that a process sends; more could block it

# By default, glibc returns memory to the system after every step. Keeping it makes a CPU step take 2/3 of the time
_ALLOCATOR = {
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TOP_PAD_": "500000000",
}


def run_lanes(lanes: Sequence[Lane], workers: int) -> None:
    """Run the unfinished stages of every lane in order. Up to `workers` lanes run in parallel, each in its process.

    If a lane fails, the others are ended. They are also ended if this process is killed.

    Raises:
        ValueError: A stage failed with an error that a user can correct, or its process was killed.
        RuntimeError: A stage failed with another error; the message holds its traceback.
    """
    lanes = [[stage for stage in lane if not stage[0].is_file()] for lane in lanes]
    waiting = [lane for lane in lanes if lane]
    side_by_side = min(workers, len(waiting))
    if side_by_side < 2:
        for lane in waiting:
            _run_stages(lane)
        return
    os.environ.update({name: value for name, value in _ALLOCATOR.items() if name not in os.environ})
    threads = max(1, (os.cpu_count() or 1) // side_by_side)
    context, running = multiprocessing.get_context("spawn"), dict[int, tuple[SpawnProcess, Any]]()
    try:
        while waiting or running:
            while waiting and len(running) < side_by_side:
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_run_in_process, args=(waiting.pop(0), threads, theirs))
                process.start()
                theirs.close()
                running[process.sentinel] = process, ours
            for sentinel in wait([*running]):
                _check(*running.pop(cast(int, sentinel)))
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.join()


def _check(process: SpawnProcess, told: Any) -> None:
    """Raise the error of a lane whose process has ended; `told` is the receiving end of its pipe."""
    process.join()
    if process.exitcode == 0:
        return
    try:
        is_of_user, message = told.recv()
    except EOFError:  # it was killed
        raise TheWorldError(
            f"the process of a stage ended with code {process.exitcode}, as it does if memory is short: run the same "
            "command again to resume, if needed with fewer workers"
        ) from None
    raise TheWorldError(message) if is_of_user else RuntimeError(message)


def _run_in_process(lane: Lane, threads: int, told: Any) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    configure_logging()
    torch.set_num_threads(threads)
    try:
        _run_stages(lane)
    except Exception as error:  # noqa: BLE001  # the parent raises it
        is_of_user = is_users(error)
        told.send((is_of_user, one_line(error) if is_of_user else traceback.format_exc()[-LONGEST:]))
        sys.exit(1)


def _end_with_parent() -> None:
    """End this process when its parent has ended: another run may already use the folder."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run_stages(lane: Lane) -> None:
    for marker, run in lane:
        logger.info("%s: starting", marker.relative_to(marker.parents[1]))
        run()


__all__ = ["Lane", "run_lanes"]
