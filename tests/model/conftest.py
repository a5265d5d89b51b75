"""Models of every kind of world block, loaded once; and a cache folder of our own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.model.helpers import Message, encode, load_world, user
from theworld import TheWorld
from theworld.utils import optimizer_steps

Load = Callable[..., TheWorld]


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where prompt embeddings go."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("THEWORLD_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def load(gemma_folder: Path, cosmos_folder: Path) -> Load:
    """Load a model of one's own, with any keyword of `TheWorld.from_pretrained`."""
    return lambda **overrides: load_world(gemma_folder, cosmos_folder, **overrides)


@pytest.fixture(scope="session")
def shared(load: Load) -> Load:
    """As `load`, but a model that was asked for before is not loaded again: never train or change it."""
    loaded: dict[Any, TheWorld] = {}

    def get(**overrides: Any) -> TheWorld:
        key = tuple(sorted(overrides.items()))
        if key not in loaded:
            loaded[key] = load(**overrides)
            del optimizer_steps._watched[loaded[key]]  # or every later optimizer step would look through it
        return loaded[key]

    return get


@pytest.fixture(scope="session")
def world(shared: Load) -> TheWorld:
    """The default model; never train or change it."""
    return shared()


@pytest.fixture(scope="session")
def conversations(images: list[Image.Image]) -> dict[str, list[Message]]:
    return {
        "text": [user("What colour is the ball?")],
        "image": [user("Which bin will the ball land in?", images[0])],
        "two images": [user("Which falls?", images[1], images[2])],
    }


@pytest.fixture(scope="session")
def inputs(world: TheWorld, conversations: dict[str, list[Message]]) -> Any:
    """One prompt with one image and its world block."""
    return encode(world.processor, conversations["image"])
