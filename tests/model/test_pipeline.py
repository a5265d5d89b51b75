"""transformers' `pipeline("image-text-to-text")` in batches: every image keeps its world, and text is clean."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, pipeline

from tests.model.conftest import Load
from tests.model.helpers import Message, encode, user
from theworld import TheWorld
from theworld.constants import CUSTOM_TOKEN_EOW, CUSTOM_TOKEN_SOW, NANO, WORLD_TOKEN
from theworld.nano.examples import EXAMPLES, load_example

SHIPPED = [load_example(name) for name in EXAMPLES]
ONE = [[user(example.question, example.image)] for example in SHIPPED]
SEVERAL = [
    [user(SHIPPED[0].question, SHIPPED[0].image, SHIPPED[1].image)],
    [user("Hi?", SHIPPED[2].image, SHIPPED[1].image)],
]
MIXED = [SEVERAL[0], ONE[1], [user("Which?", *(example.image for example in SHIPPED))]]


@pytest.fixture(scope="module")
def nano() -> TheWorld:
    return TheWorld.from_pretrained(NANO)


@pytest.fixture(scope="module")
def pipe(nano: TheWorld) -> Any:
    return pipeline("image-text-to-text", model=nano, processor=nano.processor)


def answers(pipe: Any, prompts: list[list[Message]], batch_size: int, **settings: Any) -> list[str]:
    outputs = pipe(text=prompts, batch_size=batch_size, max_new_tokens=6, return_full_text=False, **settings)
    return [output[0]["generated_text"] for output in outputs]


@pytest.mark.parametrize("prompts", [ONE, SEVERAL, MIXED], ids=["one image", "several images", "mixed"])
@pytest.mark.parametrize("settings", [{}, {"num_world_steps": 0}], ids=str)
def test_batches_equal_single_prompts(
    nano: TheWorld, pipe: Any, prompts: list[list[Message]], settings: dict[str, Any]
) -> None:
    alone = answers(pipe, prompts, 1, **settings)
    world: list[tuple[int, int]] = []

    def after_forward(_module: Any, _args: Any, output: Any) -> None:
        if output.world_hidden_states is not None:
            world.append(tuple(output.world_hidden_states.shape[:2]))

    hook = nano.model.register_forward_hook(after_forward)
    batched = answers(pipe, prompts, 2, **settings)
    hook.remove()
    assert batched == alone
    images = sum(part["type"] == "image" for prompt in prompts for part in prompt[0]["content"])
    tokens = nano.config.world_tokens(settings.get("num_world_steps", nano.config.num_world_steps))
    assert sum(count for count, _ in world) == images
    assert {length for _, length in world} == {tokens}


@pytest.mark.parametrize("settings", [{}, {"num_world_steps": 1}], ids=str)
def test_batches_of_a_gated_fusion(load: Load, images: list[Image.Image], settings: dict[str, Any]) -> None:
    model = load(fusion="gated", max_world_steps=1)
    with torch.no_grad():
        model.model.world_gate.fill_(1)  # type: ignore[union-attr]
    gated = pipeline("image-text-to-text", model=model, processor=model.processor)
    prompts = [[user("Hi?", images[0], images[1])], [user("Which bin will the ball land in?", images[2])]]
    alone = answers(gated, prompts, 1, **settings)
    assert answers(gated, prompts, 2, **settings) == alone


def test_batches_keep_every_image_apart(nano: TheWorld, pipe: Any) -> None:
    batches: list[torch.Tensor] = []
    generate = nano.generate

    def seen(*args: Any, world_pixel_values: torch.Tensor, **kwargs: Any) -> Any:
        batches.append(world_pixel_values)
        return generate(*args, world_pixel_values=world_pixel_values, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nano, "generate", seen)
        answers(pipe, SEVERAL, 2)
    expected = nano.processor.world_pixels(
        [[part["image"] for part in prompt[0]["content"][:-1]] for prompt in SEVERAL]
    )
    assert len(batches) == 1
    assert torch.equal(batches[0].reshape(expected.shape), expected)


def test_text_is_clean(nano: TheWorld, pipe: Any) -> None:
    given = encode(nano.processor, *MIXED)
    output = nano.generate(**given, max_new_tokens=6, do_sample=False)
    texts = [*nano.processor.batch_decode(output, skip_special_tokens=True), *answers(pipe, MIXED, 2)]
    for text in texts:
        assert all(character.isprintable() or character == "\n" for character in text), repr(text)
        for token in (CUSTOM_TOKEN_SOW, WORLD_TOKEN, CUSTOM_TOKEN_EOW):
            assert token not in text


# --------------------------------------------------------------------------------------------- the side of padding


def side(processor: Any, image: Image.Image) -> str:
    """Where a call that names no side pads."""
    short, long = [user("Hi?", image)], [user("Which bin will the ball land in?", image)]
    given = processor.apply_chat_template(
        [short, long], tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs={"padding": True}
    )
    return "left" if given["attention_mask"][0, 0] == 0 else "right"


def test_a_loaded_model_pads_left(world: TheWorld, nano: TheWorld, images: list[Image.Image]) -> None:
    for model in (world, nano):
        assert model.processor.tokenizer.padding_side == "left"
        assert side(model.processor, images[0]) == "left"


def test_padding_right_once_leaves_no_trace(world: TheWorld, images: list[Image.Image], tmp_path: Path) -> None:
    encode(world.processor, [user("Hi?", images[0])], [user("Which falls?", images[0])], side="right")
    assert side(world.processor, images[0]) == "left"
    encode(world.processor, [user("Hi?", images[0])], [user("Which falls?", images[0])], side="right")
    world.save_pretrained(tmp_path)
    padding = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))["padding"]
    assert padding is None or padding["direction"] == "Left"
    assert side(AutoProcessor.from_pretrained(tmp_path), images[0]) == "left"


def test_a_saved_right_padding_is_not_kept(world: TheWorld, images: list[Image.Image], tmp_path: Path) -> None:
    world.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    saved = json.loads(path.read_text(encoding="utf-8"))
    saved["padding"] = {
        "strategy": "BatchLongest",
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<pad>",
    }
    path.write_text(json.dumps(saved), encoding="utf-8")
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "padding_side": "right"}), encoding="utf-8")
    for processor in (TheWorld.from_pretrained(tmp_path).processor, AutoProcessor.from_pretrained(tmp_path)):
        assert side(processor, images[0]) == "left"
