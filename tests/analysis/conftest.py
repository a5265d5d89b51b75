"""One tiny model for all tests here: 4 x 4 world tokens a frame, up to 4 steps ahead."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.model.helpers import load_world
from theworld import TheWorld


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where prompt embeddings go."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("THEWORLD_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def world(gemma_folder: Path, cosmos_folder: Path) -> TheWorld:
    """Never train or change it."""
    return load_world(gemma_folder, cosmos_folder, num_world_steps=1)
