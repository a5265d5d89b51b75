"""`gated` fusion: at gate 0 it is Gemma 3 bit for bit with the world on, and it trains from there."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import Gemma3ForConditionalGeneration

from tests.model.conftest import Load
from tests.model.helpers import ANSWER, Message, assistant, encode, user
from theworld import TheWorld


@pytest.fixture(scope="module")
def stock(gemma_folder: Path) -> Gemma3ForConditionalGeneration:
    return Gemma3ForConditionalGeneration.from_pretrained(gemma_folder).eval()


@pytest.fixture
def gated(load: Load) -> TheWorld:
    return load(fusion="gated")


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("names", [("text",), ("image",), ("text", "two images", "image")], ids=str)
def test_gate_zero_is_gemma(
    stock: Any, gated: TheWorld, conversations: dict[str, list[Message]], names: tuple[str, ...], side: str
) -> None:
    inputs = encode(gated.processor, *(conversations[name] for name in names), side=side)
    plain = {name: value for name, value in inputs.items() if name != "world_pixel_values"}
    labels = inputs["input_ids"]
    ours, theirs = gated(**inputs, labels=labels), stock(**plain, labels=labels)
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.loss, theirs.loss)
    assert (ours.num_world_tokens > 0) == (names != ("text",))
    if side == "left":
        assert torch.equal(gated.generate(**inputs, **ANSWER), stock.generate(**plain, **ANSWER))


@pytest.mark.parametrize(
    "how", [{"num_beams": 2, "num_return_sequences": 2}, {"cache_implementation": "static"}], ids=str
)
def test_gate_zero_generates_as_gemma(stock: Any, gated: TheWorld, conversations: Any, how: dict[str, Any]) -> None:
    inputs = encode(gated.processor, conversations["two images"])
    plain = {name: value for name, value in inputs.items() if name != "world_pixel_values"}
    assert torch.equal(gated.generate(**inputs, **ANSWER, **how), stock.generate(**plain, **ANSWER, **how))


@torch.no_grad()
def open_gate(model: TheWorld) -> TheWorld:
    model.model.world_gate.fill_(0.5)  # type: ignore[union-attr]
    return model


def test_open_gate_lets_the_world_in(gated: TheWorld, images: list[Image.Image]) -> None:
    question = "Which bin will the ball land in?"
    inputs = encode(gated.processor, [user(question, images[0])])
    closed = gated(**inputs).logits
    opened = open_gate(gated)(**inputs).logits
    assert not torch.allclose(closed, opened)
    other = {**inputs, "world_pixel_values": gated.processor.world_pixels(images[1])}
    assert not torch.allclose(gated(**other).logits, opened)
    assert torch.equal(gated(**inputs, use_world=False).logits, closed)


def test_the_base_model_takes_the_world_beside_encoded_images(gated: TheWorld, images: list[Image.Image]) -> None:
    inputs = encode(open_gate(gated).processor, [user("Which bin?", images[0])])
    encoded = {"image": gated.get_image_features(inputs["pixel_values"], return_dict=True)}
    outputs = [gated.model(**inputs, mm_encoder_outputs=given).last_hidden_state for given in (None, encoded)]
    assert torch.equal(*outputs)


def test_steps_are_the_calls_own(gated: TheWorld, images: list[Image.Image]) -> None:
    open_gate(gated)
    question = [user("Which bin?", images[0])]
    here = encode(gated.processor, question)
    logits = {steps: gated(**here, num_world_steps=steps).logits for steps in (0, 1, 2)}
    assert not torch.equal(logits[0], logits[1])
    assert torch.equal(gated(**here).logits, logits[0])  # the config's
    assert torch.equal(gated(**encode(gated.processor, question, num_world_steps=2)).logits, logits[2])
    latents = gated.model.world_encoder.encode(here["world_pixel_values"], 1)  # type: ignore[union-attr]
    plain = {name: value for name, value in here.items() if name != "world_pixel_values"}
    assert torch.allclose(gated(**plain, world_latents=latents).logits, logits[1], atol=1e-5)


def test_batch_and_generation_agree(gated: TheWorld, images: list[Image.Image]) -> None:
    open_gate(gated)
    chats = [[user("Which bin?", images[0])], [user("Which falls?", images[1], images[2])], [user("Hi?")]]
    together = encode(gated.processor, *chats)
    logits = gated(**together).logits[:, -1]
    for row, chat in enumerate(chats):
        torch.testing.assert_close(
            gated(**encode(gated.processor, chat)).logits[0, -1], logits[row], rtol=1e-4, atol=1e-4
        )
    first = gated.generate(**together, **ANSWER)[:, together["input_ids"].shape[1]]
    assert torch.equal(first, logits.argmax(-1))


def test_it_trains_from_gate_zero_and_is_saved(gated: TheWorld, images: list[Image.Image], tmp_path: Path) -> None:
    chat = [user("Which bin?", images[0]), assistant("The red bin.")]
    inputs = encode(gated.processor, chat, add_generation_prompt=False, num_world_steps=1)
    example = {**inputs, "labels": inputs["input_ids"]}
    gate, projector = gated.model.world_gate, gated.model.world_projector
    assert gate is not None
    before = projector.output_norm.weight.clone()  # type: ignore[union-attr]
    optimizer = torch.optim.AdamW([p for p in gated.parameters() if p.requires_grad], lr=1e-2, weight_decay=0)
    losses: list[float] = []
    for _ in range(20):
        loss = gated.train()(**example).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert gate[:2].ne(0).all()
    assert gate[2:].eq(0).all()
    assert not torch.equal(projector.output_norm.weight, before)  # type: ignore[union-attr]
    output = gated.eval()(**example)
    assert torch.equal(output.world_gate, gate.tanh())
    gated.save_pretrained(tmp_path)
    loaded = TheWorld.from_pretrained(tmp_path)
    assert torch.equal(loaded(**example).logits, output.logits)
    assert loaded.model.world_markers is None


def test_inputs_that_would_lose_the_world_are_refused(
    gated: TheWorld, world: TheWorld, conversations: dict[str, list[Message]]
) -> None:
    with pytest.raises(ValueError, match="fusion is 'gated', which has none"):
        gated(**encode(world.processor, conversations["image"]))
    inputs = encode(gated.processor, conversations["image"])
    inputs.pop("pixel_values")
    for call in (gated, gated.generate):
        with pytest.raises(ValueError, match="'gated' fusion without pixel_values"):
            call(**inputs)


def test_image_features_in_place_of_pixels(gated: TheWorld, conversations: dict[str, list[Message]]) -> None:
    gated.model.world_gate.data.fill_(0.5)  # type: ignore[union-attr]
    inputs = encode(gated.processor, conversations["image"])
    expected = gated(**inputs).logits
    encoded = {"image": gated.model.get_image_features(inputs.pop("pixel_values"), return_dict=True)}
    assert torch.equal(gated(**inputs, mm_encoder_outputs=encoded).logits, expected)
