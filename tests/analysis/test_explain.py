"""Attention of an answer: of the right positions, complete, and without a trace in the model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.model.helpers import FRAME_TOKENS, encode, load_world, user
from tests.tiny import IMAGE_TOKENS
from theworld import TheWorld
from theworld.analysis.explain import Explanation, eager_attention, explain
from theworld.analysis.explain_plots import draw_explanation, frames_behind
from theworld.analysis.figures import save_figure
from theworld.analysis.imagine import seen_by_world

QUESTION = "Which bin will the ball land in?"
SHORT = {"max_new_tokens": 3, "min_new_tokens": 3}


@pytest.fixture(scope="module")
def explanation(world: TheWorld, images: list[Image.Image]) -> Explanation:
    return explain(world, images[0], QUESTION, num_world_steps=4, **SHORT)


def implementations(model: TheWorld) -> list[str]:
    configs: list[Any] = [model.config, model.config.text_config, model.config.vision_config]
    return [config._attn_implementation for config in configs]


def test_it_explains_the_answer_of_ask(world: TheWorld, images: list[Image.Image], explanation: Explanation) -> None:
    assert explanation.answer == world.ask(images[0], QUESTION, num_world_steps=4, **SHORT)
    assert len(explanation.tokens) == explanation.attention.shape[1] == 3
    assert implementations(world) == ["sdpa"] * 3
    assert not any(module._forward_hooks for module in world.modules())


def test_every_row_is_whole_and_every_position_in_one_group(explanation: Explanation) -> None:
    assert torch.allclose(explanation.attention.sum(-1), torch.ones(3, 3))
    assert (torch.stack(list(explanation.groups.values())).sum(0) == 1).all()
    counts = {name: int(positions.sum()) for name, positions in explanation.groups.items()}
    assert (counts["world"], counts["image"], counts["start"]) == (5 * FRAME_TOKENS, IMAGE_TOKENS, 1)
    assert [sum(layer) for layer in zip(*explanation.shares().values(), strict=True)] == pytest.approx([1] * 3)
    world = explanation.world_attention()
    assert world.shape == (5, 4, 4)
    assert float(world.sum()) == pytest.approx(sum(explanation.shares()["world"]) / 3)


def test_rows_are_those_of_the_positions_that_chose_the_answer(world: TheWorld, images: list[Image.Image]) -> None:
    inputs = encode(world.processor, [user(QUESTION, images[0])])
    length = inputs["input_ids"].shape[1]
    generated = world.generate(**inputs, **SHORT, do_sample=False)
    full = {**inputs, "input_ids": generated[:, :-1]}
    full["attention_mask"] = torch.ones_like(full["input_ids"])
    full["token_type_ids"] = torch.nn.functional.pad(inputs["token_type_ids"], (0, 2))
    with eager_attention(world), torch.no_grad():
        outputs = world(**full, output_attentions=True)
    assert torch.equal(outputs.logits[0, length - 1 :].argmax(-1), generated[0, length:])
    expected = torch.stack(outputs.attentions)[:, 0, :, length - 1 :].mean(1)  # (layers, A, L)
    found = explain(world, images[0], QUESTION, **SHORT).attention
    assert torch.allclose(found, expected, atol=1e-6)


def test_sliding_layers_see_their_window_and_the_others_everything(explanation: Explanation) -> None:
    assert explanation.sliding == [True, False, True]
    length = explanation.attention.shape[2]
    position, query = torch.arange(length), torch.arange(length - 3, length)[:, None]
    for layer, sliding in enumerate(explanation.sliding):
        visible = (position <= query) & (query - position < (64 if sliding else length))
        assert torch.equal(explanation.attention[layer] > 0, visible)
    assert not explanation.world_attention(0)[0].any(), "the present lies before the window"


def test_layers_can_be_chosen(explanation: Explanation) -> None:
    layers = torch.stack([explanation.world_attention(layer) for layer in range(3)])
    assert torch.allclose(layers.mean(0), explanation.world_attention())
    assert torch.equal(explanation.world_attention(-1), layers[2])
    with pytest.raises(ValueError, match="layer 3: expected 0 to 2"):
        explanation.world_attention(3)


def test_bidirectional_blocks_run_as_they_do_in_generation(
    gemma_folder: Path, cosmos_folder: Path, images: list[Image.Image]
) -> None:
    causal, both = (
        explain(load_world(gemma_folder, cosmos_folder, world_attention=kind), images[0], QUESTION, **SHORT)
        for kind in ("causal", "bidirectional")
    )
    model = load_world(gemma_folder, cosmos_folder, world_attention="bidirectional")
    assert both.answer == model.ask(images[0], QUESTION, **SHORT)
    assert not torch.allclose(causal.attention[1:, 0], both.attention[1:, 0], atol=1e-4)


def test_attention_is_put_back_after_an_error(world: TheWorld) -> None:
    with eager_attention(world):
        assert implementations(world) == ["sdpa", "eager", "sdpa"]
    assert implementations(world) == ["sdpa"] * 3
    with pytest.raises(KeyError), eager_attention(world):
        raise KeyError
    assert implementations(world) == ["sdpa"] * 3


def test_without_a_world_there_is_nothing_to_explain(gemma_folder: Path, images: list[Image.Image]) -> None:
    plain = TheWorld.from_pretrained(gemma_folder, enable_world=False)
    with pytest.raises(ValueError, match="enable_world=True"):
        explain(plain, images[0], QUESTION)


@pytest.mark.parametrize("steps", [0, 4])
def test_the_figure_shows_every_frame_and_its_share(
    world: TheWorld, images: list[Image.Image], tmp_path: Path, steps: int
) -> None:
    found = explain(world, images[1], QUESTION, num_world_steps=steps, **SHORT)
    frames = frames_behind(world, images[1], found)
    assert len(frames) == 1 + steps
    figure = draw_explanation(found, frames)
    titles = {axis.get_title() for axis in figure.axes}
    assert {"now", *(f"step +{step}" for step in range(1, 1 + steps))} <= titles
    assert f"{100 * found.world_attention()[steps].sum():.1f} % of the attention" in titles
    save_figure(figure, tmp_path / "why.png")
    with Image.open(tmp_path / "why.png") as picture:
        assert min(picture.size) > 600
    with pytest.raises(ValueError, match=r"why\.jpg: expected a file that ends in \.png, \.svg or \.pdf"):
        save_figure(figure, tmp_path / "why.jpg")


@pytest.mark.parametrize("decodes", [True, False])
def test_frames_that_may_not_be_shown_are_not_decoded(
    decodes: bool, world: TheWorld, images: list[Image.Image], explanation: Explanation, monkeypatch: pytest.MonkeyPatch
) -> None:
    if decodes:
        monkeypatch.setattr("theworld.analysis.explain_plots.can_show", lambda *_: False)
    else:
        monkeypatch.setattr(type(world.model.world_encoder), "can_decode", False)
    monkeypatch.setattr("theworld.analysis.explain_plots.decode_frames", lambda *_: pytest.fail("decoded"))
    frames = frames_behind(world, images[0], explanation)
    seen = seen_by_world(world, images[0])
    assert all(frame.tobytes() == seen.tobytes() for frame in frames)
    assert len(frames) == 5


def test_a_photo_is_drawn_as_the_world_encoder_gets_it(world: TheWorld, explanation: Explanation) -> None:
    """Cropped, so that attention lies on what it was given to, and small, so that drawing costs no gigabytes."""
    photo = Image.new("RGB", (3000, 1000), "red")
    photo.paste("blue", (800, 0, 2200, 1000))
    frame = frames_behind(world, photo, explanation)[0]
    assert frame.size == (32, 32)
    assert set(frame.get_flattened_data()) == {(0, 0, 255)}
