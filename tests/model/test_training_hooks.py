"""What a trainer leans on: latents in place of frames, and logits at the supervised positions alone."""

from typing import Any

import pytest
import torch
from PIL import Image

from tests.model.conftest import Load
from tests.model.helpers import Message, answer_ids, assistant, encode, images_of, user
from theworld import TheWorld
from theworld.constants import IGNORE_INDEX

POSITIONS = ("after_bos", "before_image")
SIDES = ("left", "right")
EVERYTHING = {"freeze_gemma_vision": False, "freeze_gemma_language": False, "freeze_cosmos_vae": False}


@pytest.fixture(scope="module")
def chats(conversations: dict[str, list[Message]]) -> list[list[Message]]:
    """A text-only question, one image, two images, and two turns."""
    asked = [[*conversation, assistant("It lands in the red bin.")] for conversation in conversations.values()]
    return [*asked, [*asked[1], user("Sure?"), assistant("Yes, the tower falls.")]]


def batch(model: TheWorld, chats: list[list[Message]], side: str = "right", **how: Any) -> dict[str, Any]:
    """Inputs with labels on the answers."""
    options = {"return_assistant_tokens_mask": True, "add_generation_prompt": False}
    inputs = dict(encode(model.processor, *chats, side=side, **options, **how))
    mask = torch.as_tensor(inputs.pop("assistant_masks")).bool()
    return {**inputs, "labels": inputs["input_ids"].masked_fill(~mask, IGNORE_INDEX)}


def without_pixels(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name != "world_pixel_values"}


def latents_of(model: TheWorld, given: dict[str, Any], steps: int) -> torch.Tensor:
    assert model.model.world_encoder is not None
    frames = given["world_pixel_values"].split(1)  # one by one, as training encodes them
    return torch.cat([model.model.world_encoder.encode(frame, steps) for frame in frames])


def gradients(model: TheWorld, *calls: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Gradients of all trainable parameters, accumulated over `calls`."""
    model.zero_grad()
    for call in calls:
        model.train()(**call).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(ours: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(ours[name], expected[name], rtol=1e-5, atol=1e-6, msg=name)


# ------------------------------------------------------------------------------------------------- world_latents


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("steps", [0, 1])
def test_latents_are_as_good_as_their_frames(
    world: TheWorld, chats: list[list[Message]], steps: int, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = batch(world, chats, side, num_world_steps=steps)
    latents = latents_of(world, given, steps)
    expected = world(**given)
    monkeypatch.setattr(world.model.world_encoder, "encode", None)  # calling it would raise
    ours = world(**without_pixels(given), world_latents=latents)
    assert torch.equal(ours.logits, expected.logits)
    assert torch.equal(ours.loss, expected.loss)
    assert ours.num_world_tokens == expected.num_world_tokens == 4 * 16 * (1 + steps)


@pytest.mark.parametrize("beams", [1, 2])
def test_generate_from_latents(
    world: TheWorld, conversations: dict[str, list[Message]], beams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = dict(encode(world.processor, *conversations.values(), num_world_steps=1))
    latents = latents_of(world, given, 1)
    expected = answer_ids(world, given, num_beams=beams)
    monkeypatch.setattr(world.model.world_encoder, "encode", None)
    assert torch.equal(
        answer_ids(world, {**without_pixels(given), "world_latents": latents}, num_beams=beams), expected
    )


def test_projector_learns_the_same_from_latents(load: Load, chats: list[list[Message]]) -> None:
    model = load()
    given = batch(model, chats, num_world_steps=1)
    latents = latents_of(model, given, 1)
    assert_same(gradients(model, {**without_pixels(given), "world_latents": latents}), gradients(model, given))


def test_latents_of_another_type_are_taken(world: TheWorld, inputs: Any) -> None:
    latents = latents_of(world, inputs, 0)
    stored = world(**without_pixels(inputs), world_latents=latents.bfloat16())
    exact = world(**without_pixels(inputs), world_latents=latents.bfloat16().float())
    assert torch.equal(stored.logits, exact.logits)


@pytest.mark.parametrize("method", ["forward", "generate"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z: z[:, :8], r"world_latents \(1, 8, 2, 4, 4\).*expected \(images, 16, 1 \+ num_world_steps, 4, 4\)"),
        (lambda z: z[..., :2], r"world_latents \(1, 16, 2, 4, 2\)"),
        (lambda z: z[:, :, 0], r"world_latents \(1, 16, 4, 4\)"),
        (lambda z: z.long(), r"torch.int64.*floating point"),
        (lambda z: z[:, :, :1], "hold 0 future latent frames and the prompt's world block 1"),
        (lambda z: z.repeat(2, 1, 1, 1, 1), "1 world blocks .* and the call 2 world images"),
        (lambda z: z[:0], "1 world blocks .* and the call 0 world images"),
    ],
)
def test_latents_that_do_not_fit(
    world: TheWorld, conversations: dict[str, list[Message]], method: str, change: Any, message: str
) -> None:
    given = encode(world.processor, conversations["image"], num_world_steps=1)
    latents = change(latents_of(world, given, 1))
    with pytest.raises(ValueError, match=message):
        getattr(world, method)(**without_pixels(given), world_latents=latents)


@pytest.mark.parametrize("method", ["forward", "generate"])
def test_latents_beside_what_they_stand_for(
    world: TheWorld, inputs: Any, images: list[Image.Image], method: str
) -> None:
    latents = latents_of(world, inputs, 0)
    with pytest.raises(ValueError, match="both world_pixel_values and world_latents were given"):
        getattr(world, method)(**inputs, world_latents=latents)
    with pytest.raises(ValueError, match="both world_latents and images= were given"):
        getattr(world, method)(**without_pixels(inputs), world_latents=latents, images=images[:1])
    with pytest.raises(ValueError, match="world_seed=3 with world_latents"):
        getattr(world, method)(**without_pixels(inputs), world_latents=latents, world_seed=3)


@pytest.mark.parametrize("method", ["forward", "generate"])
def test_latents_without_a_block(
    world: TheWorld, conversations: dict[str, list[Message]], inputs: Any, method: str
) -> None:
    plain = encode(world.processor, conversations["image"], use_world=False)
    with pytest.raises(ValueError, match="0 world blocks with 0 world tokens in total, and the call 1 world images"):
        getattr(world, method)(**plain, world_latents=latents_of(world, inputs, 0))


def test_latents_without_a_world(shared: Load, world: TheWorld, inputs: Any) -> None:
    off, latents = shared(enable_world=False), latents_of(world, inputs, 0)
    with pytest.raises(ValueError, match="enable_world=False"):
        off(**without_pixels(inputs), world_latents=latents)


def test_latents_are_ignored_with_the_world_turned_off(world: TheWorld, inputs: Any) -> None:
    ours = world(**without_pixels(inputs), world_latents=latents_of(world, inputs, 0), use_world=False)
    assert torch.equal(ours.logits, world(**inputs, use_world=False).logits)
    assert ours.num_world_tokens == 0


def test_an_encoder_that_trains_needs_its_frames(load: Load, inputs: Any) -> None:
    model = load(freeze_cosmos_vae=False).train()
    with pytest.raises(ValueError, match="world_latents while the VAE trains"):
        model(**without_pixels(inputs), world_latents=latents_of(model, inputs, 0))


# ---------------------------------------------------------------------------------------------- supervised_logits_only


@pytest.mark.parametrize("items", [None, 11, torch.tensor(11)], ids=str)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("position", POSITIONS)
def test_loss_and_gradients_are_those_of_full_logits(
    load: Load, chats: list[list[Message]], position: str, side: str, items: Any
) -> None:
    model = load(**EVERYTHING, world_position=position)
    given = batch(model, chats, side) | ({} if items is None else {"num_items_in_batch": items})
    full, ours = model(**given), model(**given, supervised_logits_only=True)
    torch.testing.assert_close(ours.loss, full.loss, rtol=1e-6, atol=1e-6)
    assert_same(gradients(model, {**given, "supervised_logits_only": True}), gradients(model, given))


def test_logits_are_those_that_predict_the_supervised_tokens(world: TheWorld, chats: list[list[Message]]) -> None:
    given = batch(world, chats)
    ours, full = world(**given, supervised_logits_only=True), world(**given)
    supervised = given["labels"][:, 1:] != IGNORE_INDEX
    assert ours.logits.shape == (int(supervised.sum()), world.config.get_text_config().vocab_size)
    torch.testing.assert_close(ours.logits, full.logits[:, :-1][supervised], rtol=1e-5, atol=1e-5)
    assert ours.num_world_tokens == full.num_world_tokens > 0


def test_accumulated_gradients_are_those_of_the_whole_batch(load: Load, chats: list[list[Message]]) -> None:
    """Parts with unequal numbers of supervised tokens, one of them text only."""
    model = load(**EVERYTHING)
    whole = batch(model, chats)
    items = (whole["labels"][:, 1:] != IGNORE_INDEX).sum()
    parts = [batch(model, chats[:1]), batch(model, chats[1:2]), batch(model, chats[2:])]
    accumulated = gradients(model, *({**p, "supervised_logits_only": True, "num_items_in_batch": items} for p in parts))
    assert_same(accumulated, gradients(model, whole))


def test_head_runs_on_the_supervised_positions_only(world: TheWorld, chats: list[list[Message]]) -> None:
    given = batch(world, chats)
    rows: list[tuple[int, ...]] = []
    handle = world.lm_head.register_forward_hook(lambda _module, _inputs, output: rows.append(tuple(output.shape)))
    world(**given, supervised_logits_only=True)
    handle.remove()
    assert rows == [(int((given["labels"] != IGNORE_INDEX).sum()), world.config.get_text_config().vocab_size)]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("position", POSITIONS)
def test_rewritten_prompts_are_supervised_at_the_same_tokens(
    shared: Load, chats: list[list[Message]], position: str, side: str
) -> None:
    model = shared(world_position=position)
    given, plain = batch(model, chats, side, num_world_steps=1), batch(model, chats, side, use_world=False)
    inserted = model(**plain, images=images_of(chats), num_world_steps=1, supervised_logits_only=True)
    expected = model(**given, supervised_logits_only=True)
    assert torch.equal(inserted.logits, expected.logits)
    assert torch.equal(inserted.loss, expected.loss)
    removed = model(**given, use_world=False, supervised_logits_only=True)
    torch.testing.assert_close(removed.logits, model(**plain, use_world=False, supervised_logits_only=True).logits)


@pytest.mark.parametrize("items", [None, 7])
@pytest.mark.parametrize("kind", [slice(0, 1), slice(0, 4)], ids=["text only", "mixed"])
def test_nothing_supervised_is_a_loss_of_zero(
    load: Load, chats: list[list[Message]], kind: slice, items: int | None
) -> None:
    """And every parameter that trains gets its gradient of zeros, which DistributedDataParallel waits for."""
    model = load(**EVERYTHING).train()
    given = batch(model, chats[kind])
    given["labels"] = torch.full_like(given["labels"], IGNORE_INDEX)
    output = model(**given, supervised_logits_only=True, num_items_in_batch=items)
    assert output.loss.item() == 0.0
    assert output.logits.shape == (0, model.config.get_text_config().vocab_size)
    output.loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.grad is None or not parameter.grad.any(), name


def test_a_batch_of_text_gives_every_parameter_a_gradient(load: Load, chats: list[list[Message]]) -> None:
    model = load(**EVERYTHING).train()
    model(**batch(model, chats[:1]), supervised_logits_only=True).loss.backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_loss_is_in_fp32(load: Load, chats: list[list[Message]]) -> None:
    model = load(dtype=torch.bfloat16)
    given = batch(model, chats)
    assert model(**given, supervised_logits_only=True).loss.dtype == torch.float32
    given["labels"] = torch.full_like(given["labels"], IGNORE_INDEX)
    assert model(**given, supervised_logits_only=True).loss.dtype == torch.float32


def test_supervised_logits_only_needs_labels_alone(world: TheWorld, chats: list[list[Message]]) -> None:
    given = batch(world, chats)
    with pytest.raises(ValueError, match="supervised_logits_only=True needs labels"):
        world(**{**given, "labels": None}, supervised_logits_only=True)
    for keep in (1, torch.tensor([3])):
        with pytest.raises(ValueError, match="no logits_to_keep"):
            world(**given, supervised_logits_only=True, logits_to_keep=keep)


def test_stock_gemma_has_the_same_loss(shared: Load, chats: list[list[Message]]) -> None:
    off = shared(enable_world=False)
    given = batch(off, chats)
    torch.testing.assert_close(off(**given, supervised_logits_only=True).loss, off(**given).loss, rtol=1e-6, atol=1e-6)
