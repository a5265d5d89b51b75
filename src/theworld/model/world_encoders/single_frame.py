"""The Wan VAE's encoder for one frame: its causal 3-D convolutions as 2-D ones, on the same weights.

A causal convolution pads its input with zeros before the first frame. For a single frame, only the last time slice of
every kernel has an effect. So a third of the arithmetic gives the same latents up to rounding.

Shape legend: `B` images, `C` channels, `H, W` height and width in pixels, `h, w` in latent positions.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanAttentionBlock,
    WanCausalConv3d,
    WanEncoder3d,
    WanResample,
    WanResidualBlock,
    WanResidualDownBlock,
    WanRMS_norm,
    patchify,
)
from torch import nn
from torch.nn import functional

BLOCKS = (WanResidualBlock, WanResample, WanAttentionBlock, WanResidualDownBlock)
REPLACED = ("forward", "_forward_hooks", "_forward_pre_hooks")  # set in a module that runs more than its class


def runs_as_image(vae: AutoencoderKLWan) -> bool:
    """Whether `posterior_mode` gives the result of `vae.encode`.

    False while the VAE trains, with tiling, and if hooks, offloading or sharding change its modules.
    """
    modules: list[nn.Module] = [*vae.encoder.modules(), vae.quant_conv]
    return (
        type(vae.encoder) is WanEncoder3d
        and all(type(block) in BLOCKS for block in vae.encoder.down_blocks)
        and not (vae.use_tiling or vae.use_slicing)
        and not any(parameter.requires_grad for module in modules for parameter in module.parameters(recurse=False))
        and not any(vars(module).get(name) for module in (vae, *modules) for name in REPLACED)
    )


def posterior_mode(vae: AutoencoderKLWan, frames: torch.Tensor) -> torch.Tensor:
    """The mode of `vae.encode(frames)`: (B, 3, 1, H, W) in [-1, 1] -> (B, C, 1, h, w), to 1e-5 in fp32."""
    encoder: Any = vae.encoder
    if (patch_size := vae.config["patch_size"]) is not None:
        frames = patchify(frames, patch_size)
    # Channels last, as the CPU's and the GPU's convolutions are fastest
    hidden = _convolve(encoder.conv_in, frames.squeeze(2).contiguous(memory_format=torch.channels_last))
    for block in encoder.down_blocks:
        hidden = _run(block, hidden)
    first, *resnets = encoder.mid_block.resnets
    hidden = _run(first, hidden)
    for attention, resnet in zip(encoder.mid_block.attentions, resnets, strict=True):
        hidden = _run(resnet, _run(attention, hidden))
    hidden = _convolve(encoder.conv_out, _activate(encoder.norm_out, hidden))
    mean, _ = _convolve(vae.quant_conv, hidden).chunk(2, dim=1)
    return mean.contiguous().unsqueeze(2)


def _run(block: Any, hidden: torch.Tensor) -> torch.Tensor:
    """One block of the encoder on (B, C, H, W)."""
    if isinstance(block, WanResidualBlock):
        convolve_shortcut = isinstance(block.conv_shortcut, WanCausalConv3d)
        shortcut = _convolve(block.conv_shortcut, hidden) if convolve_shortcut else hidden
        hidden = _convolve(block.conv1, _activate(block.norm1, hidden))
        return _convolve(block.conv2, block.dropout(_activate(block.norm2, hidden))).add_(shortcut)
    if isinstance(block, WanResample):
        return block.resample(hidden)  # its convolution over time starts with the second frame
    if isinstance(block, WanResidualDownBlock):
        shortcut = block.avg_shortcut(hidden.unsqueeze(2)).squeeze(2)
        for inner in (*block.resnets, *([] if block.downsampler is None else [block.downsampler])):
            hidden = _run(inner, hidden)
        return hidden + shortcut
    return block(hidden.unsqueeze(2)).squeeze(2)


def _convolve(layer: Any, hidden: torch.Tensor) -> torch.Tensor:
    """A `WanCausalConv3d` on (B, C, H, W), with a view of its current weights."""
    padding = [size // 2 for size in layer.kernel_size[1:]]  # as every convolution of the encoder has it
    return functional.conv2d(hidden, layer.weight[:, :, -1], layer.bias, layer.stride[1:], padding)


def _activate(layer: WanRMS_norm, hidden: torch.Tensor) -> torch.Tensor:
    """SiLU of `layer` on (B, C, H, W), in place, where stock modules allocate a tensor per operation."""
    pixels = hidden.movedim(1, -1)  # (B, H, W, C), contiguous
    norm = torch.linalg.vector_norm(pixels, dim=-1, keepdim=True, dtype=torch.float32).clamp_min_(1e-12)
    scaled = (pixels * norm.reciprocal_().mul_(layer.scale).to(pixels.dtype)).mul_(layer.gamma.flatten())
    return functional.silu(scaled, inplace=True).movedim(-1, 1)
