"""Fixtures of all tests: fixed seeds, the package's logger as imported, repositories of tiny models, a Hub."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers.utils.hub
from huggingface_hub import constants, hf_api
from PIL import Image

from tests import tiny
from tests.hub_server import Hub


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
