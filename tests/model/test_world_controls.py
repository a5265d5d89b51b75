"""Encoders that stand in for the world lack what they say they lack, and nothing else."""

import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests import tiny
from tests.model.conftest import Load
from tests.model.helpers import encode, user
from tests.model.test_world_encoder import build
from theworld import TheWorld
from theworld.model.world_encoders import WORLD_ENCODERS
from theworld.model.world_encoders.controls import PatchesWorldEncoder, RandomWorldEncoder, StillWorldEncoder
from theworld.utils.reproducibility import draw_weights

SIZE, PATCH = tiny.WORLD_SIZE, 8


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_still_world_repeats_the_present(pixels: torch.Tensor) -> None:
    encoder = build(StillWorldEncoder)
    latents = encoder.encode(pixels, 3)
    assert latents.shape[2] == 4
    assert torch.equal(latents, encoder.encode(pixels).expand_as(latents))


def test_still_world_is_a_setting(load: Load, images: list[Image.Image]) -> None:
    still = load(world_encoder="still", num_world_steps=1)
    inputs = encode(still.processor, [user("Hi?", images[0])])
    output = still(**inputs)
    assert output.num_world_tokens == 32
    assert still.model.world_encoder.transformer is None
    moving = load(num_world_steps=1)
    assert not torch.equal(output.logits[:, -1], moving(**inputs).logits[:, -1])


@pytest.mark.parametrize("name", ["still", "random", "patches"])
def test_a_control_has_the_tokens_of_a_world_and_reads_the_picture(name: str, pixels: torch.Tensor) -> None:
    assert WORLD_ENCODERS[name].kind == name
    encoder = build(WORLD_ENCODERS[name])
    latents = encoder.encode(pixels, 2)
    assert latents.shape == build().encode(pixels, 2).shape
    assert latents.isfinite().all()
    assert not torch.equal(latents[0], latents[1])
    torch.testing.assert_close(encoder.encode(pixels[:1], 2), latents[:1], rtol=1e-4, atol=1e-4)
    clip = pixels.unsqueeze(2).repeat(1, 1, 9, 1, 1)
    assert encoder.encode_clip(clip).shape == latents.shape


def test_a_random_world_keeps_nothing_of_the_weights(pixels: torch.Tensor) -> None:
    trained, other = tiny.tiny_vae(), tiny.tiny_vae()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    for vae in (trained, other):
        draw_weights(vae, 0)
    assert all(torch.equal(*pair) for pair in zip(trained.parameters(), other.parameters(), strict=True))
    latents = build(RandomWorldEncoder).encode(pixels, 2)
    assert not torch.allclose(latents, build().encode(pixels, 2))
    assert torch.allclose(latents.mean(dim=(-2, -1)), torch.zeros(()), atol=1e-5)


def test_a_random_world_is_the_same_after_it_was_saved_whole(
    load: Load, images: list[Image.Image], tmp_path: Path
) -> None:
    model = load(world_encoder="random", num_world_steps=1)
    model.save_pretrained(tmp_path / "full", full=True)
    again = TheWorld.from_pretrained(tmp_path / "full", dtype=torch.float32)
    inputs = encode(model.processor, [user("Hi?", images[0])])
    assert torch.equal(model(**inputs).logits, again(**inputs).logits)


def test_patches_are_what_the_picture_shows() -> None:
    encoder = build(PatchesWorldEncoder)
    flat = torch.empty(1, 3, SIZE, SIZE)
    for channel, value in enumerate((-1.0, 0.25, 1.0)):
        flat[:, channel] = value
    latents = encoder.encode(flat, 1)
    for channel, value in enumerate((-1.0, 0.25, 1.0)):
        torch.testing.assert_close(latents[:, channel], torch.full_like(latents[:, channel], value))
    torch.testing.assert_close(latents[:, 3:], torch.zeros_like(latents[:, 3:]), rtol=0, atol=1e-6)
    wave = torch.cos(math.pi * (torch.arange(SIZE) % PATCH + 0.5) / PATCH).expand(1, 3, SIZE, SIZE)
    latents = encoder.encode(wave, 0)
    assert latents[:, 3:6].abs().min() > 0.4
    assert latents[:, :3].abs().max() < 1e-6
