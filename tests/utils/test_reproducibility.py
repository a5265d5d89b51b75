import json
import random

import numpy as np
import pytest
import torch

import theworld
from theworld.utils.reproducibility import environment, seed_everything


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_seed_covers_every_generator() -> None:
    seed_everything(3)
    first = draw()
    seed_everything(4)
    assert all(a != b for a, b in zip(first, draw(), strict=True))
    seed_everything(3)
    assert draw() == first


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range(seed: int) -> None:
    with pytest.raises(ValueError, match=str(seed)):
        seed_everything(seed)


def test_environment_is_json_and_names_versions() -> None:
    values = json.loads(json.dumps(environment()))
    assert values["packages"]["torch"] == torch.__version__
    assert values["packages"]["theworld"] == theworld.__version__
    assert values["devices"][-1] == "cpu"
