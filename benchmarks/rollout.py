"""Time of a Cosmos rollout against diffusers' `Cosmos2VideoToWorldPipeline` with equal steps and random weights.

    python benchmarks/rollout.py               # one core, fp32; or one GPU, bf16
    python benchmarks/rollout.py --pairs 15 --layers 12 --json

Both sides run alternately in one process and return latents. Prints medians of both and the median of paired ratios. On
one core it measures CPU time, which other programs do not affect.

Rows:
    defaults             ours without guidance against the pipeline with its default guidance, 7
    guidance 1           both without guidance
    guidance 7           both with guidance 7; ours computes both prompts as one batch
    batch of 8           ours: eight images at once against one by one
"""

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    Cosmos2VideoToWorldPipeline,
    CosmosTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
)
from side_by_side import own_seconds, paired

from theworld import TheWorldConfig
from theworld.model.world_encoders import CosmosWorldEncoder
from theworld.utils.devices import best_device
from theworld.utils.hub import Source
from theworld.utils.logging import quiet_third_party

PROMPT_TOKENS, PROMPT_WIDTH = 32, 64


class Harmless:
    """Stands in for the guardrail, which never gets latents."""

    def to(self, device: Any) -> None:
        pass


def build(layers: int, width: int, device: torch.device, dtype: torch.dtype) -> Cosmos2VideoToWorldPipeline:
    """The stock pipeline on a random VAE and transformer, without a text encoder."""
    torch.manual_seed(0)
    vae = AutoencoderKLWan(base_dim=16)
    transformer = CosmosTransformer3DModel(
        in_channels=17, num_attention_heads=width // 32, attention_head_dim=32, num_layers=layers,
        text_embed_dim=PROMPT_WIDTH, adaln_lora_dim=32, max_size=(16, 32, 32), patch_size=(1, 2, 2),
        concat_padding_mask=False,
    )  # fmt: skip
    for model in (vae, transformer):
        model.to(device, dtype).eval().requires_grad_(False)
    scheduler = FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)
    components: dict[str, Any] = {"vae": vae, "transformer": transformer, "scheduler": scheduler}
    made = Cosmos2VideoToWorldPipeline(text_encoder=None, tokenizer=None, safety_checker=Harmless(), **components)
    made.set_progress_bar_config(disable=True)
    return made


def measure(pairs: int, layers: int, width: int, size: int, future: int, steps: int) -> dict[str, dict[str, float]]:
    """All rows: `ours_ms`, `stock_ms` and the `ratio` of ours to the other side."""
    # 1. The stock pipeline, and inputs
    torch.set_num_threads(1)
    device, dtype = best_device()
    with quiet_third_party():  # diffusers warns about casting after loading
        pipeline = build(layers, width, device, dtype)
    embeds = torch.randn(2, 1, PROMPT_TOKENS, PROMPT_WIDTH).to(device, dtype)
    frames = torch.rand(8, 3, size, size).to(
        device, dtype
    )  # in [0, 1], as the pipeline takes them; values do not affect time

    def ours(guidance: float, together: int = 1, images: int = 1) -> Callable[[], object]:
        config = TheWorldConfig(world_inference_steps=steps, world_guidance_scale=guidance)
        encoder = CosmosWorldEncoder(pipeline.vae, config, Source(""), {})
        encoder.transformer, encoder.scheduler = pipeline.transformer, pipeline.scheduler
        encoder._prompt_embeds = list(embeds[: 2 if guidance > 1 else 1])
        return lambda: [encoder.encode(some, future) for some in frames[:images].split(together)]

    def stock(guidance: float) -> Callable[[], object]:
        given: dict[str, Any] = {"prompt_embeds": embeds[0], "negative_prompt_embeds": embeds[1]}
        settings = {"height": size, "width": size, "num_frames": 1 + 4 * future, "num_inference_steps": steps}
        return lambda: pipeline(
            image=frames[:1], guidance_scale=guidance, output_type="latent", **given, **settings
        )  # fmt: skip

    # 2. Time each pair of sides after a warm-up
    rows: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "defaults": (ours(1), stock(7)),
        "guidance 1": (ours(1), stock(1)),
        "guidance 7": (ours(7), stock(7)),
        "batch of 8": (ours(1, together=8, images=8), ours(1, images=8)),
    }
    found = {}
    for name, (one, other) in rows.items():
        one(), other()
        found[name] = paired(
            lambda one=one: own_seconds(one, device), lambda other=other: own_seconds(other, device), pairs
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--num_world_steps", type=int, default=2)
    parser.add_argument("--inference_steps", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = measure(args.pairs, args.layers, args.width, args.size, args.num_world_steps, args.inference_steps)
    if args.json:
        print(json.dumps(rows, indent=2))
        return
    device, dtype = best_device()
    print(f"{device}, {str(dtype).removeprefix('torch.')}, median of {args.pairs} pairs\n")
    print(f"{'':<16}{'ours ms':>12}{'other ms':>12}{'ratio':>8}")
    for name, row in rows.items():
        print(f"{name:<16}{row['ours_ms']:>12.1f}{row['stock_ms']:>12.1f}{row['ratio']:>8.3f}")


if __name__ == "__main__":
    main()
