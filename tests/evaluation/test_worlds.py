"""What an arm puts in the place of the world tokens, one encoding of every picture, and never the own picture."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.model.helpers import load_world
from theworld import TheWorld
from theworld.data.schema import Message
from theworld.evaluation.ask.arms import ARMS, BASE, CONTROLS, plan
from theworld.evaluation.ask.worlds import WORLD_SOURCES, Worlds, donors, encode_worlds, noise_like
from theworld.evaluation.store.predictions import Item

STEPS = 2


@pytest.fixture(scope="module")
def model(gemma_folder: Any, cosmos_folder: Any) -> TheWorld:
    return load_world(gemma_folder, cosmos_folder, num_world_steps=STEPS)


@pytest.fixture(scope="module")
def items(images: list[Image.Image]) -> list[Item]:
    pictures = ((images[0],), (images[1],), (images[1], images[2]), (Path("missing.png"),))
    return [
        Item(str(place), (Message("user", "What?"),), seen, "a", cluster=str(place))
        for place, seen in enumerate(pictures)
    ]


@pytest.fixture(scope="module")
def worlds(model: TheWorld, items: list[Item], tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    return encode_worlds(model, items, None, tmp_path_factory.mktemp("latents"), batch_size=2)


def tokens(worlds: Worlds, arm: str, steps: int = STEPS, items: slice = slice(0, 3)) -> torch.Tensor:
    found = worlds.tokens(worlds.items[items], ARMS[arm], steps)
    assert found is not None
    return found


def test_own_world_is_what_the_model_makes_of_the_pictures(
    model: TheWorld, worlds: Worlds, images: list[Image.Image]
) -> None:
    pixels = model.processor.world_pixels([images[0], images[1], images[1], images[2]])
    with torch.no_grad():
        expected = model.model.get_world_features(pixels, STEPS).pooler_output
        present = model.model.get_world_features(pixels, 0).pooler_output
    torch.testing.assert_close(tokens(worlds, "world"), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(tokens(worlds, "world_0", 0), present, atol=1e-4, rtol=1e-4)


def test_every_picture_is_encoded_once(
    model: TheWorld, worlds: Worlds, items: list[Item], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    encoder, asked = model.model.world_encoder, []
    assert encoder is not None
    encode = encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda frames, *rest: asked.append(len(frames)) or encode(frames, *rest))
    again = encode_worlds(model, items, None, tmp_path, batch_size=2)
    assert asked == [2, 1]
    assert encode_worlds(model, items, None, tmp_path, batch_size=2).keys == again.keys == worlds.keys
    assert asked == [2, 1]
    assert list(again.keys) == ["0", "1", "2"]


def test_a_killed_encoding_goes_on_with_the_same_bits(
    model: TheWorld, worlds: Worlds, items: list[Item], tmp_path: Path
) -> None:
    encode_worlds(model, items[:1], None, tmp_path, batch_size=2)  # one of a batch of two
    whole, resumed = tmp_path / "whole", tmp_path
    first = encode_worlds(model, items[1:], None, whole, batch_size=2)
    second = encode_worlds(model, items[1:], None, resumed, batch_size=2)
    assert torch.equal(tokens(first, "world", items=slice(0, 2)), tokens(second, "world", items=slice(0, 2)))


def test_a_picture_that_opens_late_is_told_by_its_item(worlds: Worlds) -> None:
    with pytest.raises(ValueError, match="item '3': its image could not be opened at first"):
        worlds.tokens(worlds.items[3:], ARMS["world"], STEPS)


def test_stand_ins_for_the_world(worlds: Worlds) -> None:
    own = tokens(worlds, "world")
    assert not tokens(worlds, "zeroed").any()
    noise = tokens(worlds, "noise")
    torch.testing.assert_close(noise.norm(dim=-1), own.norm(dim=-1))
    assert torch.nn.functional.cosine_similarity(noise, own, dim=-1).abs().mean() < 0.3
    assert torch.equal(tokens(worlds, "noise", items=slice(1, 3)), noise[1:])  # whoever is in the batch


def test_an_untrained_projector_is_that_of_a_new_fusion(worlds: Worlds) -> None:
    """The model of these tests is one, started with seed 0."""
    assert torch.equal(tokens(worlds, "random_projection"), tokens(worlds, "world"))
    other = replace(worlds, seed=1)
    assert not torch.allclose(tokens(other, "random_projection"), tokens(worlds, "world"), atol=1e-2)
    assert torch.equal(tokens(other, "random_projection"), tokens(other, "random_projection"))


def test_another_image_is_another(worlds: Worlds) -> None:
    own, other, mixed = (tokens(worlds, arm) for arm in ("world", "other_image", "other_future"))
    frame = own.shape[1] // (1 + STEPS)
    assert all(not torch.allclose(a, b, atol=1e-3) for a, b in zip(own, other, strict=True))
    assert torch.equal(mixed[:, :frame], own[:, :frame])  # the projector sees frames apart
    assert torch.equal(mixed[:, frame:], other[:, frame:])


def test_donors_share_no_cluster_and_are_taken_once() -> None:
    rng = np.random.default_rng(0)
    blank = Item("", (Message("user", "What?"),), (None,), "a")
    rows = [
        replace(blank, id=str(place), family=f"family {place % 3}", cluster=f"scene {rng.integers(20)}")
        for place in range(120)
    ]
    keys = {row.id: [row.cluster.encode()] for row in rows}
    found, by_id = donors(rows, keys, seed=0), {row.id: row for row in rows}
    assert sorted(found) == sorted(found.values()) == sorted(by_id)
    for id, donor in found.items():
        assert by_id[id].cluster != by_id[donor].cluster
        assert by_id[id].family == by_id[donor].family
    assert donors(rows, keys, seed=1) != found


def test_a_donor_never_has_the_same_picture_under_another_name() -> None:
    blank = Item("", (Message("user", "What?"),), (None,), "a")
    rows = [replace(blank, id=str(place), cluster=str(place)) for place in range(4)]
    keys = {"0": [b"same"], "1": [b"same"], "2": [b"same"], "3": [b"other"]}
    assert donors(rows, keys, seed=0) == {"0": "3", "1": "3", "2": "3", "3": donors(rows, keys, seed=0)["3"]}
    with pytest.raises(ValueError, match="no other image"):
        donors(rows[:3], keys, seed=0)


def test_noise_depends_on_the_item_and_the_seed() -> None:
    like = torch.ones(1, 3, 4)
    assert not torch.equal(noise_like(like, 0, "a"), noise_like(like, 0, "b"))
    assert not torch.equal(noise_like(like, 0, "a"), noise_like(like, 1, "a"))


def test_the_true_future_is_that_of_the_clip(model: TheWorld, items: list[Item], tmp_path: Path) -> None:
    encoder, rng = model.model.world_encoder, np.random.default_rng(0)
    assert encoder is not None
    clip = tuple(rng.integers(0, 256, (12, 48, 48, 3), dtype=np.uint8))
    asked = [replace(items[0], images=(clip[frame],), clip=clip, frame=frame, id=str(frame)) for frame in (0, 6)]
    worlds = encode_worlds(model, asked, None, tmp_path, batch_size=2, clips=True)
    for item, frames in zip(asked, (clip[:9], (*clip[6:], *[clip[-1]] * 3)), strict=True):  # the last one is repeated
        pixels = torch.stack(list(model.processor.world_pixels([Image.fromarray(frame) for frame in frames])))
        with torch.no_grad():
            expected = worlds.project(encoder.encode_clip(pixels[None].transpose(1, 2)))
        found = worlds.tokens([item], ARMS["true_future"], STEPS)
        assert found is not None
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(found, worlds.tokens([item], ARMS["world"], STEPS), atol=1e-3)


def test_an_arm_says_what_it_is_in_one_entry() -> None:
    assert {arm.world for arm in ARMS.values()} == {*WORLD_SOURCES, "none"}
    decides = "gemma gemma_tuned current_frame other_future other_image other_source random_encoder static_learner"
    assert [name for name, arm in ARMS.items() if arm.decides] == decides.split()
    future = ["futures", "current_frame", "other_future", "true_future"]
    assert [name for name, arm in ARMS.items() if arm.needs_future] == future
    assert [name for name, arm in ARMS.items() if arm.futures] == ["futures"]
    assert [name for name, arm in ARMS.items() if arm.ceiling] == ["true_future"]
    assert {ARMS[name].checkpoint for name in CONTROLS} == set(CONTROLS)
    assert ARMS["gemma"].checkpoint == BASE


def test_plan(tmp_path: Path) -> None:
    running, not_run = plan(tuple(ARMS), "some/model", (0, 4), {"gemma_tuned": "tuned"})
    assert list(not_run) == ["futures", "current_frame", "other_source", "random_encoder"]
    assert "futures" in [planned.arm.name for planned in plan(tuple(ARMS), "some/model", (0, 4), {}, 8)[0]]
    assert "--control random_encoder=PATH" in not_run["random_encoder"]
    steps = {planned.arm.name: planned.num_world_steps for planned in running}
    assert steps["gemma"] is steps["gemma_tuned"] is steps["no_image"] is None
    assert (steps["world_0"], steps["world"], steps["other_image"]) == (0, 4, 4)
    where = {planned.arm.name: planned.checkpoint for planned in running}
    assert (where["gemma"], where["gemma_tuned"], where["world"]) == (None, "tuned", "some/model")
    for folder in ("model", "controls/random_encoder"):
        (tmp_path / folder).mkdir(parents=True)
    running, _ = plan(("random_encoder",), str(tmp_path / "model"), (0,), {})
    assert [planned.checkpoint for planned in running] == [str(tmp_path / "controls" / "random_encoder")]
    assert [p.arm.name for p in plan(("world", "world_0"), "m", (0, 2, 4), {})[0]] == ["world", "world_2", "world_0"]
    assert list(plan(("world", "world_0"), "m", (4,), {})[1]) == ["world_0"]


def test_plan_without_a_future() -> None:
    running, not_run = plan(tuple(ARMS), "nano", (0,), {})
    assert list(not_run) == ["futures", "world_0", "current_frame", "other_future", "true_future"]
    assert {planned.arm.name: planned.num_world_steps for planned in running}["world"] == 0
