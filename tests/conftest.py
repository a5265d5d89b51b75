"""What every test starts from: no network, one thread a worker, fixed seeds, repositories of tiny models on disk."""

import gc
import logging
import os
import shutil
import sys

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub client is imported
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from collections.abc import Iterator, Sequence
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers.utils.hub
from huggingface_hub import constants, hf_api
from PIL import Image

from tests import tiny
from tests.hub_server import Hub


def pytest_configure() -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)
    else:  # what the commands of the pages left there, and would not write over
        shutil.rmtree(Path(__file__).parents[1] / "runs" / "docs", ignore_errors=True)


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
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


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def package_logger() -> Iterator[None]:
    """The logger as imported: commands set it up, also in fixtures of a module, which run before this one."""
    logger = logging.getLogger("theworld")

    def reset() -> None:
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.NOTSET)

    reset()
    yield
    reset()


@pytest.fixture(scope="session")
def gemma_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Gemma 3 repository on disk; read it, never write to it."""
    return tiny.write_tiny_gemma(tmp_path_factory.mktemp("gemma"))


@pytest.fixture(scope="session")
def cosmos_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Cosmos-Predict2 repository on disk, with its text encoder; read it, never write to it."""
    return tiny.write_tiny_cosmos(tmp_path_factory.mktemp("cosmos"), with_text_encoder=True)


@pytest.fixture(scope="session")
def images() -> list[Image.Image]:
    """Three RGB pictures that differ in every region, one of them not square."""
    rng = np.random.default_rng(0)
    sizes = [(48, 48), (64, 40), (33, 57)]
    return [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), "RGB") for width, height in sizes]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """An empty Hub on loopback, to which this process is turned, without a token."""
    with Hub.running() as hub:
        for name, value in hub.environment(tmp_path / "hf").items():
            monkeypatch.setenv(name, value)
        settings = {  # what the client made of its variables when it was imported
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "hf" / "hub"),
            "HF_TOKEN_PATH": str(tmp_path / "hf" / "token"),
        }
        for name, value in settings.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(hf_api.api, "endpoint", hub.url)
        monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
        yield hub
