"""Time, operations and memory of Gemma 3 4B with Cosmos-Predict2-2B, built from configurations with random weights.

    python benchmarks/full_size.py --random_weights               # all layers on one GPU, 2 on a CPU; bf16
    python benchmarks/full_size.py --random_weights --depth 4 --json

Nothing is downloaded. `--depth N` keeps N layers of the language model, the vision tower and the diffusion transformer.
Widths, vocabulary and VAE have full size, so that a layer costs as much as in the real model.

Rows, for one image at 224 px, one future latent frame and a prompt of 256 words:
    encode               the VAE's encoder on the current frame
    rollout              the diffusion transformer: `--inference_steps` forwards without text
    prefill              the prompt with its image and world tokens, features given
    decode               one more token
    train projection     forward, backward and AdamW step of the projector, features given
    train LoRA           the same for adapters of rank 16 in the language model
    train language       the same for the language model, with gradient checkpointing

Columns: median milliseconds, TFLOP by `torch.utils.flop_counter`, the share of the peak (`--peak_tflops`, no default on
a CPU), and on a GPU the peak of allocated memory, weights included.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
from diffusers import AutoencoderKLWan, CosmosTransformer3DModel, FlowMatchEulerDiscreteScheduler
from side_by_side import own_seconds
from torch.utils.flop_counter import FlopCounterMode

from theworld import TheWorld, TheWorldConfig
from theworld.constants import IGNORE_INDEX
from theworld.model.checkpoints.lora import inject_lora
from theworld.model.components import named_components
from theworld.model.world_encoders import CosmosWorldEncoder
from theworld.utils.devices import best_device
from theworld.utils.hub import Source
from theworld.utils.logging import quiet_third_party

H200_TFLOPS = 989.0  # dense bf16, NVIDIA's data sheet
WORDS, ANSWER, SIZE, FUTURE = 256, 16, 224, 1
TRAINED = {"train projection": "projector", "train LoRA": "language_lora", "train language": "language"}

Run = Callable[[], object]


def gemma(depth: int | None, divide: int) -> dict[str, Any]:
    """Config fields of google/gemma-3-4b-it, with widths and vocabulary divided by `divide`."""
    text = {
        "vocab_size": 262_208 // divide,
        "hidden_size": 2560 // divide,
        "intermediate_size": 10_240 // divide,
        "num_hidden_layers": depth or 34,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256 // divide,
        "query_pre_attn_scalar": 256 // divide,
        "sliding_window": 1024,
        "max_position_embeddings": 131_072,
    }
    vision = {
        "hidden_size": 1152 // divide,
        "intermediate_size": 4304 // divide,
        "num_hidden_layers": depth or 27,
        "num_attention_heads": 16 // divide,
        "image_size": 896 // math.isqrt(divide),
        "patch_size": 14,
        "vision_use_head": False,
    }
    special = {"boi_token_index": 255_999, "eoi_token_index": 256_000, "image_token_index": 262_144}
    special = {name: token // divide for name, token in special.items()}
    return {"text_config": text, "vision_config": vision, "mm_tokens_per_image": 256, **special}


def cosmos(depth: int | None, divide: int) -> dict[str, Any]:
    """Arguments of the diffusion transformer of nvidia/Cosmos-Predict2-2B-Video2World."""
    return {
        "in_channels": 17,
        "out_channels": 16,
        "num_attention_heads": 16 // divide,
        "attention_head_dim": 128,
        "num_layers": depth or 28,
        "mlp_ratio": 4.0,
        "text_embed_dim": 1024,
        "adaln_lora_dim": 256,
        "max_size": (128, 240, 240),
        "patch_size": (1, 2, 2),
        "rope_scale": (1.0, 3.0, 3.0),
        "concat_padding_mask": True,
        "extra_pos_embed_type": None,
    }


def build(depth: int | None, divide: int, inference_steps: int, device: torch.device) -> TheWorld:
    """TheWorld with both models, random weights, in bf16."""
    settings = {"world_image_size": SIZE, "num_world_steps": FUTURE, "world_inference_steps": inference_steps}
    config = TheWorldConfig(**gemma(depth, divide), **settings, lora={"r": 16}, dtype="bfloat16")
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with quiet_third_party(), device:
            model = TheWorld(config)
            vae = AutoencoderKLWan(base_dim=96 // divide)
            transformer = CosmosTransformer3DModel(**cosmos(depth, divide))
    finally:
        torch.set_default_dtype(torch.float32)
    transformer.register_to_config(concat_padding_mask=False)
    encoder = CosmosWorldEncoder(vae, config, Source(""), {})
    encoder.transformer, encoder.scheduler = transformer, FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)
    model.model.world_encoder = encoder.eval().requires_grad_(False)
    inject_lora(config, model.model.language_model)
    model.generation_config.eos_token_id = None
    return model.eval()


def prompt(config: TheWorldConfig, device: torch.device) -> dict[str, torch.Tensor]:
    """Inputs of one prompt: BOS, a world block, one image, and words, the last `ANSWER` of which are supervised."""
    block = [config.start_of_world_token_id, *[config.world_token_id] * config.world_tokens(FUTURE)]
    image = [config.boi_token_index, *[config.image_token_index] * config.mm_tokens_per_image, config.eoi_token_index]
    words = torch.randint(100, 1000, (WORDS,), generator=torch.Generator().manual_seed(0)).tolist()
    ids = torch.tensor([[2, *block, config.end_of_world_token_id, *image, *words]], device=device)
    labels = torch.full_like(ids, IGNORE_INDEX)
    labels[:, -ANSWER:] = ids[:, -ANSWER:]
    side = config.vision_config.image_size
    pixels = torch.rand(1, 3, side, side, device=device, dtype=torch.bfloat16)
    types = (ids == config.image_token_index).long()
    shared = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": types}
    return {**shared, "pixel_values": pixels, "labels": labels}


def training(model: TheWorld, inputs: dict[str, Any], row: str) -> Run:
    """A step that trains the component of a row. Only `train language` uses activation checkpointing."""
    for _, component, parameter in named_components(model):
        parameter.requires_grad_(component == TRAINED[row])
    model.activation_checkpointing_disable()
    if row == "train language":
        model.activation_checkpointing_enable()
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-6)

    def step() -> None:
        model.train()(**inputs, supervised_logits_only=True).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def measured(run: Run, device: torch.device, repeats: int, peak: float | None) -> dict[str, float]:
    """Measure one row. The first call counts operations and warms up."""
    with FlopCounterMode(display=False) as counter:
        run()
    teraflop = counter.get_total_flops() / 1e12
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = statistics.median(own_seconds(run, device) for _ in range(repeats))
    row = {"ms": 1000 * seconds, "teraflop": teraflop, "teraflops": teraflop / seconds}
    if peak is not None:
        row["share_of_peak"] = teraflop / seconds / peak
    if device.type == "cuda":
        row["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return row


def measure(
    depth: int | None, divide: int, inference_steps: int, repeats: int, peak: float | None
) -> Iterator[tuple[str, dict[str, float]]]:
    """Yields the name and figures of every row."""
    device, _ = best_device()
    model = build(depth, divide, inference_steps, device)
    encoder: Any = model.model.world_encoder
    inputs = prompt(model.config, device)
    frame = torch.rand(1, 3, SIZE, SIZE, device=device) * 2 - 1

    def forward(**kwargs: Any) -> Any:
        with torch.no_grad():
            return model(**kwargs, use_cache=True)

    yield "encode", measured(lambda: encoder.encode(frame), device, repeats, peak)
    first = encoder.encode(frame).float()
    yield "rollout", measured(lambda: encoder.rollout(first, FUTURE, 0), device, repeats, peak)
    inputs["world_latents"] = encoder.encode(frame, FUTURE)
    asked = {name: value for name, value in inputs.items() if name != "labels"} | {"logits_to_keep": 1}
    yield "prefill", measured(lambda: forward(**asked), device, repeats, peak)
    token, cache = torch.full((1, 1), 100, device=device), forward(**asked).past_key_values
    yield "decode", measured(lambda: forward(input_ids=token, past_key_values=cache), device, max(repeats, 8), peak)
    for row in TRAINED:
        yield row, measured(training(model, inputs, row), device, repeats, peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random_weights", action="store_true", required=True, help="nothing is downloaded")
    parser.add_argument("--depth", type=int, help="layers of each model (default: all; 2 on a CPU)")
    parser.add_argument(
        "--divide", type=int, default=1, choices=(1, 4, 16), help="divide the widths by this, for a test"
    )
    parser.add_argument("--inference_steps", type=int, help="forwards of a rollout (default: 35; 2 on a CPU)")
    parser.add_argument("--repeats", type=int, help="calls of each row after the first (default: 5; 1 on a CPU)")
    parser.add_argument(
        "--peak_tflops", type=float, help=f"of the device in bf16 (default: {H200_TFLOPS:.0f}, an H200)"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    # Defaults by device
    device, _ = best_device()
    cpu = device.type == "cpu"
    depth, peak = args.depth or (2 if cpu else None), args.peak_tflops or (None if cpu else H200_TFLOPS)
    rows = measure(
        depth, args.divide, args.inference_steps or (2 if cpu else 35), args.repeats or (1 if cpu else 5), peak
    )
    # Print rows as they are measured
    if args.json:
        print(json.dumps(dict(rows), indent=2))
        return
    print(f"{device}, bf16, {torch.get_num_threads()} threads, {depth or 'all'} layers\n")
    print(f"{'':<20}{'ms':>12}{'TFLOP':>10}{'TFLOP/s':>10}{'of peak':>9}{'peak GB':>9}")
    for name, row in rows:
        share = f"{row['share_of_peak']:>9.1%}" if "share_of_peak" in row else f"{'':>9}"
        memory = f"{row['peak_gb']:>9.1f}" if "peak_gb" in row else ""
        print(
            f"{name:<20}{row['ms']:>12.1f}{row['teraflop']:>10.3f}{row['teraflops']:>10.3f}{share}{memory}", flush=True
        )


if __name__ == "__main__":
    main()
