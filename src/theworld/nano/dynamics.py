"""The nano world's dynamics: Cosmos-Predict2's diffusion transformer at toy size, trained as its pipeline samples.

`Cosmos2VideoToWorldPipeline` feeds the network c_in x, with x = x0 + sigma n and c_in = 1 - t, t = sigma / (sigma + 1).
That is (1 - t) x0 + t n; and c_skip = 1 - t, c_out = -t make the network's target n - x0: rectified flow
(Liu et al., 2022, arXiv:2209.03003).

Shapes: `B` clips, `C` = 16 latent channels, `L` latent frames of which the first is given, `h`, `w` latent pixels.
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

LATENTS = "latents-{}.safetensors"  # of a VAE with this digest; beside the network until it is trained
TEXT_DIM = 8
FPS = 16
# The time at which the pipeline declares the given frame clean, from its sigma_conditioning of 1e-4.
CLEAN_TIME = 1e-4 / (1 + 1e-4)
LAST_TIME = 80 / 81  # from sigma_max = 80, where sampling starts
METRIC_SHARE = 0.3  # of the steps, the last ones: the loss has the metric
SHORTER_EVERY = 8  # batches: one of them has fewer latent frames, so that shorter rollouts are trained
STILL_SHARE = 1 / 16  # of a batch: clips in which everything has ended, and stays as it is
SIZES: dict[str, Any] = {
    "num_attention_heads": 6,
    "attention_head_dim": 32,
    "num_layers": 6,
    "mlp_ratio": 4.0,
    "adaln_lora_dim": 32,
}
"""The sizes that a config may change."""


def build_transformer(sizes: Mapping[str, Any] | None = None) -> CosmosTransformer3DModel:
    """A random nano transformer (3.8 M parameters), its output near zero and its position embeddings off zero.

    diffusers starts the position embeddings at zero and then normalises them, which has no gradient there. `sizes`
    override the nano `SIZES`.
    """
    transformer = CosmosTransformer3DModel(
        in_channels=LATENT_CHANNELS + 1,  # and the mask that says which frames are given
        out_channels=LATENT_CHANNELS,
        text_embed_dim=TEXT_DIM,
        max_size=(8, 8, 8),  # latent frames, and latent pixels of an image of 64
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
    """The one prompt of the nano world, (1, 1, 8): no words, all zeros."""
    return torch.zeros(1, 1, TEXT_DIM)


def sample_times(count: int, generator: torch.Generator) -> Tensor:
    """Noise levels t in (0, 80 / 81], three quarters of them near pure noise: the first sampler steps decide most."""
    late = torch.randn(count, generator=generator) * 1.5 + 2.0
    middle = torch.randn(count, generator=generator)
    chosen = torch.where(torch.rand(count, generator=generator) < 0.75, late, middle)
    return chosen.sigmoid().clamp(max=LAST_TIME)


def moving_weight(latents: Tensor, strength: float = 3.0) -> Tensor:
    """Loss weights (B, C, L - 1, h, w) from 1 to 1 + `strength`: more where a future frame differs from one before."""
    future = latents[:, :, 1:]
    change = torch.maximum((future - latents[:, :, :1]).abs(), (future - latents[:, :, :-1]).abs())
    return 1 + strength * change.clamp(max=1)


def inverse_covariance(latents: Tensor, ridge: float = 0.05) -> Tensor:
    """A metric for errors, (L - 1, D, D) with D = C h w: the inverse covariance of each future frame's latents.

    An outcome may show in little of the latent: a lit ramp differs from an unlit one along a direction with a fifteenth
    of the mean variance. A metric changes no optimum, but lets such a direction count. `ridge` tames mere noise.
    """
    frames = latents[:, :, 1:].movedim(2, 0).flatten(2)  # (L - 1, n, D)
    return torch.stack([torch.linalg.inv(torch.cov(frame.T) + ridge * torch.eye(frame.shape[1])) for frame in frames])


def flow_loss(
    transformer: nn.Module, latents: Tensor, generator: torch.Generator, metric: Tensor | None = None
) -> Tensor:
    """Weighted squared error of the predicted velocity n - x0 on the future frames of `latents` (B, C, L, h, w).

    With a `metric` (L - 1, D, D) the error's mean square under it is added. `generator` draws on the CPU.
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
    """Latents of every clip and of its mirror image, (2n, C, L, h, w). A mirror image obeys the usual law, too."""
    return torch.cat([encode_clips(vae, frames), encode_clips(vae, frames[:, :, :, ::-1])])


def skip_cross_attention(transformer: CosmosTransformer3DModel) -> None:
    """Leave out what adds exactly zero: values without bias, of an all-zero prompt. Saves a tenth of the time.

    The skipped weights get no gradient either way. Their forward is replaced on this object alone, not in the files.
    """
    for block in transformer.transformer_blocks:
        cast(Any, block).attn2.forward = lambda hidden_states, **_: torch.zeros_like(hidden_states)


def compile_if_possible(transformer: CosmosTransformer3DModel) -> nn.Module:
    """`torch.compile` on a machine that has a C++ compiler, else the transformer as it is."""
    if shutil.which("g++") is None:
        logger.info("dynamics: no g++ here, so the network is not compiled")
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
    """Train the transformer on the latents that `cosmos_folder`/vae makes of `scenes_folder`/train.

    The loss has `inverse_covariance` in the last `METRIC_SHARE` of the steps. Writes `out`/transformer (averaged
    weights, every ten minutes and at the end), `out`/scheduler, `out`/prompt_embeds.safetensors and the figures to
    `out`/dynamics.json, which are also returned. An interrupted training continues from its progress, which `out` holds
    until the end.

    Args:
        compiled: Compile the network where there is a C++ compiler: the same steps, 1.3 times faster on a CPU.
        mirrored: Learn from the mirror image of every clip, too. Under a law that tells left from right it must be off.
        sizes: Override the nano `SIZES` of a new transformer.
        start_from: Folder of a transformer that is trained further, in place of a new one.
    """
    # 1. What a pipeline needs beside the network
    FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True).save_pretrained(out / "scheduler")
    save_file({"prompt_embeds": prompt_embedding()}, out / "prompt_embeds.safetensors")
    # 2. What it learns from: latents, and those of clips in which everything has ended
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
    skip_cross_attention(transformer)  # after the copy: the averaged weights stay the whole, stock model
    network = compile_if_possible(transformer) if compiled else transformer
    # 4. The steps
    progress = Progress(out / "dynamics.progress", draws := Draws(seed))

    def step_function(step: int) -> tuple[Tensor, dict[str, float]]:
        batch, length = draw_batch(latents, still, batch_size, step, draws.torch)
        whole = length == latents.shape[2]  # another length is not compiled again
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


def _latents(
    scenes_folder: Path, cosmos_folder: Path, out: Path, device: str, mirrored: bool
) -> tuple[Tensor, Tensor]:
    """Latents (2n, C, L, h, w) of all clips, and of every eighth with its last frame repeated; kept in `out`.

    There are n latents if not `mirrored`.
    """
    vae = to_channels_last(AutoencoderKLWan.from_pretrained(cosmos_folder / "vae").eval())
    cast(nn.Module, vae).to(device)
    path = out / LATENTS.format(weights_digest(vae.state_dict()) + ("" if mirrored else "-unmirrored"))
    if not path.is_file():
        frames = load(scenes_folder / "train").frames
        still = np.repeat(frames[::8, -1:], frames.shape[1], axis=1)
        # A VAE in the layout `channels_last` returns latents in that layout, which safetensors does not save
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
    """A random batch (batch_size, C, L, h, w), its first `STILL_SHARE` still, and its L; see `SHORTER_EVERY`."""
    batch = latents[torch.randint(0, len(latents), (batch_size,), generator=generator).to(latents.device)]
    count = round(STILL_SHARE * batch_size)
    batch[:count] = still[torch.randint(0, len(still), (count,), generator=generator).to(still.device)]
    length, shorter = latents.shape[2], range(2, latents.shape[2])
    if shorter and step % SHORTER_EVERY == SHORTER_EVERY - 1:
        length = shorter[step // SHORTER_EVERY % len(shorter)]
    return batch[:, :, :length], length
