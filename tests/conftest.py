"""What every test starts from: no network, and one thread a worker. The fixtures are in `fixtures.py`."""

import gc
import os
import shutil
import sys

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub client is imported
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from collections.abc import Sequence
from multiprocessing import forkserver
from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    worker = "PYTEST_XDIST_WORKER" in os.environ
    if worker:
        import torch

        torch.set_num_threads(1)
    else:  # what the commands of the pages left there, and would not write over
        shutil.rmtree(Path(__file__).parents[1] / "runs" / "docs", ignore_errors=True)
    if worker or not config.getoption("numprocesses", None):  # otherwise this process runs no test: torch is slow
        config.pluginmanager.import_plugin("tests.fixtures")


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    import torch

    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_collection_finish() -> None:
    """Start the server of processes, which keeps the environment and folder of its start."""
    if "tests.processes" in sys.modules:
        forkserver.ensure_running()
    _free()


@pytest.hookimpl(trylast=True)  # after the module's fixtures
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is None or nextitem.path != item.path:
        _free()


def _free() -> None:
    """Collect garbage, then exclude the survivors from later collections, which every training starts."""
    gc.collect()
    gc.freeze()
