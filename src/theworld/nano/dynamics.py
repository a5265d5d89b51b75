"""Dynamics of the nano world: Cosmos-Predict2's diffusion transformer at toy size, trained to match its pipeline.

`Cosmos2VideoToWorldPipeline` feeds the network c_in x, with x = x0 + sigma n and c_in = 1 - t, t = sigma / (sigma + 1).
So its input is (1 - t) x0 + t n. With c_skip = 1 - t and c_out = -t, its target is n - x0. This is rectified flow
(Liu et al., 2022, arXiv:2209.03003).

Shapes: `B` clips, `C` = 16 latent channels, `L` latent frames (the first is given), `h`, `w` latent pixels.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers import AutoencoderKLWan, CosmosTransformer3DModel, FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn

from theworld.utils.io import write_bytes, write_text
from theworld.utils.tensors import weights_digest

from .fit import Draws, Ema, Group, Progress, fit
from .scenes import load
from .vae import LATENT_CHANNELS, encode_clips, to_channels_last

logger = logging.getLogger(__name__)

LATENTS = "latents-{}.safetensors"  # with the digest of the VAE; removed when the network is trained
TEXT_DIM = 8
FPS = 16
# The time that the pipeline passes for the given frame, which is almost clean: its sigma_conditioning is 1e-4
CLEAN_TIME = 1e-4 / (1 + 1e-4)
LAST_TIME = 80 / 81  # from sigma_max = 80, where sampling starts
METRIC_SHARE = 0.3  # share of the steps, at the end, in which the loss uses the metric
SHORTER_EVERY = 8  # every eighth batch has fewer latent frames, to train shorter rollouts
STILL_SHARE = 1 / 16  # share of clips of a batch in which nothing moves any more
SIZES: dict[str, Any] = {
    "num_attention_heads": 6,
    "attention_head_dim": 32,
    "num_layers": 6,
    "mlp_ratio": 4.0,
    "adaln_lora_dim": 32,
}
"""Sizes that a config may change."""


def build_transformer(sizes: Mapping[str, Any] | None = None) -> CosmosTransformer3DModel:
    """Build a nano transformer with random weights (3.8 M parameters) and an output near zero.

    Its position embeddings are random too: diffusers starts them at zero and then normalises them, which has no
    gradient at zero. `sizes` override `SIZES`.
    """
    transformer = CosmosTransformer3DModel(
        in_channels=LATENT_CHANNELS + 1,  # one more for the mask of given frames
        out_channels=LATENT_CHANNELS,
        text_embed_dim=TEXT_DIM,
        max_size=(8, 8, 8),  # latent frames, and height and width in latent pixels: images of up to 64 pixels
        patch_size=(1, 2, 2),
        rope_scale=(1.0, 1.0, 1.0),
        concat_padding_mask=False,
        extra_pos_embed_type="learnable",
        **{**SIZES, **(sizes or {})},
    )
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if "pos_emb" in name:
                nn.init.normal_(parameter, std=0.02)
        transformer.proj_out.weight.mul_(0.1)
    return transformer


def prompt_embedding() -> Tensor:
    """Return the embedding of the only prompt of the nano world: zeros (1, 1, 8)."""
    return torch.zeros(1, 1, TEXT_DIM)


def sample_times(count: int, generator: torch.Generator) -> Tensor:
    """Draw noise levels t (count,) in (0, 80 / 81], most near pure noise: the first denoising steps matter most."""
    late = torch.randn(count, generator=generator) * 1.5 + 2.0
    middle = torch.randn(count, generator=generator)
    chosen = torch.where(torch.rand(count, generator=generator) < 0.75, late, middle)
    return chosen.sigmoid().clamp(max=LAST_TIME)


def moving_weight(latents: Tensor, strength: float = 3.0) -> Tensor:
    """Return loss weights (B, C, L - 1, h, w) from 1 to 1 + `strength`, larger where a latent changes.

    A change is the larger difference of a future latent frame to the first one and to the previous one.
    """
    future = latents[:, :, 1:]
    change = torch.maximum((future - latents[:, :, :1]).abs(), (future - latents[:, :, :-1]).abs())
    return 1 + strength * change.clamp(max=1)


def inverse_covariance(latents: Tensor, ridge: float = 0.05) -> Tensor:
    """Return a metric for errors (L - 1, D, D) with D = C h w: the inverse covariance of each future latent frame.

    An outcome may change a latent only slightly: a lit and an unlit ramp differ along a direction with a fifteenth of
    the mean variance. The metric gives such directions more weight and does not change the optimum. `ridge` limits the
    weight of directions that are mostly noise.
    """
    frames = latents[:, :, 1:].movedim(2, 0).flatten(2)  # (L - 1, n, D)
    return torch.stack([torch.linalg.inv(torch.cov(frame.T) + ridge * torch.eye(frame.shape[1])) for frame in frames])


def flow_loss(
    transformer: nn.Module, latents: Tensor, generator: torch.Generator, metric: Tensor | None = None
) -> Tensor:
    """Return the weighted squared error of the predicted velocity n - x0 on the future frames of `latents`.

    Args:
        latents: Clean latents (B, C, L, h, w).
        generator: Draws noise and times on the CPU.
        metric: If given (L - 1, D, D), the mean of error^T metric error is added.
    """
    count, _, length, height, width = latents.shape
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    time = sample_times(count, generator).to(latents.device).view(-1, 1, 1, 1, 1)
    given = torch.zeros(count, 1, length, height, width, device=latents.device)
    given[:, :, 0] = 1
    first = given[:, :, :, :1, :1]
    velocity = transformer(
        hidden_states=torch.lerp((1 - time) * latents + time * noise, latents, given),
        timestep=torch.lerp(time.expand(-1, -1, length, -1, -1), torch.full_like(first, CLEAN_TIME), first),
        encoder_hidden_states=prompt_embedding().to(latents.device).expand(count, -1, -1),
        fps=FPS,
        condition_mask=given,
        return_dict=False,
    )[0]
    error = (velocity - (noise - latents))[:, :, 1:]
    loss = (moving_weight(latents) * error.square()).mean()
    if metric is None:
        return loss
    flat = error.movedim(2, 0).flatten(2)  # (L - 1, B, D)
    return loss + (flat @ metric * flat).mean()


def encode_both_ways(vae: AutoencoderKLWan, frames: np.ndarray[Any, Any]) -> Tensor:
    """Return the latents of every clip and of its mirror image (2n, C, L, h, w). The usual law is symmetric."""
    return torch.cat([encode_clips(vae, frames), encode_clips(vae, frames[:, :, :, ::-1])])


def skip_cross_attention(transformer: CosmosTransformer3DModel) -> None:
    """Skip the cross-attention, whose output is exactly zero: the prompt is zero and the values have no bias.

    Saves a tenth of the time. The skipped weights would get no gradient in any case. Only `forward` of this object is
    replaced; saved files do not change.
    """
    for block in transformer.transformer_blocks:
        cast(Any, block).attn2.forward = lambda hidden_states, **_: torch.zeros_like(hidden_states)


def compile_if_possible(transformer: CosmosTransformer3DModel) -> nn.Module:
    """Return the compiled transformer if g++ is installed, else the transformer itself."""
    if shutil.which("g++") is None:
        logger.info("dynamics: g++ not found, the network is not compiled")
        return transformer
    return cast(nn.Module, torch.compile(transformer))


def train_dynamics(
    scenes_folder: Path,
    cosmos_folder: Path,
    out: Path,
    *,
    steps: int = 13_000,
    batch_size: int = 64,
    learning_rate: float = 1.2e-3,
    compiled: bool = True,
    mirrored: bool = True,
    sizes: Mapping[str, Any] | None = None,
    start_from: Path | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> dict[str, Any]:
    """Train the transformer on scenes of `scenes_folder`/train, encoded by `cosmos_folder`/vae.

    The loss uses `inverse_covariance` in the last `METRIC_SHARE` of the steps. Writes `out`/transformer (averaged
    weights, about every ten minutes and at the end), `out`/scheduler, `out`/prompt_embeds.safetensors and
    `out`/dynamics.json. Returns the content of dynamics.json. An interrupted training continues from
    the progress file in `out`, which is removed at the end.

    Args:
        compiled: Compile the network if g++ is installed. A step on a CPU becomes 1.3 times faster.
        mirrored: Also train on the mirror image of every clip. This is wrong under a law with a sideways pull.
        sizes: Override `SIZES` of a new transformer.
        start_from: Folder of a transformer to train further instead of a new one.
    """
    # 1. Scheduler and prompt, which a pipeline needs in addition to the network
    FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True).save_pretrained(out / "scheduler")
    save_file({"prompt_embeds": prompt_embedding()}, out / "prompt_embeds.safetensors")
    # 2. Training data: latents of clips, and of clips in which nothing moves any more
    latents, still = (part.to(device) for part in _latents(scenes_folder, cosmos_folder, out, device, mirrored))
    metric = inverse_covariance(latents.cpu()).to(device)
    # 3. The network, and its averaged copy
    torch.manual_seed(seed)
    transformer = build_transformer(sizes)
    if start_from is not None:
        transformer = CosmosTransformer3DModel.from_pretrained(start_from, torch_dtype=torch.float32)
    cast(nn.Module, transformer).to(device)
    ema = Ema(transformer, decay=0.999)
    transformer.train().requires_grad_(True)
    skip_cross_attention(transformer)  # after the copy, so that the averaged model keeps its cross-attention
    network = compile_if_possible(transformer) if compiled else transformer
    # 4. The steps
    progress = Progress(out / "dynamics.progress", draws := Draws(seed))

    def step_function(step: int) -> tuple[Tensor, dict[str, float]]:
        batch, length = draw_batch(latents, still, batch_size, step, draws.torch)
        whole = length == latents.shape[2]  # shorter batches run uncompiled, to avoid a recompilation per length
        on = metric[: length - 1] if step >= (1 - METRIC_SHARE) * steps else None
        return flow_loss(network if whole else transformer, batch, draws.torch, on), {"samples": batch_size}

    figures = fit(
        "dynamics",
        step_function,
        [Group(transformer.parameters(), learning_rate)],
        steps=steps,
        warmup=200,
        ema=ema,
        log_every=200,
        save=lambda: ema.module.save_pretrained(out / "transformer"),
        progress=progress,
    )
    write_text(out / "dynamics.json", json.dumps(figures, indent=1))
    for path in (progress.path, *out.glob(LATENTS.format("*"))):
        path.unlink()
    return figures


def _latents(scenes_folder: Path, cosmos_folder: Path, out: Path, device: str, mirrored: bool) -> tuple[Tensor, Tensor]:
    """Return latents (2n, C, L, h, w) of all clips, and of every eighth clip with its last frame repeated.

    Without `mirrored` there are n latents. They are cached in `out`.
    """
    vae = to_channels_last(AutoencoderKLWan.from_pretrained(cosmos_folder / "vae").eval())
    cast(nn.Module, vae).to(device)
    path = out / LATENTS.format(weights_digest(vae.state_dict()) + ("" if mirrored else "-unmirrored"))
    if not path.is_file():
        frames = load(scenes_folder / "train").frames
        still = np.repeat(frames[::8, -1:], frames.shape[1], axis=1)
        # A channels-last VAE returns channels-last latents, which safetensors does not save
        ways = {"latents": frames, "still": still}
        encode = encode_both_ways if mirrored else encode_clips
        encoded = {name: encode(vae, clips).contiguous() for name, clips in ways.items()}
        logger.info("dynamics: %d clips encoded", len(frames))
        write_bytes(path, save(encoded))
    encoded = load_file(path)
    return encoded["latents"], encoded["still"]


def draw_batch(
    latents: Tensor, still: Tensor, batch_size: int, step: int, generator: torch.Generator
) -> tuple[Tensor, int]:
    """Return a random batch (batch_size, C, L, h, w) and its L, which `SHORTER_EVERY` varies.

    The first `STILL_SHARE` of the batch are still clips.
    """
    batch = latents[torch.randint(0, len(latents), (batch_size,), generator=generator).to(latents.device)]
    count = round(STILL_SHARE * batch_size)
    batch[:count] = still[torch.randint(0, len(still), (count,), generator=generator).to(still.device)]
    length, shorter = latents.shape[2], range(2, latents.shape[2])
    if shorter and step % SHORTER_EVERY == SHORTER_EVERY - 1:
        length = shorter[step // SHORTER_EVERY % len(shorter)]
    return batch[:, :, :length], length
