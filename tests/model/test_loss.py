"""The loss is the cross-entropy of the supervised tokens, and of nothing else."""

from typing import Any

import pytest
import torch
from torch.nn import functional

from tests.model.conftest import Load
from tests.model.helpers import Message, assistant, encode, images_of, user, without_block
from theworld import TheWorld
from theworld.constants import IGNORE_INDEX

POSITIONS = ("after_bos", "before_image")
SIDES = ("left", "right")


@pytest.fixture(scope="module")
def chats(conversations: dict[str, list[Message]]) -> list[list[Message]]:
    """Questions with their answers, one with two answers."""
    asked = [[*conversation, assistant("It lands in the red bin.")] for conversation in conversations.values()]
    return [*asked, [*asked[1], user("Sure?"), assistant("Yes, the tower falls.")]]


def supervised(processor: Any, chats: list[list[Message]], side: str, **how: Any) -> tuple[Any, torch.Tensor]:
    """Inputs, and labels on the answers only."""
    options = {"return_assistant_tokens_mask": True, "add_generation_prompt": False}
    inputs = encode(processor, *chats, side=side, **options, **how)
    mask = torch.as_tensor(inputs.pop("assistant_masks")).bool()
    return inputs, inputs["input_ids"].masked_fill(~mask, IGNORE_INDEX)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("position", POSITIONS)
def test_loss_is_the_cross_entropy_of_the_answers(
    shared: Load, chats: list[list[Message]], position: str, side: str
) -> None:
    model = shared(world_position=position)
    inputs, labels = supervised(model.processor, chats, side, num_world_steps=1)
    output = model(**inputs, labels=labels)
    log_probabilities = functional.log_softmax(output.logits.double(), dim=-1)
    surprises = [
        -log_probabilities[row, column - 1, label]
        for row, labels_of_row in enumerate(labels.tolist())
        for column, label in enumerate(labels_of_row)
        if label != IGNORE_INDEX
    ]
    torch.testing.assert_close(output.loss.double(), torch.stack(surprises).mean(), rtol=1e-5, atol=1e-5)


def test_supervised_tokens_are_the_answers(world: TheWorld, chats: list[list[Message]]) -> None:
    _, labels = supervised(world.processor, chats, "right")
    for row, chat in zip(labels, chats, strict=True):
        answers = [turn["content"][0]["text"] for turn in chat if turn["role"] == "assistant"]
        text = world.processor.tokenizer.decode(row[row != IGNORE_INDEX])
        assert text == "".join(f"{answer}<end_of_turn>\n" for answer in answers)


@pytest.mark.parametrize("use_world", [True, False])
def test_nothing_supervised_is_no_loss(world: TheWorld, chats: list[list[Message]], use_world: bool) -> None:
    inputs, labels = supervised(world.processor, chats, "right")
    loss = world(**inputs, labels=torch.full_like(labels, IGNORE_INDEX), use_world=use_world).loss
    assert torch.isnan(loss)  # the mean of nothing, as in stock Gemma 3


def test_unsupervised_row_adds_nothing(world: TheWorld, chats: list[list[Message]]) -> None:
    inputs, labels = supervised(world.processor, chats[1:3], "right")
    alone, alone_labels = supervised(world.processor, chats[1:2], "right")
    labels[1] = IGNORE_INDEX
    torch.testing.assert_close(world(**inputs, labels=labels).loss, world(**alone, labels=alone_labels).loss)


@pytest.mark.parametrize("position", POSITIONS)
def test_prompt_labels_are_what_the_caller_says(shared: Load, chats: list[list[Message]], position: str) -> None:
    """-100 leaves a prompt token out; naming it brings it in: nothing is supervised behind the caller's back."""
    model = shared(world_position=position)
    inputs, labels = supervised(model.processor, chats[1:2], "right")
    before = model(**inputs, labels=labels).loss
    named = labels.clone()
    named[0, -1 - int((labels[0] != IGNORE_INDEX).sum()) :] = inputs["input_ids"][
        0, -1 - int((labels[0] != IGNORE_INDEX).sum()) :
    ]
    assert not torch.equal(before, model(**inputs, labels=named).loss)


def test_loss_depends_on_the_world(world: TheWorld, chats: list[list[Message]]) -> None:
    inputs, labels = supervised(world.processor, chats[1:], "right")
    other = {**inputs, "world_pixel_values": -inputs["world_pixel_values"]}
    assert not torch.equal(world(**inputs, labels=labels).loss, world(**other, labels=labels).loss)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("position", POSITIONS)
def test_inserted_blocks_are_not_supervised(shared: Load, chats: list[list[Message]], position: str, side: str) -> None:
    model = shared(world_position=position)
    inputs, labels = supervised(model.processor, chats, side, num_world_steps=1)
    plain, plain_labels = supervised(model.processor, chats, side, use_world=False)
    expected = model(**inputs, labels=labels)
    ours = model(**plain, labels=plain_labels, images=images_of(chats), num_world_steps=1)
    assert torch.equal(ours.loss, expected.loss)
    kept = without_block(model, inputs["input_ids"]) & inputs["attention_mask"].bool()
    assert torch.equal(labels[kept], plain_labels[plain["attention_mask"].bool()])


def test_world_tokens_learn_from_the_answers_alone(load: Load, chats: list[list[Message]]) -> None:
    model = load().train()
    inputs, labels = supervised(model.processor, chats, "right", num_world_steps=1)
    model(**inputs, labels=labels).loss.backward()
    assert model.model.world_projector.time_embedding.grad[:2].any(-1).all()
    assert not model.model.world_projector.time_embedding.grad[2:].any()  # beyond the rollout
    assert model.model.world_markers.weight.grad.any(-1).all()
