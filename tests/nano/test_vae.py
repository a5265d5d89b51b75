from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan

from theworld.nano import vae as vae_module
from theworld.nano.physics import FRAMES
from theworld.nano.scenes import generate
from theworld.nano.vae import build_vae, encode_clips, reconstruction_loss, to_pixels, train_vae, whiten


def random_frames(clips: int, length: int = FRAMES) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (clips, length, 32, 32, 3), np.uint8)


def test_white_is_one_and_black_minus_one():
    frames = np.stack([np.full((1, 8, 8, 3), value, np.uint8) for value in (255, 0)])
    pixels = to_pixels(frames)
    assert pixels.shape == (2, 3, 1, 8, 8)
    assert (pixels[0] == 1).all()
    assert (pixels[1] == -1).all()


def test_whitening_starts_the_code_at_zero_mean_and_unit_variance():
    torch.manual_seed(0)
    vae, pixels = build_vae(), to_pixels(random_frames(16, 1))
    whiten(vae, pixels)
    code = vae.encode(pixels).latent_dist
    channels = code.mean.transpose(0, 1).flatten(1)
    assert torch.allclose(channels.mean(1), torch.zeros(16), atol=1e-3)
    assert torch.allclose(torch.cov(channels), torch.eye(16), atol=1e-2)
    assert torch.allclose(code.logvar, torch.full_like(code.logvar, -8.0))


def test_an_error_on_what_moves_costs_more():
    pixels = torch.zeros(1, 3, 5, 4, 4)
    pixels[:, :, 2, 1, 1] = 1
    still, moving = pixels.clone(), pixels.clone()
    still[:, :, 2, 3, 3] += 0.5
    moving[:, :, 2, 1, 1] -= 0.5
    assert reconstruction_loss(moving, pixels) == pytest.approx(6 * reconstruction_loss(still, pixels).item())


def test_a_light_that_is_on_for_most_of_a_clip_is_still_a_change():
    pixels = torch.zeros(1, 3, 5, 4, 4)
    pixels[:, :, 1:, 1, 1] = 1  # its own median over time
    dark, elsewhere = pixels.clone(), pixels.clone()
    dark[:, :, 3, 1, 1] -= 0.5
    elsewhere[:, :, 3, 3, 3] += 0.5
    assert reconstruction_loss(dark, pixels) == pytest.approx(6 * reconstruction_loss(elsewhere, pixels).item())


def test_the_first_latent_does_not_see_the_future():
    torch.manual_seed(0)
    vae, frames = build_vae().eval(), random_frames(3)
    latents = encode_clips(vae, frames, batch_size=2)
    assert latents.shape == (3, 16, 4, 4, 4)
    assert torch.allclose(latents[:, :, :1], encode_clips(vae, frames[:, :1]), atol=1e-5)


def test_an_interrupted_training_ends_with_the_same_vae(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate(tmp_path / "train", "train", {"drop": 4}, workers=1)
    generate(tmp_path / "validation", "validation", {"drop": 1}, workers=1)
    steps = {"decoder_steps": 1, "image_steps": 2, "clip_steps": 2}
    # 1. Undisturbed, and interrupted in the second step on clips
    train_vae(tmp_path, tmp_path / "undisturbed", **steps)
    taken, step = [], vae_module._step

    def interrupted(*args: Any, **settings: Any) -> Any:
        taken.append(settings)
        return 1 / 0 if len(taken) == 4 else step(*args, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(vae_module, "_step", interrupted)
        with pytest.raises(ZeroDivisionError):
            train_vae(tmp_path, tmp_path / "resumed", **steps)
    # 2. The steps on single frames are not done again
    taken.clear()
    with monkeypatch.context() as patch:
        patch.setattr(vae_module, "_step", lambda *args, **settings: taken.append(settings) or step(*args, **settings))
        train_vae(tmp_path, tmp_path / "resumed", **steps)
    assert len(taken) == 2
    files = [tmp_path / name / "vae" / "diffusion_pytorch_model.safetensors" for name in ("undisturbed", "resumed")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert {path.name for path in (tmp_path / "resumed").iterdir()} == {"vae", "vae.json"}


def test_training_writes_a_vae_whose_latents_are_normalised(tmp_path: Path):
    generate(tmp_path / "train", "train", {"drop": 4, "race": 2, "stack": 2}, workers=1)
    generate(tmp_path / "validation", "validation", {"drop": 2, "race": 1, "stack": 1}, workers=1)
    figures = train_vae(tmp_path, tmp_path / "out", decoder_steps=1, image_steps=3, clip_steps=2)
    assert figures["psnr"] > 0
    assert [stage["steps"] for stage in figures["stages"]] == [3, 2]
    vae = AutoencoderKLWan.from_pretrained(tmp_path / "out" / "vae").eval()
    channels = encode_clips(vae, np.load(tmp_path / "train" / "frames.npy")).transpose(0, 1).flatten(1)
    assert torch.allclose(channels.mean(1), torch.zeros(16), atol=1e-3)
    assert torch.allclose(channels.std(1), torch.ones(16), atol=1e-3)
