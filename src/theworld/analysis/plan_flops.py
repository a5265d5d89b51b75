"""Operations of a model without weights, counted by `torch.utils.flop_counter` while modules run on the meta device.

A multiplication and an addition are 2 operations. Attention is counted in full, without masks.

Shape legend: `L` tokens of a prompt with one image, `I` image tokens, `N` world tokens, `D` language-model width, `C`
channels, `T` latent frames, `h, w` latent height and width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from theworld.model import TheWorld, TheWorldConfig
from theworld.model.fusion import FUSIONS
from theworld.model.training_hooks import trains
from theworld.model.world_encoders import WORLD_ENCODERS, WorldEncoder
from theworld.utils.hub import Source


def encoder_on_meta(config: TheWorldConfig, source: Source) -> WorldEncoder:
    """The world encoder of `config` without weights."""
    return WORLD_ENCODERS[config.world_encoder].from_config(config, source, **source.hub)


def phase_flops(model: TheWorld, source: Source | None, tokens: dict[str, int]) -> dict[str, float]:
    """Operations for one image, by phase."""
    encode, rollout = (0.0, 0.0) if source is None else encoder_flops(model, source)
    prompt = tokens["world"] + tokens["image"] + tokens["text"]
    with torch.no_grad():
        prefill = count(lambda: run_model(model, prompt)[:, -1:], model.lm_head)
    step = count(lambda: run_model(model, prompt + tokens["answer"])[:, -tokens["answer"] :], model.lm_head, train=True)
    frozen = 0.0 if trains(model.model.world_encoder) else encode  # an encoder that trains is part of the step
    return {"encode": encode, "rollout": rollout, "prefill": prefill, "training step": frozen + rollout + step}


def count(run: Callable[[], torch.Tensor], head: Any = None, *, train: bool = False) -> float:
    """Operations of `run`, of `head` on its output, and with `train` of the gradients of both."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        output = run()
        output = output if head is None else head(output)
        if train and output.requires_grad:  # plain Gemma 3 may be completely frozen
            output.sum().backward()
    return float(counter.get_total_flops())


def encoder_flops(model: TheWorld, source: Source) -> tuple[float, float]:
    """Operations of one frame's features, and of predicting `num_world_steps` frames.

    A rollout is linear in its denoising steps, so one and two steps give the cost of any number.
    """
    config, steps = model.config, model.config.num_world_steps
    pixels = torch.zeros(1, 3, *config.world_image_shape, device="meta")
    found: list[float] = []
    for inference_steps in (1, 2) if steps else ():
        short = copy.copy(config)
        short.world_inference_steps = inference_steps
        encoder = encoder_on_meta(short, source)
        found.append(count(lambda encoder=encoder: encoder.encode(pixels, steps)))
    encoder = cast(WorldEncoder, model.model.world_encoder)
    present = count(lambda: encoder.encode(pixels, 0))
    if not steps:
        return present, 0.0
    one, two = found
    return present, one + (config.world_inference_steps - 1) * (two - one) - present


def run_model(model: TheWorld, length: int) -> torch.Tensor:
    """Last hidden states (1, L, D) of a prompt of `length` tokens with one image, whose latents are given."""
    config, inner = model.config, model.model
    side = cast(Any, config.vision_config).image_size
    # 1. Image and world tokens
    image = cast(Any, inner.get_image_features)(torch.zeros(1, 3, side, side, device="meta")).pooler_output  # (1, I, D)
    parts: list[torch.Tensor] = [image]
    if inner.world_encoder is not None:
        world = cast(Any, inner.project_latents(latents_of(inner.world_encoder, config)).pooler_output)  # (1, N, D)
        parts = [world, image] if FUSIONS[config.fusion].block else [inner.gate_images(image, world)]
    # 2. Run the language model on them and on text
    rest = torch.zeros(1, length - sum(part.shape[1] for part in parts), dtype=torch.long, device="meta")
    embeds = torch.cat([*parts, cast(Any, inner.get_input_embeddings())(rest)], dim=1)  # (1, L, D)
    mask = torch.ones(1, 1, length, length, dtype=torch.bool, device="meta")
    masks = dict.fromkeys(("full_attention", "sliding_attention"), mask)
    positions = torch.arange(length, device="meta")[None]
    language = cast(Any, inner.language_model)
    return language(inputs_embeds=embeds, attention_mask=masks, position_ids=positions, use_cache=False)[0]


def latents_of(encoder: WorldEncoder, config: TheWorldConfig) -> torch.Tensor:
    """Latents (1, C, T, h, w) without content; those of the current frame have a gradient if the VAE trains."""
    shape = encoder.grid(*config.world_image_shape, config.num_world_steps)
    latents = torch.zeros(1, encoder.feature_dim, *shape, device="meta")
    if not (trains(encoder) and torch.is_grad_enabled()):
        return latents
    first = encoder.encode(torch.zeros(1, 3, *config.world_image_shape, device="meta"))
    return torch.cat([first, latents[:, :, 1:]], dim=2)


__all__ = ["encoder_on_meta", "phase_flops"]
