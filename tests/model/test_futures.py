"""Several futures of one image, probabilities of choices, and a world that is asked for only where it is needed."""

from typing import Any

import pytest
import torch
from PIL import Image

from tests.model.conftest import Load
from tests.model.helpers import encode, user
from theworld import TheWorld
from theworld.model.answers import MeanOverFutures, choice_logprobs, margin, probabilities, vote

CHOICES = ("red", "green", "blue bin")
QUESTION = "Which bin will the ball land in?"


@pytest.fixture(scope="module")
def model(shared: Load) -> TheWorld:
    return shared()


@pytest.fixture
def inputs(model: TheWorld, images: list[Image.Image]) -> Any:
    return encode(model.processor, [user(QUESTION, images[0])], [user(QUESTION, images[1])], num_world_steps=1)


def test_futures_are_the_rollouts_of_their_seeds(model: TheWorld, inputs: Any) -> None:
    pixels, encoder = inputs["world_pixel_values"], model.model.world_encoder
    found = encoder.encode_futures(pixels, 1, [3, 5])
    for place, seed in enumerate((3, 5)):
        torch.testing.assert_close(found[:, place], encoder.encode(pixels, 1, seed))
    assert not torch.equal(found[:, 0, :, 1], found[:, 1, :, 1])
    assert torch.equal(found[:, 0, :, 0], found[:, 1, :, 0])  # the present is the same


def test_probabilities_of_choices_are_the_mean_over_futures(model: TheWorld, images: list[Image.Image]) -> None:
    how: dict[str, Any] = {"choices": CHOICES, "num_world_steps": 1, "use_world": True}
    together = model.ask(images[0], QUESTION, num_futures=2, **how)
    inputs = encode(model.processor, [user(QUESTION, images[0])], num_world_steps=1)
    alone = [
        probabilities(choice_logprobs(model, inputs, [CHOICES], world_seed=model.config.world_seed + place))
        for place in range(2)
    ]
    assert alone[0] != alone[1]
    assert together == pytest.approx(
        {choice: (alone[0][choice] + alone[1][choice]) / 2 for choice in CHOICES}, abs=1e-5
    )
    assert sum(together.values()) == pytest.approx(1)
    assert model.ask(images[0], QUESTION, **how) == pytest.approx(alone[0], abs=1e-6)


@pytest.mark.parametrize("futures", ["mean", "vote"])
def test_one_answer_of_several_futures(model: TheWorld, inputs: Any, futures: str) -> None:
    length = inputs["input_ids"].shape[1]
    how: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}
    both = model.generate(**inputs, num_futures=3, futures=futures, **how)
    assert torch.equal(both[:, :length], inputs["input_ids"])
    if futures == "vote":
        rows = [model.generate(**inputs, world_seed=seed, use_world=True, **how) for seed in range(3)]
        stacked = torch.stack(rows, 1).flatten(0, 1)
        assert torch.equal(both, vote(stacked, 3))


def test_the_mean_of_probabilities_decides_the_next_token() -> None:
    scores = torch.tensor([[0.6, 0.4, 0.0], [0.0, 0.45, 0.55]]).log()
    mean = MeanOverFutures(2)(torch.zeros(2, 1, dtype=torch.long), scores)  # type: ignore[arg-type]
    torch.testing.assert_close(mean.exp(), torch.tensor([[0.3, 0.425, 0.275]] * 2))


def test_the_most_frequent_answer_wins_and_the_first_of_a_tie() -> None:
    rows = torch.tensor([[1, 2], [3, 4], [3, 4], [5, 6], [7, 8], [7, 9]])
    assert vote(rows, 3).tolist() == [[3, 4], [5, 6]]


@pytest.mark.parametrize("how", [
    {"num_futures": 0}, {"num_futures": 2, "do_sample": True}, {"num_futures": 2, "num_beams": 2},
    {"num_futures": 2, "futures": "median"}, {"num_futures": 2, "use_world": False}, {"num_futures": True},
])  # fmt: skip
def test_futures_that_cannot_be_are_refused(model: TheWorld, inputs: Any, how: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="num_futures"):
        model.generate(**inputs, max_new_tokens=2, **how)


def test_futures_without_a_rollout_are_refused(model: TheWorld, images: list[Image.Image]) -> None:
    with pytest.raises(ValueError, match="needs rollouts"):
        model.ask(images[0], QUESTION, choices=CHOICES, num_world_steps=0, num_futures=2, use_world=True)


@pytest.mark.parametrize("choices", [[], ["red"], ["red", "red"], "red"])
def test_choices_have_to_be_several(model: TheWorld, images: list[Image.Image], choices: Any) -> None:
    with pytest.raises(ValueError, match="at least two different answers"):
        model.ask(images[0], QUESTION, choices=choices)


@pytest.mark.parametrize("choices", [None, CHOICES])
def test_the_world_is_used_on_demand(
    load: Load, images: list[Image.Image], monkeypatch: pytest.MonkeyPatch, choices: Any
) -> None:
    model = load(num_world_steps=1)
    model.config.trained_steps = dict.fromkeys(model.config.trained_steps or {"world_projector": 1}, 1)
    monkeypatch.setattr(type(model), "world_is_trained", True)
    encoder, calls = model.model.world_encoder, list[int]()
    encode_world = encoder.encode

    def spy(pixels: torch.Tensor, *arguments: Any) -> torch.Tensor:
        calls.append(len(pixels))
        return encode_world(pixels, *arguments)

    monkeypatch.setattr(encoder, "encode", spy)
    how: dict[str, Any] = {"choices": choices} if choices else {"max_new_tokens": 3}
    without, with_world = (model.ask(images[0], QUESTION, use_world=use, **how) for use in (False, None))
    for least, expected, encoded in ((0.0, without, 0), (1.0, with_world, 1)):
        calls.clear()
        model.config.auto_world_margin = least
        assert model.ask(images[0], QUESTION, use_world="auto", **how) == expected
        assert len(calls) == encoded


def test_margins() -> None:
    assert margin([0.7, 0.2, 0.1]) == pytest.approx(0.5)
    assert margin([1.0]) == 1.0
