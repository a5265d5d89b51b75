"""The processor's layout: where the block stands, how long it is, and that without it Gemma's ids are left."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, Gemma3Processor

from tests.model.conftest import Load
from tests.model.helpers import (
    FRAME_TOKENS,
    assistant,
    encode,
    images_of,
    real_tokens,
    system,
    user,
    without_block,
)
from theworld import TheWorld, TheWorldProcessor
from theworld.constants import CUSTOM_TOKEN_EOW, CUSTOM_TOKEN_SOW, WORLD_TOKEN
from theworld.model.world_block import Prompt, insert_world_blocks, remove_world_blocks

POSITIONS = ("after_bos", "before_image")
SIDES = ("left", "right")


@pytest.fixture(scope="module", params=POSITIONS)
def model(request: pytest.FixtureRequest, shared: Load) -> TheWorld:
    return shared(world_position=request.param)


@pytest.fixture(scope="module")
def stock(gemma_folder: Path) -> Gemma3Processor:
    return Gemma3Processor.from_pretrained(gemma_folder)


def prompts(images: list[Image.Image]) -> list[list[dict[str, Any]]]:
    """Conversations of every shape, with texts that touch the image in every way."""
    first, second, third = images
    texts = (
        "Hi?",
        "a",
        " leading space",
        "trailing newline\n",
        "\n\nboth\n\n",
        "<b>tags</b>",
        "ball  two spaces",
        "日本語 ⚽",
    )
    placed = [
        {"role": "user", "content": [{"type": "text", "text": "before"}, {"type": "image", "image": first}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "one"},
                {"type": "image", "image": second},
                {"type": "text", "text": "between\n"},
                {"type": "image", "image": third},
                {"type": "image", "image": first},
            ],
        },
    ]
    return [
        *([user(text, first)] for text in texts),
        *([user(text)] for text in texts),
        *([message] for message in placed),
        [system("Be brief."), user("What is this?", first)],
        [
            user("What is this?", first),
            assistant("A ball."),
            user("And this?", second),
            assistant("Blue."),
            user("Why?"),
        ],
        [system("Look."), user("Hi?"), assistant("Yes."), user("Which?", first, second, third)],
    ]


NUM_PROMPTS = 21


def test_default_layout(world: TheWorld, stock: Gemma3Processor, images: list[Image.Image]) -> None:
    """`[BOS, SOW, world x N, EOW, ..., image, ...]`."""
    conversation = [user("Which bin?", images[0])]
    ours = world.processor.tokenizer.convert_ids_to_tokens(encode(world.processor, conversation)["input_ids"][0])
    plain = stock.tokenizer.convert_ids_to_tokens(encode(stock, conversation)["input_ids"][0])
    block = [CUSTOM_TOKEN_SOW, *[WORLD_TOKEN] * FRAME_TOKENS, CUSTOM_TOKEN_EOW]
    assert ours == ["<bos>", *block, *plain[1:]]


def test_layout_before_the_image(shared: Load, stock: Gemma3Processor, images: list[Image.Image]) -> None:
    model = shared(world_position="before_image")
    conversation = [user("Which bin?", images[0])]
    ours = model.processor.tokenizer.convert_ids_to_tokens(encode(model.processor, conversation)["input_ids"][0])
    plain = stock.tokenizer.convert_ids_to_tokens(encode(stock, conversation)["input_ids"][0])
    block = [CUSTOM_TOKEN_SOW, *[WORLD_TOKEN] * FRAME_TOKENS, CUSTOM_TOKEN_EOW]
    at = plain.index("<start_of_image>")
    assert ours == [*plain[:at], *block, *plain[at:]]


def test_several_images_behind_bos(world: TheWorld, images: list[Image.Image]) -> None:
    ids = encode(world.processor, [user("Which?", *images)])["input_ids"][0]
    config = world.config
    block = [config.start_of_world_token_id, *[config.world_token_id] * FRAME_TOKENS, config.end_of_world_token_id]
    assert ids[1 : 1 + 3 * len(block)].tolist() == 3 * block


@pytest.mark.parametrize("number", range(NUM_PROMPTS))
def test_without_its_block_a_prompt_is_gemmas(
    model: TheWorld, stock: Gemma3Processor, images: list[Image.Image], number: int
) -> None:
    conversation = prompts(images)[number]
    plain = encode(stock, conversation)
    for steps in (0, 2):
        ours = encode(model.processor, conversation, num_world_steps=steps)
        kept = without_block(model, ours["input_ids"])
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            assert torch.equal(ours[name][kept], plain[name][0])
        assert (~kept).sum() == len(images_of([conversation])) * ((1 + steps) * FRAME_TOKENS + 2)
        if "pixel_values" in plain:
            assert torch.equal(ours["pixel_values"], plain["pixel_values"])


def test_every_prompt_is_tried(images: list[Image.Image]) -> None:
    assert len(prompts(images)) == NUM_PROMPTS


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize("position", POSITIONS)
def test_inserting_and_removing_blocks_gives_the_processors_tokens(
    shared: Load, images: list[Image.Image], position: str, attention: str, steps: int, side: str
) -> None:
    model = shared(world_position=position, world_attention=attention)
    names = ("input_ids", "attention_mask", "token_type_ids")
    batch = prompts(images)
    ours = encode(model.processor, *batch, side=side, num_world_steps=steps)
    plain = encode(model.processor, *batch, side=side, use_world=False)
    as_prompt = {form: Prompt(*(inputs[name] for name in names)) for form, inputs in (("ours", ours), ("plain", plain))}
    inserted = insert_world_blocks(model.config, as_prompt["plain"], len(images_of(batch)), steps).prompt
    removed = remove_world_blocks(model.config, as_prompt["ours"]).prompt
    for name in names:
        assert torch.equal(getattr(inserted, name), ours[name])
        assert torch.equal(getattr(removed, name), plain[name])


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_token_type_ids(shared: Load, images: list[Image.Image], attention: str) -> None:
    model = shared(world_attention=attention)
    inputs = encode(model.processor, [user("Hi?", images[0])])
    both_ways = inputs["input_ids"] == model.config.image_token_index
    if attention == "bidirectional":
        both_ways |= inputs["input_ids"] == model.config.world_token_id
    assert torch.equal(inputs["token_type_ids"].bool(), both_ways)


def test_everything_comes_in_one_dict(world: TheWorld, images: list[Image.Image]) -> None:
    inputs = encode(world.processor, [user("Which?", images[0], images[1])], [user("Hi?")])
    assert {name: tuple(value.shape[1:]) for name, value in inputs.items() if "values" in name} == {
        "pixel_values": (3, 16, 16),
        "world_pixel_values": (3, 32, 32),
    }
    assert len(inputs["world_pixel_values"]) == len(inputs["pixel_values"]) == 2
    assert set(inputs) <= set(world.processor.model_input_names)
    assert inputs["world_pixel_values"].min() >= -1
    assert inputs["world_pixel_values"].max() <= 1
    assert "world_pixel_values" not in encode(world.processor, [user("Hi?")])


def test_steps_and_world_of_a_plain_call(world: TheWorld, images: list[Image.Image]) -> None:
    call = {"text": "<bos><start_of_image> where?", "images": images[0], "return_tensors": "pt"}
    for how, tokens in (({}, 1), ({"num_world_steps": 3}, 4), ({"use_world": False}, 0)):
        inputs = world.processor(**call, add_special_tokens=False, **how)
        assert (inputs["input_ids"] == world.config.world_token_id).sum() == tokens * FRAME_TOKENS
        assert ("world_pixel_values" in inputs) == bool(tokens)


def test_steps_inside_processor_kwargs(world: TheWorld, images: list[Image.Image]) -> None:
    inputs = encode(world.processor, [user("Hi?", images[0])], processor_kwargs={"num_world_steps": 2})
    assert (inputs["input_ids"] == world.config.world_token_id).sum() == 3 * FRAME_TOKENS


def test_pan_and_scan_gives_the_image_one_world(model: TheWorld, images: list[Image.Image]) -> None:
    """Crops are for SigLIP: the world stays whole."""
    wide = images[0].resize((96, 32))
    crops = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 16, "pan_and_scan_min_ratio_to_activate": 1.2}
    inputs = encode(model.processor, [user("Hi?", wide)], processor_kwargs=crops)
    assert len(inputs["pixel_values"]) > 1
    assert len(inputs["world_pixel_values"]) == 1
    assert model(**inputs).num_world_tokens == FRAME_TOKENS


def test_chat_text_has_no_block_yet(world: TheWorld, stock: Gemma3Processor, images: list[Image.Image]) -> None:
    conversation = [user("Hi?", images[0])]
    options = {"tokenize": False, "add_generation_prompt": True}
    text = world.processor.apply_chat_template(conversation, **options)
    assert text == stock.apply_chat_template(conversation, **options)


@pytest.mark.parametrize("number", range(NUM_PROMPTS))
def test_assistant_mask_marks_the_answers(model: TheWorld, images: list[Image.Image], number: int) -> None:
    answers = ["It lands in the red bin.", "日本語 ⚽"]
    conversation = [*prompts(images)[number], assistant(answers[0]), user("And?", images[1]), assistant(answers[1])]
    inputs = encode(
        model.processor, conversation, return_assistant_tokens_mask=True, add_generation_prompt=False, num_world_steps=1
    )
    earlier = [part["text"] for turn in conversation[:-3] if turn["role"] == "assistant" for part in turn["content"]]
    mask = torch.as_tensor(inputs["assistant_masks"]).bool()
    marked = model.processor.tokenizer.decode(inputs["input_ids"][mask])
    assert marked == "".join(f"{answer}<end_of_turn>\n" for answer in [*earlier, *answers])


# --------------------------------------------------------------------------------------- padding and truncation


@pytest.mark.parametrize("side", SIDES)
def test_padding_to_a_length(model: TheWorld, images: list[Image.Image], side: str) -> None:
    conversation = [user("Hi?", images[0])]
    short = encode(model.processor, conversation)
    long = encode(
        model.processor, conversation, side=side, processor_kwargs={"padding": "max_length", "max_length": 90}
    )
    assert long["input_ids"].shape == long["token_type_ids"].shape == (1, 90)
    assert real_tokens(long) == real_tokens(short)
    real = slice(None, short["input_ids"].shape[1]) if side == "right" else slice(-short["input_ids"].shape[1], None)
    assert torch.equal(long["attention_mask"][:, real], short["attention_mask"])
    assert torch.equal(long["token_type_ids"][:, real], short["token_type_ids"])
    assert long["attention_mask"].sum() == short["attention_mask"].sum()


def test_truncation_of_the_text(world: TheWorld, images: list[Image.Image]) -> None:
    conversation = [user("Hi? " * 20, images[0])]
    whole = encode(world.processor, conversation)["input_ids"]
    cut = encode(world.processor, conversation, processor_kwargs={"truncation": True, "max_length": 60})["input_ids"]
    assert torch.equal(cut, whole[:, :60])


@pytest.mark.parametrize("length", [10, 24])
def test_truncation_that_cuts_the_block_is_an_error(model: TheWorld, images: list[Image.Image], length: int) -> None:
    with pytest.raises(ValueError, match="disable truncation or increase `max_length`"):
        encode(model.processor, [user("Hi?", images[0])], processor_kwargs={"truncation": True, "max_length": length})


def test_truncation_from_the_left_that_cuts_the_block_is_an_error(
    gemma_folder: Path, world: TheWorld, images: list[Image.Image]
) -> None:
    stock = Gemma3Processor.from_pretrained(gemma_folder)
    stock.tokenizer.truncation_side = "left"
    processor = TheWorldProcessor.from_gemma(stock, world.config)
    with pytest.raises(ValueError, match="world"):
        encode(processor, [user("Hi?", images[0])], processor_kwargs={"truncation": True, "max_length": 35})


# ---------------------------------------------------------------------------------------------- kinds of images


def kinds(image: Image.Image, folder: Path) -> dict[str, Any]:
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    path = folder / "image.png"
    image.save(path)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return {
        "array": array,
        "uint8 tensor": tensor,
        "float tensor": tensor / 255,
        "bf16-safe double tensor": tensor.double() / 255,
        "batched tensor": tensor[None] / 255,
        "batched array": array[None],
        "path": path,
        "path as text": str(path),
        "data URL": "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode(),
        "RGBA": image.convert("RGBA"),
        "list": [image],
    }


KINDS = tuple(kinds(Image.new("RGB", (2, 2)), Path("/tmp")))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_gives_the_same_pixels(
    world: TheWorld, images: list[Image.Image], tmp_path: Path, kind: str
) -> None:
    image = images[1]
    given = kinds(image, tmp_path)[kind]
    call = {"text": "<start_of_image> where?", "return_tensors": "pt"}
    expected, ours = (world.processor(images=source, **call) for source in (image, given))
    assert expected.keys() == ours.keys()
    for name in expected:
        assert torch.equal(ours[name], expected[name])


@pytest.mark.parametrize("kind", KINDS)
def test_images_argument_takes_every_kind(
    world: TheWorld, images: list[Image.Image], tmp_path: Path, kind: str
) -> None:
    plain = encode(world.processor, [user("Hi?", images[1])], use_world=False)
    expected = world(**plain, images=images[1]).logits
    assert torch.equal(world(**plain, images=kinds(images[1], tmp_path)[kind]).logits, expected)


@pytest.mark.parametrize("key", ["image", "path", "url"])
def test_chat_messages_take_paths_and_urls(
    world: TheWorld, images: list[Image.Image], tmp_path: Path, key: str
) -> None:
    sources = kinds(images[1], tmp_path)
    source = sources["data URL"] if key == "url" else sources["path as text"]
    content = [{"type": "image", key: source}, {"type": "text", "text": "Hi?"}]
    ours = encode(world.processor, [{"role": "user", "content": content}])
    expected = encode(world.processor, [user("Hi?", images[1])])
    for name in expected:
        assert torch.equal(ours[name], expected[name])


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "CMYK"])
def test_modes_other_than_rgb(world: TheWorld, images: list[Image.Image], mode: str) -> None:
    odd = images[0].convert(mode)
    call = {"text": "<start_of_image>", "return_tensors": "pt"}
    expected = world.processor(images=odd.convert("RGB"), **call)
    ours = world.processor(images=odd, **call)
    assert torch.equal(ours["world_pixel_values"], expected["world_pixel_values"])
    assert torch.equal(ours["pixel_values"], expected["pixel_values"])


def test_rotated_photos_are_turned_upright(world: TheWorld, images: list[Image.Image], tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    images[1].save(tmp_path / "turned.png", exif=exif)
    call = {"text": "<start_of_image>", "return_tensors": "pt"}
    ours = world.processor(images=tmp_path / "turned.png", **call)
    upright = world.processor(images=images[1].transpose(Image.Transpose.ROTATE_270), **call)
    assert torch.equal(ours["world_pixel_values"], upright["world_pixel_values"])
    assert torch.equal(ours["pixel_values"], upright["pixel_values"])


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        (torch.full((3, 8, 8), 255.0), r"\[255, 255\]: expected \[0, 1\]"),
        (torch.full((3, 8, 8), -0.5), r"expected \[0, 1\]"),
        (torch.full((3, 8, 8), torch.nan), r"expected \[0, 1\]"),
        (torch.zeros(8, 8, 3), r"\(8, 8, 3\): expected \(3, H, W\)"),
        (torch.zeros(8, 8), r"\(8, 8\): expected \(3, H, W\)"),
        (np.zeros((8, 8, 3)), "float64: expected uint8"),
        (np.zeros((3, 8, 8), dtype=np.uint8), r"\(3, 8, 8\)"),
        (np.zeros(8, dtype=np.uint8), r"\(8,\)"),
        (7, "type int"),
    ],
)
def test_images_that_are_none(world: TheWorld, image: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        world.processor(text="<start_of_image>", images=image)
    with pytest.raises(ValueError, match=complaint):
        world(input_ids=torch.tensor([[2, world.config.boi_token_index]]), images=[image])


def test_missing_and_damaged_files(world: TheWorld, images: list[Image.Image], tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image", encoding="utf-8")
    whole = tmp_path / "whole.png"
    images[0].save(whole)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(FileNotFoundError, match="absent"):
        world.processor(text="<start_of_image>", images=tmp_path / "absent.png")
    for name in ("text", "cut"):
        with pytest.raises(ValueError, match=f"{name}.png"):
            world.processor(text="<start_of_image>", images=tmp_path / f"{name}.png")


# ----------------------------------------------------------------------------------------------- save and load


@pytest.mark.parametrize("position", POSITIONS)
def test_processor_round_trip(shared: Load, images: list[Image.Image], tmp_path: Path, position: str) -> None:
    processor = shared(world_position=position, world_attention="bidirectional", world_pooling=2).processor
    processor.save_pretrained(tmp_path)
    expected = encode(processor, [user("Hi?", images[0])], num_world_steps=1)
    for loaded in (TheWorldProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is TheWorldProcessor
        ours = encode(loaded, [user("Hi?", images[0])], num_world_steps=1)
        assert all(torch.equal(ours[name], expected[name]) for name in expected)


def test_gemma_inside_the_processor(world: TheWorld, images: list[Image.Image], tmp_path: Path) -> None:
    world.processor.save_gemma(tmp_path)
    stock = AutoProcessor.from_pretrained(tmp_path)
    assert type(stock) is Gemma3Processor
    ours = encode(world.processor, [user("Hi?", images[0])], use_world=False)
    theirs = encode(stock, [user("Hi?", images[0])])
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
