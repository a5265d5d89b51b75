"""Evaluation and analysis of a model that accelerate left on the disk, whose `device` is meta."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.model.helpers import load_world
from theworld import TheWorld
from theworld.analysis.alignment import collect_tokens
from theworld.data.schema import Message
from theworld.evaluation.ask.arms import ARMS
from theworld.evaluation.ask.prompts import PromptBuilder
from theworld.evaluation.ask.scorers import choices, generate
from theworld.evaluation.ask.worlds import encode_worlds
from theworld.evaluation.lmms.answering import Answering, text_prompt
from theworld.evaluation.store.predictions import Item
from theworld.model.checkpoints.load import memory_beside
from theworld.model.world_encoders import WORLD_ENCODERS
from theworld.nano.asking import Item as NanoItem
from theworld.nano.asking import answer_items
from theworld.nano.examples import load_example
from theworld.nano.questions import Question
from theworld.utils.hub import Source

CHOICES = ("red", "the blue bin")


@pytest.fixture(scope="module")
def whole(gemma_folder: Path, cosmos_folder: Path) -> TheWorld:
    return load_world(gemma_folder, cosmos_folder, num_world_steps=1, dtype=torch.float32)


@pytest.fixture(scope="module")
def offloaded(gemma_folder: Path, cosmos_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TheWorld:
    disk = {"device_map": {"": "disk"}, "offload_folder": str(tmp_path_factory.mktemp("offload"))}
    model = load_world(gemma_folder, cosmos_folder, num_world_steps=1, dtype=torch.float32, **disk)
    assert model.device.type == "meta"
    return model


@pytest.mark.parametrize(("dtype", "size"), [(torch.bfloat16, 2), ("bfloat16", 2), ("float32", 4), (None, 4)])
def test_room_for_the_world_is_counted_in_the_dtype_that_is_asked_for(
    whole: TheWorld, cosmos_folder: Path, dtype: Any, size: int
) -> None:
    limits = memory_beside(
        whole.config, Source(str(cosmos_folder)), {"dtype": dtype, "max_memory": {0: 10**9, "cpu": 10**9}}
    )
    parameters = WORLD_ENCODERS["cosmos"].parameter_count(whole.config, Source(str(cosmos_folder)))
    assert limits == {0: 10**9 - size * parameters, "cpu": 10**9}


@pytest.mark.parametrize("arm", ["world", "random_projection"])
def test_scorers(whole: TheWorld, offloaded: TheWorld, images: list[Image.Image], tmp_path: Path, arm: str) -> None:
    shown = {"a": images[0], "b": images[1]}
    items = [Item(name, (Message("user", "Which?"),), (image,), "red", CHOICES) for name, image in shown.items()]

    def asked(model: TheWorld) -> list[Any]:
        batch, _ = PromptBuilder(model, 1).build(items)
        assert batch is not None
        world = encode_worlds(model, items, None, tmp_path / str(model.device), 2).tokens(items, ARMS[arm], 1)
        return [*choices(model, batch, world), *generate(model, batch, world, 4)]

    assert asked(offloaded) == asked(whole)


def test_lmms(whole: TheWorld, offloaded: TheWorld, images: list[Image.Image]) -> None:
    prompts = [partial(text_prompt, "Which?", images[:1])]
    assert Answering(offloaded).losses(prompts, [CHOICES]) == Answering(whole).losses(prompts, [CHOICES])


def test_alignment(whole: TheWorld, offloaded: TheWorld, images: list[Image.Image]) -> None:
    found, expected = (collect_tokens(model, images[:1], 1, text_tokens=20) for model in (offloaded, whole))
    assert torch.equal(found.world, expected.world)
    assert torch.equal(found.image, expected.image)
    assert torch.equal(found.text, expected.text)


def test_nano(tmp_path: Path) -> None:
    whole = TheWorld.from_pretrained("nano")
    offloaded = TheWorld.from_pretrained("nano", device_map={"": "disk"}, offload_folder=str(tmp_path))
    scene = load_example("stack")
    items = [
        NanoItem(0, np.asarray(scene.image)[None], Question("stack", "predictive", scene.question, scene.answer, ()))
    ]
    given, expected = (answer_items(model, model.processor, items) for model in (offloaded, whole))
    assert given == expected == [scene.answer]
