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


@pytest.mark.parametrize("how", [
    {"num_futures": 0}, {"num_futures": True}, {"num_futures": "2"}, {"num_futures": 2, "futures": "vote"},
    {"choices": ["red", "red "]}, {"choices": ["red", " "]}, {"choices": [1, 2]}, {"choices": 5},
    {"choices": ["red", "b<end_of_turn>"]}, {"do_sample": True}, {"max_new_tokns": 3}, {"use_world": "Auto"},
    {"use_world": "no"},
    {"use_world": "auto", "num_futures": 0}, {"use_world": "auto", "num_world_steps": -1},
    {"use_world": "auto", "num_world_steps": "1"},
])  # fmt: skip
def test_wrong_arguments_of_choices_are_refused(
    model: TheWorld, images: list[Image.Image], how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.config, "auto_world_margin", 0.0)  # every answer without the world is sure enough
    with pytest.raises(ValueError, match="|".join(("choices", *how))):
        model.ask(images[0], QUESTION, **{"choices": CHOICES, "num_world_steps": 1, **how})


@pytest.mark.parametrize("how", [{"num_futures": 0}, {"num_futures": 2}, {"futures": "median"}])
def test_futures_of_calls_without_world_input_are_refused(model: TheWorld, inputs: Any, how: dict[str, Any]) -> None:
    text = encode(model.processor, [user("What is red?")])
    embeds = model.get_input_embeddings()(text["input_ids"])
    world = {"world": model.model.get_world_features(inputs["world_pixel_values"], 1)}
    given = {name: value for name, value in inputs.items() if name != "world_pixel_values"}
    for call in ({"inputs_embeds": embeds}, {**text}, {**given, "mm_encoder_outputs": world}):
        with pytest.raises(ValueError, match="num_futures"):
            model.generate(**call, max_new_tokens=2, **how)


@pytest.mark.parametrize("use_world", ["auto", "no", 1])
def test_generate_takes_the_world_on_or_off(model: TheWorld, inputs: Any, use_world: Any) -> None:
    with pytest.raises(ValueError, match="use_world"):
        model.generate(**inputs, max_new_tokens=2, use_world=use_world)


def test_choices_take_the_seed_of_a_rollout(model: TheWorld, images: list[Image.Image]) -> None:
    how: dict[str, Any] = {"choices": CHOICES, "num_world_steps": 1}
    seeds = [model.ask(images[0], QUESTION, world_seed=seed, **how) for seed in (0, 1)]
    assert seeds[0] != seeds[1]
    both = model.ask(images[0], QUESTION, world_seed=1, num_futures=2, **how)
    later = model.ask(images[0], QUESTION, world_seed=2, **how)
    assert both == pytest.approx({one: (seeds[1][one] + later[one]) / 2 for one in CHOICES}, abs=1e-5)


@pytest.mark.parametrize("fusion", ["tokens", "gated"])
def test_futures_of_prompts_with_other_numbers_of_images(load: Load, images: list[Image.Image], fusion: str) -> None:
    """Text alone, one image and two, in one batch: every prompt as if it were alone."""
    model = load(fusion=fusion, num_world_steps=1)
    if model.model.world_gate is not None:
        model.model.world_gate.data.fill_(1.0)
    asked = [[user("What is red?")], [user("Which?", images[0])], [user("Which falls?", images[1], images[2])]]
    how: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "num_futures": 2, "use_world": True}
    together = encode(model.processor, *(turns[0:1] for turns in asked), num_world_steps=1)
    found = model.generate(**together, **how)[:, together["input_ids"].shape[1] :]
    for place, turns in enumerate(asked[1:], 1):
        alone = encode(model.processor, turns, num_world_steps=1)
        own = model.generate(**alone, **how)[:, alone["input_ids"].shape[1] :]
        assert torch.equal(found[place], own[0])


def test_futures_of_an_image_with_crops(model: TheWorld, images: list[Image.Image]) -> None:
    """Gemma sees an image and its crops, the world the image alone."""
    wide = images[0].resize((256, 64))
    options: dict[str, Any] = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 16}
    inputs = encode(model.processor, [user("Which?", wide)], [user("Which?", images[1])], num_world_steps=1,
                    processor_kwargs={"padding": True, **options})  # fmt: skip
    assert len(inputs["pixel_values"]) > len(inputs["world_pixel_values"]) == 2
    how: dict[str, Any] = {"max_new_tokens": 3, "do_sample": False}
    found = model.generate(**inputs, num_futures=2, futures="vote", **how)
    first, second = (model.generate(**inputs, world_seed=seed, **how) for seed in range(2))
    assert torch.equal(found, vote(torch.stack([first, second], 1).flatten(0, 1), 2))


def test_futures_are_greedy_whatever_the_checkpoint_says(load: Load, inputs: Any) -> None:
    """Gemma's own generation config samples."""
    model = load()
    greedy = model.generate(**inputs, num_futures=2, max_new_tokens=6, do_sample=False)
    for name, value in {"do_sample": True, "top_k": 64, "temperature": 50.0, "num_beams": 2}.items():
        setattr(model.generation_config, name, value)
    assert torch.equal(model.generate(**inputs, num_futures=2, max_new_tokens=6), greedy)


def test_positions_of_futures_are_those_of_their_prompt(model: TheWorld, inputs: Any) -> None:
    positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    how: dict[str, Any] = {"num_futures": 2, "max_new_tokens": 4}
    shifted = positions + torch.tensor([[0], [7]])
    batch = model.generate(**inputs, position_ids=shifted, **how)
    split = {name: value[1:] for name, value in inputs.items()}
    alone = model.generate(**split, position_ids=shifted[1:], **how)
    assert torch.equal(batch[1:], alone)


def test_answers_are_not_compared_behind_padding(model: TheWorld, images: list[Image.Image]) -> None:
    turns = [user("Which?", images[0])], [user("Which of these two falls?", images[1])]
    inputs = encode(model.processor, *turns, num_world_steps=1, side="right")
    with pytest.raises(ValueError, match="left"):
        choice_logprobs(model, inputs, [CHOICES] * 2)


def test_an_encoder_of_one_future_has_no_several(load: Load, images: list[Image.Image]) -> None:
    model = load(world_encoder="still", num_world_steps=1)
    with pytest.raises(ValueError, match="'still' predicts one future"):
        model.ask(images[0], QUESTION, num_futures=2, use_world=True)
    with pytest.raises(ValueError, match="'still' predicts one future"):
        model.ask(images[0], QUESTION, choices=CHOICES, num_futures=2, use_world=True)


def test_a_margin_of_beams_is_refused(load: Load, images: list[Image.Image]) -> None:
    model = load(num_world_steps=1)
    with pytest.raises(ValueError, match="use_world='auto'"):
        model.ask(images[0], QUESTION, use_world="auto", num_beams=2, max_new_tokens=3)
