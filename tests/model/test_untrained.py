"""A fusion that was never trained answers as plain Gemma 3, and says so; optimiser steps are counted in any loop."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.model.conftest import Load
from tests.model.helpers import ANSWER, assistant, encode, user
from theworld import TheWorld


@pytest.fixture
def fresh(load: Load) -> TheWorld:
    model = load()
    model.config.trained_steps = {}  # as `from_pretrained` leaves a new fusion
    return model


@pytest.fixture
def example(fresh: TheWorld, images: list[Image.Image]) -> Any:
    chat = [user("Which bin will the ball land in?", images[0]), assistant("The red bin.")]
    inputs = encode(fresh.processor, chat, add_generation_prompt=False)
    return {**inputs, "labels": inputs["input_ids"]}


def step(model: TheWorld, example: Any, rate: float = 1e-2) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=rate)
    model.train()(**example).loss.backward()
    optimizer.step()
    model.eval().zero_grad()


def test_a_new_fusion_counts_no_steps(gemma_folder: Path, cosmos_folder: Path) -> None:
    model = TheWorld.from_pretrained(gemma_folder, cosmos_model_name=str(cosmos_folder))
    assert model.config.trained_steps == {}
    assert not model.world_is_trained


@pytest.mark.parametrize("given_as", ["processor", "images"])
def test_it_answers_with_the_world_off(fresh: TheWorld, images: list[Image.Image], given_as: str) -> None:
    conversation = [user("Which bin will the ball land in?", images[0])]
    plain = encode(fresh.processor, conversation, use_world=False)
    expected = fresh.generate(**plain, use_world=False, **ANSWER)
    inputs = plain if given_as == "images" else encode(fresh.processor, conversation)
    extra = {"images": images[:1]} if given_as == "images" else {}
    calls: list[Any] = []
    fresh.model.world_encoder.register_forward_pre_hook(lambda *_: calls.append(1))  # type: ignore[union-attr]
    with pytest.warns(UserWarning, match="never trained: answering with the world off") as warned:
        output = fresh.generate(**inputs, **extra, **ANSWER)
    assert warned[0].filename == __file__  # the line that asks, not one of torch
    length = inputs["input_ids"].shape[1]
    assert torch.equal(output[:, :length], inputs["input_ids"])
    assert torch.equal(output[:, length:], expected[:, plain["input_ids"].shape[1] :])


def test_use_world_insists(fresh: TheWorld, images: list[Image.Image]) -> None:
    fresh.config.trained_steps = {"projector": 1}
    trained = fresh.ask(images[0], "Which bin?", max_new_tokens=6, min_new_tokens=6)
    fresh.config.trained_steps = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        insisted = fresh.ask(images[0], "Which bin?", max_new_tokens=6, min_new_tokens=6, use_world=True)
    assert insisted == trained


@pytest.mark.parametrize("how", ["optimiser", "by hand", "through .data"])
def test_trained_or_edited_parts_are_used(fresh: TheWorld, example: Any, how: str) -> None:
    assert not fresh.world_is_trained
    weight = fresh.model.world_projector.output_norm.weight  # type: ignore[union-attr]
    if how == "optimiser":
        step(fresh, example)
    elif how == "by hand":
        with torch.no_grad():
            weight[0] += 1
    else:
        weight.data += 1
    assert fresh.world_is_trained


def test_an_edited_fusion_is_used_after_loading(fresh: TheWorld, tmp_path: Path) -> None:
    fresh.save_pretrained(tmp_path / "untrained")
    assert not TheWorld.from_pretrained(tmp_path / "untrained").world_is_trained
    with torch.no_grad():
        fresh.model.world_projector.output_norm.weight += 1  # type: ignore[union-attr]
    fresh.save_pretrained(tmp_path / "edited")
    assert TheWorld.from_pretrained(tmp_path / "edited").world_is_trained


def test_card_counts_steps_not_flags(load: Load, example: Any, tmp_path: Path) -> None:
    model = load(freeze_gemma_vision=False)
    model.config.trained_steps = {}
    model.save_pretrained(tmp_path / "unfrozen")
    assert "none, never trained" in (tmp_path / "unfrozen" / "README.md").read_text(encoding="utf-8")
    model.config.freeze_gemma_vision = True
    model.freeze()
    for _ in range(3):
        step(model, example)
    model.save_pretrained(tmp_path / "trained")
    assert "| optimiser steps | projector: 3 |" in (tmp_path / "trained" / "README.md").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "trained" / "config.json").read_text(encoding="utf-8"))["trained_steps"] == {
        "projector": 3
    }


def test_steps_are_counted_on_from_a_checkpoint(fresh: TheWorld, example: Any, tmp_path: Path) -> None:
    step(fresh, example)
    fresh.save_pretrained(tmp_path)
    loaded = TheWorld.from_pretrained(tmp_path)
    step(loaded, example)
    assert loaded.config.trained_steps == {"projector": 2}
    assert fresh.config.trained_steps == {"projector": 1}


def test_a_world_turned_on_over_a_checkpoint_without_one_is_new(
    load: Load, images: list[Image.Image], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(enable_world=False).save_pretrained(tmp_path)  # its steps count a projector
    caplog.clear()
    model = TheWorld.from_pretrained(tmp_path, enable_world=True)
    assert "a new fusion" in caplog.text
    assert not model.world_is_trained
    with pytest.warns(UserWarning, match="never trained"):
        model.ask(images[0], "Which bin?", max_new_tokens=2)


def test_steps_without_a_world_do_not_train_it(fresh: TheWorld) -> None:
    """The projector has a gradient then, so that every rank has one; it is exactly zero."""
    inputs = encode(fresh.processor, [user("What colour?"), assistant("Red.")], add_generation_prompt=False)
    step(fresh, {**inputs, "labels": inputs["input_ids"]})
    assert fresh.config.trained_steps == {}
    assert not fresh.world_is_trained


def test_edited_adapters_do_not_make_the_world_trained(load: Load, tmp_path: Path) -> None:
    model = load(lora={"r": 2})
    model.config.trained_steps = {}
    with torch.no_grad():
        next(value for name, value in model.named_parameters() if ".lora_B." in name).add_(1)
    assert not model.world_is_trained
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["trained_steps"] == {}


def test_card_and_config_say_the_same_of_an_edited_fusion(fresh: TheWorld, tmp_path: Path) -> None:
    with torch.no_grad():
        fresh.model.world_projector.output_norm.weight += 1  # type: ignore[union-attr]
    fresh.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["trained_steps"] is None
    assert "| optimiser steps | not recorded |" in (tmp_path / "README.md").read_text(encoding="utf-8")
