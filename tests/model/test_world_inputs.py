"""What a call may ask of the world, and what is said when it does not fit."""

import warnings
from typing import Any

import pytest
import torch
from PIL import Image

from tests.model.conftest import Load
from tests.model.helpers import FRAME_TOKENS, Message, encode, images_of, load_world, user
from theworld import TheWorld, TheWorldConfig
from theworld.constants import IGNORE_INDEX

POSITIONS = ("after_bos", "before_image")
SIDES = ("left", "right")


@pytest.fixture(scope="module")
def plain(world: TheWorld, conversations: dict[str, list[Message]]) -> Any:
    return encode(world.processor, conversations["image"], use_world=False)


# ---------------------------------------------------------------------------------------------- forward(images=)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("names", [("image",), ("two images",), ("text", "two images", "image")])
def test_logits_come_back_at_the_callers_positions(
    shared: Load, conversations: dict[str, list[Message]], names: tuple[str, ...], position: str, side: str
) -> None:
    model = shared(world_position=position)
    chosen = [conversations[name] for name in names]
    given = encode(model.processor, *chosen, side=side, num_world_steps=1)
    plain = encode(model.processor, *chosen, side=side, use_world=False)
    expected = model(**given)
    output = model(**plain, images=images_of(chosen), num_world_steps=1)
    config = model.config
    block = torch.tensor([config.start_of_world_token_id, config.world_token_id, config.end_of_world_token_id])
    asked = ~torch.isin(given["input_ids"], block) & given["attention_mask"].bool()
    assert output.logits.shape[:2] == plain["input_ids"].shape
    assert torch.equal(output.logits[plain["attention_mask"].bool()], expected.logits[asked])
    assert output.num_world_tokens == expected.num_world_tokens


@pytest.mark.parametrize("side", SIDES)
def test_labels_move_with_their_tokens(world: TheWorld, conversations: dict[str, list[Message]], side: str) -> None:
    chosen = list(conversations.values())
    losses = []
    for use_world in (True, False):
        given = encode(world.processor, *chosen, side=side, use_world=use_world)
        ordinal = given["attention_mask"].flip(1).cumsum(1).flip(1)
        labels = given["input_ids"].masked_fill((ordinal > 6) | (given["attention_mask"] == 0), IGNORE_INDEX)
        extra = {} if use_world else {"images": images_of(chosen)}
        losses.append(world(**given, **extra, labels=labels).loss)
    assert torch.equal(*losses)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("keep", [1, 3, torch.tensor([0, 4, -1])], ids=str)
def test_logits_to_keep_means_the_callers_positions(
    world: TheWorld, conversations: dict[str, list[Message]], keep: Any, side: str
) -> None:
    chosen = list(conversations.values())
    plain = encode(world.processor, *chosen, side=side, use_world=False)
    everything = world(**plain, images=images_of(chosen)).logits
    kept = world(**plain, images=images_of(chosen), logits_to_keep=keep).logits
    expected = everything[:, -keep:] if isinstance(keep, int) else everything[:, keep]
    torch.testing.assert_close(kept, expected, rtol=1e-5, atol=1e-5)


def test_images_beside_a_block_replace_its_pixels(world: TheWorld, inputs: Any, images: list[Image.Image]) -> None:
    given = {name: value for name, value in inputs.items() if name != "world_pixel_values"}
    assert torch.equal(world(**given, images=[images[0]]).logits, world(**inputs).logits)
    assert not torch.equal(world(**given, images=[images[1]]).logits, world(**inputs).logits)


def test_pixels_and_images_at_once(world: TheWorld, inputs: Any, images: list[Image.Image]) -> None:
    with pytest.raises(ValueError, match="both world_pixel_values and images="):
        world(**inputs, images=[images[0]])


# ------------------------------------------------------------------------------------------------ num_world_steps


@pytest.mark.parametrize("method", ["forward", "generate"])
@pytest.mark.parametrize("steps", [-1, 5, 100])
def test_steps_out_of_range(world: TheWorld, plain: Any, images: list[Image.Image], method: str, steps: int) -> None:
    with pytest.raises(ValueError, match=rf"num_world_steps={steps}\b.*max_world_steps=4"):
        getattr(world, method)(**plain, images=[images[0]], num_world_steps=steps)


@pytest.mark.parametrize("steps", [-1, 5])
def test_steps_out_of_range_for_the_processor(world: TheWorld, images: list[Image.Image], steps: int) -> None:
    with pytest.raises(ValueError, match=rf"num_world_steps={steps}\b.*max_world_steps=4"):
        encode(world.processor, [user("Hi?", images[0])], num_world_steps=steps)


@pytest.mark.parametrize("method", ["forward", "generate"])
def test_steps_that_do_not_fit_the_block(world: TheWorld, conversations: dict[str, list[Message]], method: str) -> None:
    given = encode(world.processor, conversations["image"], num_world_steps=1)
    with pytest.raises(ValueError, match=r"num_world_steps=2 does not fit .* 1 steps"):
        getattr(world, method)(**given, num_world_steps=2)


@pytest.mark.parametrize("method", ["forward", "generate"])
def test_block_longer_than_the_model_allows(shared: Load, images: list[Image.Image], method: str) -> None:
    roomy, narrow = shared(max_world_steps=4), shared(max_world_steps=2)
    given = encode(roomy.processor, [user("Hi?", images[0])], num_world_steps=3)
    with pytest.raises(ValueError, match=r"num_world_steps=3.*max_world_steps=2"):
        getattr(narrow, method)(**given)


def test_steps_that_do_fit_the_block(world: TheWorld, conversations: dict[str, list[Message]]) -> None:
    given = encode(world.processor, conversations["image"], num_world_steps=1)
    assert torch.equal(world(**given, num_world_steps=1).logits, world(**given).logits)


def test_steps_of_the_configuration(gemma_folder: Any, cosmos_folder: Any) -> None:
    with pytest.raises(ValueError, match=r"num_world_steps=5.*max_world_steps=4"):
        load_world(gemma_folder, cosmos_folder, num_world_steps=5)


# --------------------------------------------------------------------------------------------- what does not fit


@pytest.mark.parametrize("method", ["forward", "generate"])
def test_block_without_pixels(world: TheWorld, inputs: Any, method: str) -> None:
    given = {name: value for name, value in inputs.items() if name != "world_pixel_values"}
    with pytest.raises(
        ValueError, match=rf"1 world blocks with {FRAME_TOKENS} world tokens in total, and the call 0 world images"
    ):
        getattr(world, method)(**given)


@pytest.mark.parametrize("method", ["forward", "generate"])
def test_more_frames_than_blocks(world: TheWorld, inputs: Any, method: str) -> None:
    given = {**inputs, "world_pixel_values": inputs["world_pixel_values"].repeat(3, 1, 1, 1)}
    with pytest.raises(ValueError, match="do not fit"):
        getattr(world, method)(**given)


@pytest.mark.parametrize("method", ["forward", "generate"])
def test_fewer_frames_than_blocks_are_not_read_as_more_steps(
    world: TheWorld, conversations: dict[str, list[Message]], method: str
) -> None:
    """Two blocks of one frame are as long as one block of two."""
    given = encode(world.processor, conversations["two images"])
    given["world_pixel_values"] = given["world_pixel_values"][:1]
    with pytest.raises(ValueError, match="2 world blocks"):
        getattr(world, method)(**given)


@pytest.mark.parametrize("method", ["forward", "generate"])
def test_blocks_of_unequal_length(world: TheWorld, conversations: dict[str, list[Message]], method: str) -> None:
    """Steps are one number a call: a prompt with other steps cannot share its batch."""
    given = encode(world.processor, conversations["two images"], num_world_steps=1)
    ids = given["input_ids"]
    first, last = (ids[0] == world.config.end_of_world_token_id).nonzero().flatten().tolist()
    ids[0, first - 1], ids[0, last] = world.config.end_of_world_token_id, world.config.world_token_id
    ids[0, first], ids[0, last + 1] = world.config.start_of_world_token_id, world.config.end_of_world_token_id
    ids[0, first + 1] = world.config.world_token_id
    with pytest.raises(ValueError, match="do not fit"):
        getattr(world, method)(**given)


@pytest.mark.parametrize("method", ["forward", "generate"])
def test_pixels_without_a_block(world: TheWorld, plain: Any, inputs: Any, method: str) -> None:
    with pytest.raises(ValueError, match="0 world blocks with 0 world tokens in total, and the call 1 world images"):
        getattr(world, method)(**plain, world_pixel_values=inputs["world_pixel_values"])


@pytest.mark.parametrize("method", ["forward", "generate"])
@pytest.mark.parametrize("count", [0, 2])
def test_images_that_do_not_match_the_placeholders(
    world: TheWorld, plain: Any, images: list[Image.Image], method: str, count: int
) -> None:
    with pytest.raises(ValueError, match=rf"1 image placeholders but images= holds {count}"):
        getattr(world, method)(**plain, images=images[:count])


def test_no_images_for_a_text_prompt(world: TheWorld) -> None:
    given = encode(world.processor, [user("Hi?")])
    assert torch.equal(world(**given, images=[]).logits, world(**given).logits)


def test_images_for_a_text_prompt(world: TheWorld, images: list[Image.Image]) -> None:
    given = encode(world.processor, [user("Hi?")])
    with pytest.raises(ValueError, match="0 image placeholders but images= holds 1"):
        world(**given, images=[images[0]])


def test_processor_image_without_placeholder(world: TheWorld, images: list[Image.Image]) -> None:
    with pytest.raises(ValueError, match="images"):
        world.processor(text="no place for it", images=[images[0]])


def test_processor_placeholder_without_image(world: TheWorld) -> None:
    with pytest.raises(ValueError, match="no images were passed"):
        world.processor(text="<start_of_image> where is it?")


def test_use_world_without_world_input(world: TheWorld, plain: Any) -> None:
    with pytest.raises(ValueError, match="no world input"):
        world(**plain, use_world=True)
    with pytest.raises(ValueError, match="no world input"):
        world.generate(**plain, use_world=True)


def test_use_world_for_a_text_prompt(world: TheWorld) -> None:
    with pytest.raises(ValueError, match="no world input"):
        world(**encode(world.processor, [user("Hi?")]), use_world=True)


def test_embeddings_do_not_show_the_block(world: TheWorld, inputs: Any) -> None:
    embeds = world.get_input_embeddings()(inputs["input_ids"])
    with pytest.raises(ValueError, match="needs input_ids"):
        world(inputs_embeds=embeds, world_pixel_values=inputs["world_pixel_values"])


def test_embeddings_without_a_world_are_gemmas(world: TheWorld) -> None:
    ids = encode(world.processor, [user("Hi?")])["input_ids"]
    embeds = world.get_input_embeddings()(ids)
    assert torch.equal(world(inputs_embeds=embeds).logits, world(input_ids=ids).logits)


# ---------------------------------------------------------------------------------- an image without world input


def test_image_without_world_input_in_training(load: Load, plain: Any) -> None:
    model = load().train()
    with pytest.raises(ValueError, match="no world input"):
        model(**plain)


def test_image_without_world_input_with_labels(world: TheWorld, plain: Any) -> None:
    with pytest.raises(ValueError, match="no world input"):
        world(**plain, labels=plain["input_ids"])


def test_asking_for_no_world_is_silent(world: TheWorld, plain: Any, inputs: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        world(**plain, use_world=False)
        world(**plain, use_world=False, labels=plain["input_ids"])
        world.generate(**plain, use_world=False, max_new_tokens=2)
        world.generate(**inputs, use_world=False, max_new_tokens=2)
        world.generate(**inputs, max_new_tokens=2)


def test_a_world_in_the_prompt_is_enough_in_training(load: Load, inputs: Any) -> None:
    model = load().train()
    assert torch.isfinite(model(**inputs, labels=inputs["input_ids"]).loss)


# ------------------------------------------------------------------------------------------------- construction


def test_string_in_the_constructor() -> None:
    with pytest.raises(ValueError, match=r"TheWorld\.from_pretrained\('google/gemma-3-4b-it'\)"):
        TheWorld("google/gemma-3-4b-it")  # pyright: ignore[reportArgumentType]


def test_model_without_an_encoder_says_how_to_get_one(world: TheWorld, inputs: Any) -> None:
    bare = TheWorld(world.config).eval()
    with pytest.raises(ValueError, match=r"TheWorld\.from_pretrained"):
        bare(**inputs)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("world_position", "somewhere"),
        ("world_attention", "none"),
        ("max_world_steps", 0),
        ("world_pooling", 0),
        ("world_unpooling", 0),
        ("world_image_size", 30),
        ("world_image_size", 0),
        ("num_world_steps", -1),
        ("num_world_steps", 17),
        ("world_inference_steps", 0),
        ("world_fps", 0),
    ],
)
def test_configuration_names_field_and_value(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{field}={value!r}"):
        TheWorldConfig(**{field: value})


def test_pooling_and_unpooling_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="world_pooling=2 with world_unpooling=2: one undoes the other; set one"):
        TheWorldConfig(world_pooling=2, world_unpooling=2)


@pytest.mark.parametrize(("field", "value"), [("projector", "magic"), ("world_encoder", "magic"), ("fusion", "magic")])
def test_unknown_choice_names_the_known_ones(load: Load, field: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{field}='magic'"):
        load(**{field: value})


def test_embeddings_cannot_train_without_their_world(world: TheWorld, images: list[Image.Image]) -> None:
    plain = encode(world.processor, [user("Hi?", images[0])], use_world=False)
    embeds = world.get_input_embeddings()(plain.pop("input_ids"))
    given = {**plain, "inputs_embeds": embeds, "labels": torch.zeros(embeds.shape[:2], dtype=torch.long)}
    with pytest.raises(ValueError, match="inputs_embeds with pixel_values in training"):
        world(**given)
