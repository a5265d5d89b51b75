"""Shared-prefix scoring equals plain forwards, whatever the batch; the answers are whole turns."""

from typing import Any

import pytest
import torch
from PIL import Image

from tests.model.helpers import load_world
from theworld import TheWorld
from theworld.data.schema import Message
from theworld.evaluation.ask.prompts import Batch, PromptBuilder
from theworld.evaluation.ask.scorers import choices, consumed_world_tokens, generate, world_inputs
from theworld.evaluation.store.predictions import Item
from theworld.model.answers import answer_ids

CHOICES = (("red", "blue", "the red bin"), ("yes", "no"), ("Which bin", "a", "b", "left"))


@pytest.fixture(scope="module")
def model(gemma_folder: Any, cosmos_folder: Any) -> TheWorld:
    return load_world(gemma_folder, cosmos_folder)


@pytest.fixture(scope="module")
def items(images: list[Image.Image]) -> list[Item]:
    """Of different lengths, numbers of pictures and of choices; the second prompt is longer than the window of 64."""
    texts = ("Which bin?", "What colour is the ball? " * 9, "Which falls?")
    pictures = ((images[0],), (images[1],), (images[1], images[2]))
    rows = zip("abc", texts, pictures, CHOICES, strict=True)
    return [Item(id, (Message("user", text),), seen, known[0], known) for id, text, seen, known in rows]


def built(model: TheWorld, items: list[Item], steps: int | None = 1) -> tuple[Batch, torch.Tensor | None]:
    batch, failed = PromptBuilder(model, steps).build(items)
    assert batch is not None
    assert not failed
    if steps is None:
        return batch, None
    pictures = [image for item in items for image in item.images]
    with torch.no_grad():
        return batch, model.model.get_world_features(model.processor.world_pixels(pictures), steps).pooler_output


def plain(model: TheWorld, item: Item, choice: str, steps: int | None) -> float:
    """Log-probability of one answer by one forward of prompt and answer, without padding or cache."""
    batch, world = built(model, [item], steps)
    ids = torch.tensor([answer_ids(model.processor.tokenizer, choice)])
    inputs = dict(batch.inputs)
    for name, behind in (("input_ids", ids), ("attention_mask", torch.ones_like(ids))):
        inputs[name] = torch.cat([inputs[name], behind], dim=1)
    inputs["token_type_ids"] = torch.cat([inputs["token_type_ids"], torch.zeros_like(ids)], dim=1)
    with torch.no_grad():
        logits = model(**inputs, **world_inputs(world)).logits[0, -ids.shape[1] - 1 : -1]
    return logits.log_softmax(-1).gather(-1, ids[0, :, None]).sum().item()


@pytest.mark.parametrize("steps", [1, None])
def test_shared_prefix_equals_plain_forwards(model: TheWorld, items: list[Item], steps: int | None) -> None:
    batch, world = built(model, items, steps)
    assert batch.inputs["attention_mask"].sum(-1)[1] > model.config.get_text_config().sliding_window
    for item, answer in zip(items, choices(model, batch, world), strict=True):
        expected = {choice: plain(model, item, choice, steps) for choice in item.choices}
        assert answer.choice_logprobs == pytest.approx(expected, abs=2e-4)
        assert answer.output == max(expected, key=expected.__getitem__)


def test_the_world_decides(model: TheWorld, items: list[Item]) -> None:
    batch, world = built(model, items)
    assert world is not None
    with consumed_world_tokens(model) as counts:
        own, other = choices(model, batch, world), choices(model, batch, world.roll(1, 0))
    assert own[0].choice_logprobs != other[0].choice_logprobs
    assert counts == [sum(batch.world_tokens), 0] * 2
    assert batch.world_tokens == [2 * 16, 2 * 16, 4 * 16]


def test_generate_is_what_the_model_says_alone(model: TheWorld, items: list[Item]) -> None:
    batch, world = built(model, items)
    with consumed_world_tokens(model) as counts:
        together = generate(model, batch, world, 4)
    assert sum(counts) == sum(batch.world_tokens)
    alone = [generate(model, *built(model, [item]), 4)[0] for item in items]
    assert together == alone
    assert any(answer.output for answer in together)


def test_an_answer_is_a_whole_turn(model: TheWorld) -> None:
    tokenizer = model.processor.tokenizer
    assert tokenizer.decode(answer_ids(tokenizer, " the red bin ")) == "the red bin<end_of_turn>"
