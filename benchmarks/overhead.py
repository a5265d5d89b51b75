"""Overhead of TheWorld over stock Gemma 3: both run alternately in one process; prints the median of paired ratios.

    python benchmarks/overhead.py             # random Gemma 3 and Cosmos of a medium size, on the CPU or one GPU
    python benchmarks/overhead.py --pairs 31 --json

Rows:
    world off            TheWorld with enable_world=False against Gemma3ForConditionalGeneration, same inputs
    world on             TheWorld with world tokens against Gemma 3 on a prompt of equal length, features given
    world encoder        one VAE encoding, and one rollout, in milliseconds per image
"""

import argparse
import json
import statistics

import torch
from diffusers import AutoencoderKLWan, CosmosTransformer3DModel, FlowMatchEulerDiscreteScheduler
from side_by_side import compare, seconds
from transformers import Gemma3Config, Gemma3ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from theworld import TheWorld, TheWorldConfig
from theworld.model.world_encoders import CosmosWorldEncoder
from theworld.utils.devices import best_device
from theworld.utils.hub import Source
from theworld.utils.logging import quiet_third_party

QUESTION_TOKENS, VOCABULARY = 64, 8192
WORLD_SIZE, WORLD_STEPS = 64, 2
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "query_pre_attn_scalar": 64,
    "sliding_window": 1024,
    "max_position_embeddings": 4096,
}
VISION = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 224,
    "patch_size": 14,
    "vision_use_head": False,
}
SPECIAL = {"boi_token_index": 10, "eoi_token_index": 11, "image_token_index": 12, "mm_tokens_per_image": 64}
WORLD = {"world_image_size": WORLD_SIZE, "num_world_steps": WORLD_STEPS}


def build(
    device: torch.device, dtype: torch.dtype, layers: int
) -> tuple[Gemma3ForConditionalGeneration, TheWorld, TheWorld]:
    """Stock Gemma 3, TheWorld with the world off, and TheWorld with the world on, with the same weights."""
    fields = {"text_config": {**TEXT, "num_hidden_layers": layers}, "vision_config": VISION, **SPECIAL}
    torch.manual_seed(0)
    stock = Gemma3ForConditionalGeneration(Gemma3Config(**fields))
    off = TheWorld(TheWorldConfig(**fields, **WORLD, enable_world=False))
    on = TheWorld(TheWorldConfig(**fields, **WORLD))
    for model in (off, on):
        model.load_state_dict(stock.state_dict(), strict=False)
    models = (stock, off, on)
    for model in models:
        model.generation_config.eos_token_id = None
        model.to(device, dtype).eval()
    return models


def prompt(config: Gemma3Config, device: torch.device, world_tokens: int, world: bool) -> dict[str, torch.Tensor]:
    """Inputs of one prompt: BOS, a world block or as many words, one image, a question, and Gemma's pixels."""
    block = [6, *[8] * world_tokens, 7] if world else [100] * (world_tokens + 2)
    image = [10, *[12] * config.mm_tokens_per_image, 11]
    ids = torch.tensor(
        [[2, *(block if world_tokens else []), *image, *range(200, 200 + QUESTION_TOKENS)]], device=device
    )
    size = config.vision_config.image_size
    pixels = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device) * 2 - 1
    types = (ids == config.image_token_index).long()
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": types, "pixel_values": pixels}


def build_encoder(device: torch.device, dtype: torch.dtype) -> CosmosWorldEncoder:
    """A world encoder of reduced width with random weights."""
    torch.manual_seed(0)
    with quiet_third_party():  # diffusers warns about casting after loading
        vae, transformer = build_components(device, dtype)
    encoder = CosmosWorldEncoder(vae, TheWorldConfig(world_inference_steps=6), Source(""), {})
    encoder.transformer, encoder.scheduler = transformer, FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)
    return encoder


def build_components(device: torch.device, dtype: torch.dtype) -> tuple[AutoencoderKLWan, CosmosTransformer3DModel]:
    """A random Wan VAE and Cosmos transformer."""
    vae = AutoencoderKLWan(base_dim=16).to(device, dtype).eval()
    transformer = CosmosTransformer3DModel(
        in_channels=17, num_attention_heads=8, attention_head_dim=32, num_layers=6, text_embed_dim=64,
        adaln_lora_dim=32, max_size=(16, 32, 32), patch_size=(1, 2, 2), concat_padding_mask=False,
    ).to(device, dtype)  # fmt: skip
    return vae, transformer


def measure(pairs: int, layers: int, decoded_tokens: int) -> dict[str, dict[str, float]]:
    """All rows."""
    # 1. Models, and inputs of equal length for both sides
    device, dtype = best_device()
    stock, off, on = build(device, dtype, layers)
    plain = prompt(stock.config, device, 0, world=False)
    tokens = on.config.world_tokens(WORLD_STEPS)
    longer = prompt(stock.config, device, tokens, world=False)
    with_world = prompt(stock.config, device, tokens, world=True)
    grid = on.config.world_grid
    latents = torch.randn(1, 16, 1 + WORLD_STEPS, *grid, device=device)

    def world() -> dict[str, BaseModelOutputWithPooling]:
        return {"world": on.model.project_latents(latents)}

    # 2. Time forward and generate with the world off and on, then the world encoder alone
    encoder = build_encoder(device, dtype)
    frame = torch.zeros(1, 3, WORLD_SIZE, WORLD_SIZE, device=device)
    decode = {"max_new_tokens": decoded_tokens, "do_sample": False}
    with torch.no_grad():
        rows = {
            "world off, forward": compare(lambda: off(**plain), lambda: stock(**plain), device, pairs),
            "world off, generate": compare(
                lambda: off.generate(**plain, **decode), lambda: stock.generate(**plain, **decode), device, pairs
            ),
            "world on, forward": compare(
                lambda: on(**with_world, mm_encoder_outputs=world()), lambda: stock(**longer), device, pairs
            ),
            "world on, generate": compare(
                lambda: on.generate(**with_world, mm_encoder_outputs=world(), **decode),
                lambda: stock.generate(**longer, **decode),
                device,
                pairs,
            ),
        }
        for name, steps in (("world encoder, current frame", 0), ("world encoder, rollout", WORLD_STEPS)):
            encoder.encode(frame, steps)
            times = [seconds(lambda steps=steps: encoder.encode(frame, steps), device) for _ in range(pairs)]
            rows[name] = {"ours_ms": 1000 * statistics.median(times)}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--decoded_tokens", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = measure(args.pairs, args.layers, args.decoded_tokens)
    if args.json:
        print(json.dumps(rows, indent=2))
        return
    device, dtype = best_device()
    name = str(dtype).removeprefix("torch.")
    print(f"{device}, {name}, {torch.get_num_threads()} threads, median of {args.pairs} pairs\n")
    print(f"{'':<32}{'TheWorld ms':>12}{'Gemma 3 ms':>12}{'ratio':>8}")
    for name, row in rows.items():
        rest = f"{row['stock_ms']:>12.2f}{row['ratio']:>8.3f}" if "ratio" in row else ""
        print(f"{name:<32}{row['ours_ms']:>12.2f}{rest}")


if __name__ == "__main__":
    main()
