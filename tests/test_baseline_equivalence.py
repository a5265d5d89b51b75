"""With the world off, TheWorld is Gemma 3, bit for bit: logits, loss, gradients, generated ids.

Off means `enable_world=False` at loading, `use_world=False` in a call, or a prompt without images.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import Gemma3ForConditionalGeneration, Gemma3Processor

from tests.model.helpers import ANSWER, Message, assistant, encode, images_of, load_world, system, user, without_block
from theworld import TheWorld
from theworld.constants import IGNORE_INDEX

CASES = ("text", "image", "two images", "chat", "batch of text", "batch of images", "mixed batch")
WITH_IMAGES = tuple(case for case in CASES if case not in ("text", "batch of text"))
SIDES = ("left", "right")
DECODING: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampling": {"do_sample": True, "temperature": 0.7},
    "beams": {"num_beams": 2},
    "uncached": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
}


@dataclass(frozen=True)
class Trio:
    """Stock Gemma 3 and two TheWorlds on its weights."""

    stock: Gemma3ForConditionalGeneration
    disabled: TheWorld  # enable_world=False
    enabled: TheWorld
    processor: Gemma3Processor  # the stock one


@pytest.fixture(scope="module", params=["fp32-eager", "fp32-sdpa", "bf16-eager", "bf16-sdpa"])
def trio(request: pytest.FixtureRequest, gemma_folder: Path, cosmos_folder: Path) -> Trio:
    precision, attention = request.param.split("-")
    options: dict[str, Any] = {
        "dtype": {"fp32": torch.float32, "bf16": torch.bfloat16}[precision],
        "attn_implementation": attention,
    }
    unfrozen = {"freeze_gemma_vision": False, "freeze_gemma_language": False, **options}
    return Trio(
        Gemma3ForConditionalGeneration.from_pretrained(gemma_folder, **options).eval(),
        load_world(gemma_folder, cosmos_folder, enable_world=False, **unfrozen),
        load_world(gemma_folder, cosmos_folder, **unfrozen),
        Gemma3Processor.from_pretrained(gemma_folder),
    )


@pytest.fixture(scope="module")
def cases(images: list[Image.Image]) -> dict[str, list[list[Message]]]:
    first, second, third = images
    text = [user("What colour is the ball?")]
    image = [user("Which bin will the ball land in?", first)]
    two = [user("Which falls?", second, third)]
    chat = [system("Be brief."), user("What is this?", first), assistant("A ball."), user("And this?", second)]
    return {
        "text": [text],
        "image": [image],
        "two images": [two],
        "chat": [chat],
        "batch of text": [text, [user("Yes?")]],
        "batch of images": [image, [user("Hm?", third)]],
        "mixed batch": [two, text, image],
    }


def some_labels(inputs: Any) -> torch.Tensor:
    """The last seven tokens of every prompt."""
    labels = inputs["input_ids"].clone()
    ordinal = inputs["attention_mask"].flip(1).cumsum(1).flip(1)  # 1 for a prompt's last token
    labels[(ordinal > 7) | (inputs["attention_mask"] == 0)] = IGNORE_INDEX
    return labels


def generate(model: Any, inputs: Any, seed: int = 0, **how: Any) -> torch.Tensor:
    torch.manual_seed(seed)
    return model.generate(**inputs, **{**ANSWER, **how})


# ---------------------------------------------------------------------------------------------- enable_world=False


def test_same_parameters(trio: Trio) -> None:
    ours, stock = trio.disabled.state_dict(), trio.stock.state_dict()
    assert list(ours) == list(stock)
    assert all(torch.equal(ours[name], stock[name]) for name in stock)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("case", CASES)
def test_processor_makes_gemmas_inputs(trio: Trio, cases: dict[str, Any], case: str, side: str) -> None:
    ours = encode(trio.disabled.processor, *cases[case], side=side)
    stock = encode(trio.processor, *cases[case], side=side)
    assert ours.keys() == stock.keys()
    assert all(torch.equal(ours[name], stock[name]) for name in stock)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("case", CASES)
def test_logits(trio: Trio, cases: dict[str, Any], case: str, side: str) -> None:
    inputs = encode(trio.processor, *cases[case], side=side)
    output = trio.disabled(**inputs)
    assert torch.equal(output.logits, trio.stock(**inputs).logits)
    assert output.num_world_tokens == 0


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("case", ["text", "chat", "mixed batch"])
def test_loss_and_gradients(trio: Trio, cases: dict[str, Any], case: str, side: str) -> None:
    inputs = encode(trio.processor, *cases[case], side=side)
    losses, gradients = [], []
    for model in (trio.stock, trio.disabled):
        model.zero_grad()
        loss = model.train()(**inputs, labels=some_labels(inputs)).loss
        loss.backward()
        losses.append(loss)
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
        model.zero_grad()
        model.eval()
    assert torch.isfinite(losses[0])
    assert torch.equal(*losses)
    stock, ours = gradients
    reached = {name for name, gradient in stock.items() if gradient is not None and gradient.any()}
    assert len(reached) > len(stock) // 3
    assert {name for name, gradient in ours.items() if gradient is not None and gradient.any()} == reached
    assert all(torch.equal(ours[name], stock[name]) for name in reached)


@pytest.mark.parametrize("how", DECODING)
@pytest.mark.parametrize("case", ["text", "mixed batch"])
def test_generated_ids(trio: Trio, cases: dict[str, Any], case: str, how: str) -> None:
    inputs = encode(trio.processor, *cases[case])
    ours, stock = (generate(model, inputs, **DECODING[how]) for model in (trio.disabled, trio.stock))
    assert torch.equal(ours, stock)


def test_decoding_reads_the_image(trio: Trio, cases: dict[str, Any], images: list[Image.Image]) -> None:
    """Else equal ids would say nothing of the image's path."""
    inputs = encode(trio.processor, *cases["image"])
    other = encode(trio.processor, [user("Which bin will the ball land in?", images[1])])
    assert torch.equal(inputs["input_ids"], other["input_ids"])
    assert not torch.equal(trio.disabled(**inputs).logits[:, -1], trio.disabled(**other).logits[:, -1])


@pytest.mark.parametrize(
    "given", [{"use_world": True}, {"num_world_steps": 1}, {"world_pixel_values": torch.zeros(1, 3, 32, 32)}]
)
def test_world_input_to_a_model_without_a_world_is_an_error(
    trio: Trio, cases: dict[str, Any], given: dict[str, Any]
) -> None:
    inputs = encode(trio.processor, *cases["image"])
    with pytest.raises(ValueError, match="enable_world=False"):
        trio.disabled(**inputs, **given)
    with pytest.raises(ValueError, match="enable_world=False"):
        trio.disabled.generate(**inputs, **given, max_new_tokens=1)


# ------------------------------------------------------------------- enable_world=True, and the world off for a call


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("case", WITH_IMAGES)
def test_logits_of_a_call_without_the_world(trio: Trio, cases: dict[str, Any], case: str, side: str) -> None:
    with_block = encode(trio.enabled.processor, *cases[case], side=side)
    plain = encode(trio.processor, *cases[case], side=side)
    output = trio.enabled(**with_block, use_world=False)
    assert output.num_world_tokens == 0
    assert output.logits.shape[:2] == with_block["input_ids"].shape
    asked = without_block(trio.enabled, with_block["input_ids"]) & with_block["attention_mask"].bool()
    assert torch.equal(with_block["input_ids"][asked], plain["input_ids"][plain["attention_mask"].bool()])
    assert torch.equal(output.logits[asked], trio.stock(**plain).logits[plain["attention_mask"].bool()])


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("case", ["image", "mixed batch"])
def test_loss_and_gradients_of_a_call_without_the_world(
    trio: Trio, cases: dict[str, Any], case: str, side: str
) -> None:
    with_block = encode(trio.enabled.processor, *cases[case], side=side)
    plain = encode(trio.processor, *cases[case], side=side)
    trio.stock.zero_grad()
    trio.enabled.zero_grad()
    ours = trio.enabled.train()(**with_block, labels=some_labels(with_block), use_world=False).loss
    stock = trio.stock.train()(**plain, labels=some_labels(plain)).loss
    ours.backward()
    stock.backward()
    assert torch.equal(ours, stock)
    gradients = {name: parameter.grad for name, parameter in trio.enabled.named_parameters()}
    for name, parameter in trio.stock.named_parameters():
        if parameter.grad is not None and parameter.grad.any():
            assert torch.equal(gradients[name], parameter.grad), name
    for model in (trio.stock, trio.enabled):
        model.zero_grad()
        model.eval()


@pytest.mark.parametrize("how", DECODING)
@pytest.mark.parametrize("case", ["image", "mixed batch"])
def test_generated_ids_of_a_call_without_the_world(trio: Trio, cases: dict[str, Any], case: str, how: str) -> None:
    with_block = encode(trio.enabled.processor, *cases[case])
    plain = encode(trio.processor, *cases[case])
    ours = generate(trio.enabled, with_block, use_world=False, **DECODING[how])
    length = with_block["input_ids"].shape[1]
    assert torch.equal(ours[:, :length], with_block["input_ids"])
    stock = generate(trio.stock, plain, **DECODING[how])
    assert torch.equal(ours[:, length:], stock[:, plain["input_ids"].shape[1] :])


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("case", CASES)
def test_processor_call_without_the_world_makes_gemmas_inputs(
    trio: Trio, cases: dict[str, Any], case: str, side: str
) -> None:
    ours = encode(trio.enabled.processor, *cases[case], side=side, use_world=False)
    stock = encode(trio.processor, *cases[case], side=side)
    assert ours.keys() == stock.keys()
    assert all(torch.equal(ours[name], stock[name]) for name in stock)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("case", ["text", "batch of text"])
def test_text_prompt_with_the_world_enabled(trio: Trio, cases: dict[str, Any], case: str, side: str) -> None:
    inputs = encode(trio.enabled.processor, *cases[case], side=side)
    stock = encode(trio.processor, *cases[case], side=side)
    assert torch.equal(inputs["input_ids"], stock["input_ids"])
    assert torch.equal(trio.enabled(**inputs).logits, trio.stock(**stock).logits)
    if side == "left":
        assert torch.equal(generate(trio.enabled, inputs), generate(trio.stock, stock))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("case", WITH_IMAGES)
def test_gemma_code_keeps_running_with_one_warning(trio: Trio, cases: dict[str, Any], case: str, side: str) -> None:
    inputs = encode(trio.processor, *cases[case], side=side)
    with pytest.warns(UserWarning, match="no world input") as caught:
        logits = trio.enabled(**inputs).logits
    assert len([entry for entry in caught if "no world input" in str(entry.message)]) == 1
    assert torch.equal(logits, trio.stock(**inputs).logits)


def test_gemma_code_generates_with_one_warning(trio: Trio, cases: dict[str, Any]) -> None:
    inputs = encode(trio.processor, *cases["mixed batch"])
    with pytest.warns(UserWarning, match="no world input") as caught:
        ours = generate(trio.enabled, inputs)
    assert len([entry for entry in caught if "no world input" in str(entry.message)]) == 1
    assert torch.equal(ours, generate(trio.stock, inputs))


@pytest.mark.parametrize("case", ["image", "mixed batch"])
def test_the_world_does_change_the_logits(trio: Trio, cases: dict[str, Any], case: str) -> None:
    """Else all of the above would hold for a model that has no world."""
    inputs = encode(trio.processor, *cases[case])
    on = trio.enabled(**inputs, images=images_of(cases[case])).logits[:, -1]
    has_image = (inputs["input_ids"] == trio.enabled.config.boi_token_index).any(1)
    differs = (on != trio.stock(**inputs).logits[:, -1]).any(1)
    assert differs[has_image].all()
