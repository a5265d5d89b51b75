"""Starts processes from a server that has already imported torch, transformers and the package."""

import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from torch import distributed
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from theworld.cli.main import main

CONTEXT = multiprocessing.get_context("forkserver")  # a fork of this process would lack the threads of its libraries
CONTEXT.set_forkserver_preload(["tests.preloaded"])


def theworld(*arguments: str) -> None:
    """`theworld <arguments>` in a process of its own, which ends with the exit code of the command."""
    code = main(arguments)
    if code:
        sys.exit(code)
    assert not distributed.is_initialized()  # threads of a group can abort a process that ends before them


def torchrun(folder: Path, function: Callable[..., None], *arguments: Any, code: int = 0) -> str:
    """Call a function in two processes, as `torchrun --standalone --nproc_per_node 2` does; returns their stdout.

    Args:
        folder: A folder of no other launch, for what they print.
        code: Expected exit code of the first process that fails; 0 if none does.
    """
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id="test",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="forkserver",
        logs_specs=DefaultLogsSpecs(log_dir=str(folder), redirects=Std.ALL),
    )

    def printed(name: str) -> str:
        return "".join(file.read_text(encoding="utf-8") for file in sorted(folder.rglob(f"{name}.log")))

    ended = 0
    # In another thread, because the launch sets signal handlers in the main thread
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as thread:
        patch.setenv("TORCHELASTIC_SIGNALS_TO_HANDLE", "")  # changed by the launch, and restored afterwards
        try:
            thread.submit(elastic_launch(config, function), *arguments).result()
        except ChildFailedError as error:
            ended = error.get_first_failure()[1].exitcode
    assert ended == code, printed("stderr")
    return printed("stdout")
