"""The nano video autoencoder: the class that Cosmos-Predict2 uses, at toy size, trained on scenes from random weights.

Shapes: `B` clips, `T` frames (1, 5, 9, ...), `H`, `W` pixels, `L` latent frames, L = 1 + (T - 1) / 4.
"""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor, nn

from theworld.utils.io import write_text

from .fit import Draws, Group, Progress, fit
from .scenes import load

logger = logging.getLogger(__name__)

LATENT_CHANNELS = 16
INITIAL_LOG_VARIANCE = -8.0
MOVING_THRESHOLD = 0.1  # of the pixel range [-1, 1]
FIGURES_CLIPS = 64
LONGEST = 9  # frames of a clip in training: the cache that a latent frame reads is full after two earlier ones
SIZES: dict[str, Any] = {"base_dim": 8, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 1}
"""Sizes that a config may change. The compression is fixed: 8 per side and 4 in time."""


def build_vae(sizes: Mapping[str, Any] | None = None) -> AutoencoderKLWan:
    """Build a nano VAE with random weights (0.67 M parameters) and no latent statistics; `sizes` override `SIZES`."""
    return AutoencoderKLWan(
        z_dim=LATENT_CHANNELS,
        attn_scales=[],
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
        **{**SIZES, **(sizes or {})},
    )


def to_pixels(frames: np.ndarray[Any, Any]) -> Tensor:
    """Convert uint8 (B, T, H, W, 3) to float (B, 3, T, H, W) in [-1, 1], in channels-last memory layout."""
    pixels = torch.from_numpy(np.array(frames)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    return pixels.contiguous(memory_format=torch.channels_last_3d)


def to_channels_last(vae: AutoencoderKLWan) -> AutoencoderKLWan:
    """Put the 5-D weights into channels-last layout: convolutions on a CPU become 1.1 to 1.3 times faster."""
    for parameter in vae.parameters():
        if parameter.ndim == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    return vae


def _encode(vae: AutoencoderKLWan, pixels: Tensor) -> DiagonalGaussianDistribution:
    return cast(AutoencoderKLOutput, vae.encode(pixels)).latent_dist


def _decode(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    return cast(DecoderOutput, vae.decode(latents)).sample


@torch.no_grad()
def whiten(vae: AutoencoderKLWan, pixels: Tensor) -> None:
    """Initialise the latent means as the 16 strongest principal components of the encoder's features, at variance 1.

    With the default initialisation this small VAE collapses to the mean image, because the spread of its latent means
    is far below the noise that is added to them. `pixels` (B, 3, 1, H, W) are single frames.
    """
    features = vae.encoder(pixels).movedim(1, -1).reshape(-1, 2 * LATENT_CHANNELS).cpu()  # eigh is not on every device
    centre = features.mean(0)
    variances, directions = torch.linalg.eigh(torch.cov((features - centre).T))
    strongest = directions[:, -LATENT_CHANNELS:] / variances[-LATENT_CHANNELS:].clamp(min=1e-8).sqrt()
    convolution = cast(nn.Conv3d, vae.quant_conv)
    bias = cast(Tensor, convolution.bias)
    convolution.weight.zero_()
    convolution.weight[:LATENT_CHANNELS] = strongest.T[..., None, None, None]
    bias[:LATENT_CHANNELS] = -(centre @ strongest)
    bias[LATENT_CHANNELS:] = INITIAL_LOG_VARIANCE


def _moving(pixels: Tensor) -> Tensor:
    """Return a mask (B, 1, T, H, W), 1 where a pixel differs from its median: over time in clips, else over the batch.

    In clips, a pixel that differs from the first frame counts too: a ramp that is lit for most of the clip equals its
    own median.
    """
    if pixels.shape[2] == 1:
        change = (pixels - pixels.median(0, keepdim=True).values).abs()
    else:
        usual = (pixels - pixels.median(2, keepdim=True).values).abs()
        change = torch.maximum(usual, (pixels - pixels[:, :, :1]).abs())
    return (change.amax(1, keepdim=True) > MOVING_THRESHOLD).float()


def reconstruction_loss(output: Tensor, pixels: Tensor) -> Tensor:
    """Return the mean of L1 + 2 L2, with more weight on moving pixels: a ball covers about 1 % of the image."""
    weight = 1 + (5.0 if pixels.shape[2] > 1 else 1.5) * _moving(pixels)
    error = (output - pixels).abs()
    return (weight * (error + 2 * error.square())).mean()


@torch.no_grad()
def reconstruction_figures(vae: AutoencoderKLWan, pixels: Tensor) -> dict[str, float]:
    """Return peak signal-to-noise ratios in dB: of all pixels, of the first frame, and of the moving pixels."""
    output = _decode(vae, _encode(vae, pixels).mode()).clamp(-1, 1)
    error, moving = ((output - pixels) / 2).square(), _moving(pixels)
    parts = {
        "psnr": error.mean(),
        "psnr_first_frame": error[:, :, 0].mean(),
        "psnr_moving": (error * moving).sum() / (3 * moving.sum()).clamp(min=1),
    }
    return {name: -10 * math.log10(float(value)) for name, value in parts.items()}


def _draw(frames: np.ndarray[Any, Any], clips: int, length: int, rng: np.random.Generator) -> Tensor:
    """Draw `clips` random clips of `length` consecutive frames: (clips, 3, length, H, W) in [-1, 1]."""
    first = int(rng.integers(0, frames.shape[1] - length + 1))
    picked = np.sort(rng.integers(0, len(frames), clips))  # sorted: a memory map reads faster
    return to_pixels(frames[picked, first : first + length])


def _step(vae: AutoencoderKLWan, pixels: Tensor, *, train_encoder: bool) -> tuple[Tensor, dict[str, float]]:
    with torch.autocast(pixels.device.type, torch.bfloat16):
        with torch.set_grad_enabled(train_encoder):
            code = _encode(vae, pixels)
        output = _decode(vae, code.sample() if train_encoder else code.mean)
    spread = code.mean.float().square().mean()
    loss = reconstruction_loss(output.float(), pixels) + 1e-4 * spread
    return loss, {"samples": len(pixels), "latent_rms": spread.sqrt().item()}


def train_vae(
    scenes_folder: Path,
    out: Path,
    *,
    decoder_steps: int = 100,
    image_steps: int = 1500,
    clip_steps: int = 2700,
    learning_rate: float = 2e-3,
    sizes: Mapping[str, Any] | None = None,
    start_from: Path | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> dict[str, Any]:
    """Train the VAE on `scenes_folder`/train. Write it to `out`/vae and its figures to `out`/vae.json.

    Training starts with single frames; the first `decoder_steps` train the decoder alone. Clips of 5 and 9 frames
    follow, mixed with single frames. The mean and deviation of the latents over whole clips are saved in the config.
    An interrupted training continues from the progress files in `out`, which are removed at the end.

    Returns the figures.

    Args:
        learning_rate: Peak rate of the decoder. The encoder uses 0.5 of it on single frames and 0.75 on clips.
        sizes: Override `SIZES` of a new VAE.
        start_from: Folder of a VAE to train further instead of a new one. `decoder_steps` is then 0.
    """
    # 1. The scenes and the VAE
    torch.manual_seed(seed)
    frames, draws = load(scenes_folder / "train").frames, Draws(seed)

    def draw(clips: int, length: int) -> Tensor:
        return _draw(frames, clips, min(length, frames.shape[1]), draws.numpy).to(device)

    if start_from is None:
        vae = to_channels_last(build_vae(sizes))
    else:
        vae = to_channels_last(AutoencoderKLWan.from_pretrained(start_from, torch_dtype=torch.float32).train())
    cast(nn.Module, vae).to(device)
    if start_from is None:
        whiten(vae, draw(256, 1))
    else:
        decoder_steps = 0
    encoder = [*vae.encoder.parameters(), *vae.quant_conv.parameters()]
    decoder = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]

    # 2. Single frames, then clips
    def image_step(step: int) -> tuple[Tensor, dict[str, float]]:
        return _step(vae, draw(32, 1), train_encoder=step >= decoder_steps)

    def clip_step(step: int) -> tuple[Tensor, dict[str, float]]:
        kind = draws.numpy.random()
        count, length = (12, 5) if kind < 0.7 else (6, LONGEST) if kind < 0.95 else (32, 1)
        return _step(vae, draw(count, length), train_encoder=True)

    rates = (0.5, decoder_steps), (0.75, 0)
    plans = zip(("images", "clips"), (image_step, clip_step), (image_steps, clip_steps), rates, strict=True)
    progress = {name: Progress(out / f"vae-{name}.progress", draws) for name in ("images", "clips")}
    stages = [
        fit(
            f"vae {name}",
            step_function,
            [Group(decoder, learning_rate), Group(encoder, share * learning_rate, delay=delay)],
            steps=steps,
            warmup=50,
            weight_decay=1e-4,
            progress=progress[name],
        )
        for name, step_function, steps, (share, delay) in plans
    ]
    # 3. Statistics of the latents, and figures on validation scenes
    vae.eval()
    set_statistics(vae, frames[:: max(1, len(frames) // 1024)])
    vae.save_pretrained(out / "vae")
    validation = load(scenes_folder / "validation").frames
    held_out = to_pixels(validation[:: max(1, len(validation) // FIGURES_CLIPS)]).to(device)
    figures = {**reconstruction_figures(vae, held_out), "stages": stages}
    write_text(out / "vae.json", json.dumps(figures, indent=1))
    for one in progress.values():
        one.path.unlink()
    logger.info("vae: %s", {name: value for name, value in figures.items() if name != "stages"})
    return figures


def set_statistics(vae: AutoencoderKLWan, frames: np.ndarray[Any, Any]) -> None:
    """Set `latents_mean` and `latents_std` in the config of the VAE, per channel, from frames (n, T, H, W, 3)."""
    vae.register_to_config(latents_mean=[0.0] * LATENT_CHANNELS, latents_std=[1.0] * LATENT_CHANNELS)
    latents = encode_clips(vae, frames).transpose(0, 1).flatten(1)  # (C, everything else)
    vae.register_to_config(latents_mean=latents.mean(1).tolist(), latents_std=latents.std(1).tolist())


@torch.no_grad()
def encode_clips(vae: AutoencoderKLWan, frames: np.ndarray[Any, Any], *, batch_size: int = 64) -> Tensor:
    """Encode uint8 frames (n, T, H, W, 3) to normalised latents (n, 16, L, H / 8, W / 8) on the CPU (the mode)."""
    config = vae.config
    mean = torch.tensor(config["latents_mean"]).view(1, -1, 1, 1, 1)
    std = torch.tensor(config["latents_std"]).view(1, -1, 1, 1, 1)
    latents = [
        (_encode(vae, to_pixels(frames[start : start + batch_size]).to(vae.device)).mode().cpu() - mean) / std
        for start in range(0, len(frames), batch_size)
    ]
    return torch.cat(latents)
