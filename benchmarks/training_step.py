"""Savings of a training step, and overhead of our trainer: both sides run alternately in one process; medians of pairs.

    python benchmarks/training_step.py            # random Gemma 3 of a medium size and the nano model, CPU or one GPU
    python benchmarks/training_step.py --pairs 31 --json

Rows (ours against the other side):
    loss                 logits at supervised positions only against full logits, with a vocabulary of 262,208: forward
                         and backward, and peak memory of each
    world path           world tokens of a batch from cached latents against the nano model's encoder; the look-up
                         includes hashing the frames
    nano step            forward and backward of the nano model with cached latents against frames
    trainer              steps of our Trainer, world off, against the stock Trainer with stock Gemma 3, same batches
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from side_by_side import compare, paired, peak_bytes
from torch import nn
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils import logging as transformers_logging

from theworld import TheWorld, TheWorldConfig
from theworld.constants import IGNORE_INDEX
from theworld.data.latent_cache import LatentCache, content_key
from theworld.data.skips import SkipLog
from theworld.model.world_encoders import cache_fingerprint
from theworld.training.arguments import training_arguments
from theworld.training.config import TrainingConfig
from theworld.training.trainer import TheWorldTrainer
from theworld.utils.devices import best_device

GEMMA_VOCABULARY = 262_208
ANSWER_TOKENS, IMAGE_TOKENS = 8, 64
FRAMES = 8  # per batch, in the row "world path"
BOI, EOI, IMAGE = 10, 11, 12


def gemma(vocabulary: int, width: int, layers: int) -> dict[str, Any]:
    """Fields of a Gemma 3 config."""
    text = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": width // 4,
        "query_pre_attn_scalar": width // 4,
        "sliding_window": 1024,
        "max_position_embeddings": 4096,
    }
    vision = {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 112,
        "patch_size": 14,
        "vision_use_head": False,
    }
    special = {"boi_token_index": BOI, "eoi_token_index": EOI, "image_token_index": IMAGE}
    return {"text_config": text, "vision_config": vision, "mm_tokens_per_image": IMAGE_TOKENS, **special}


def batch(batch_size: int, tokens: int, device: torch.device) -> dict[str, torch.Tensor]:
    """A batch of prompts with one image and words; the last `ANSWER_TOKENS` are supervised."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(100, 2000, (batch_size, tokens - IMAGE_TOKENS - 3), generator=generator)
    prompt = torch.tensor([2, BOI, *[IMAGE] * IMAGE_TOKENS, EOI]).expand(batch_size, -1)
    ids = torch.cat([prompt, words], dim=1)
    labels = torch.full_like(ids, IGNORE_INDEX)
    labels[:, -ANSWER_TOKENS:] = ids[:, -ANSWER_TOKENS:]
    pixels = torch.rand(batch_size, 3, 112, 112, generator=generator) * 2 - 1
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": (ids == IMAGE).long(),
        "pixel_values": pixels,
        "labels": labels,
    }
    return {name: value.to(device) for name, value in inputs.items()}


def train_layers(model: nn.Module) -> nn.Module:
    """Train the language model's layers; freeze its embeddings, which are tied to the head, and the vision tower."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".layers." in name and "language_model" in name)
    return model.train()


def step(model: nn.Module, inputs: dict[str, Any]) -> None:
    model.zero_grad()
    model(**inputs).loss.backward()


def loss_row(pairs: int, vocabulary: int, tokens: int) -> dict[str, float]:
    """Logits at supervised positions against full logits, on one model and batch."""
    device, dtype = best_device()
    model = TheWorld(TheWorldConfig(**gemma(vocabulary, 128, 2), enable_world=False))
    train_layers(model.to(device, dtype))
    inputs = batch(2, tokens, device)

    def ours() -> None:
        step(model, {**inputs, "supervised_logits_only": True})

    def full() -> None:
        step(model, inputs)

    row = compare(ours, full, device, pairs)
    peaks = [[peak_bytes(run, device) for _ in range(3)] for run in (ours, full)]
    return {**row, **dict(zip(("ours_mb", "stock_mb"), (statistics.median(p) / 1e6 for p in peaks), strict=True))}


def world_rows(pairs: int, steps: int | None) -> dict[str, dict[str, float]]:
    """The rows "world path" and "nano step": the nano model with and without a latent cache."""
    # 1. The model, and a batch with labels
    device, _ = best_device()
    options = {} if steps is None else {"num_world_steps": steps}
    model = TheWorld.from_pretrained("nano", **options).to(device)
    encoder = model.model.world_encoder
    steps, size = model.config.num_world_steps, model.config.world_image_size
    frames = torch.rand(FRAMES, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    turn = [{"type": "image", "image": torch.rand(3, size, size)}, {"type": "text", "text": "What happens?"}]
    inputs = model.processor.apply_chat_template(
        [[{"role": "user", "content": turn}]] * FRAMES, tokenize=True, return_dict=True, return_tensors="pt"
    ).to(device)
    inputs.pop("world_pixel_values")
    labels = torch.full_like(inputs["input_ids"], IGNORE_INDEX)
    labels[:, -4:] = inputs["input_ids"][:, -4:]
    given = {**inputs, "labels": labels, "supervised_logits_only": True}
    # 2. Fill a cache, and count calls of the encoder in three steps that use it
    calls = itertools.count()
    encode = encoder.encode

    def counted(*args: Any) -> Any:
        next(calls)
        return encode(*args)

    model.train()
    with tempfile.TemporaryDirectory() as folder:
        cache = LatentCache(folder, cache_fingerprint(encoder, model.config), writable=True)
        for frame in frames:
            cache.add(content_key(frame), encoder.encode(frame[None], steps)[0])
        cache.flush()
        cache = LatentCache(folder, cache_fingerprint(encoder, model.config))
        encoder.encode = counted
        before = next(calls)
        for _ in range(3):
            step(model, {**given, "world_latents": cache.lookup(frames).to(device)})
        encoder_calls = next(calls) - before - 1
        # 3. Time both rows
        with torch.no_grad():
            path = compare(
                lambda: model.model.project_latents(cache.lookup(frames)),
                lambda: model.model.project_latents(encoder.encode_one_by_one(frames.to(device), steps)),
                device,
                pairs,
            )
        whole = compare(
            lambda: step(model, {**given, "world_latents": cache.lookup(frames).to(device)}),
            lambda: step(model, {**given, "world_pixel_values": frames.to(device)}),
            device,
            pairs,
        )
    return {"world path": {**path, "encoder_calls": encoder_calls}, "nano step": whole}


class Clock(TrainerCallback):
    """Measures the mean seconds per step, without the first step."""

    def __init__(self) -> None:
        self.ended: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        self.ended.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        return (self.ended[-1] - self.ended[0]) / (len(self.ended) - 1)


def timed(trainer: Trainer) -> float:
    """Seconds per step in one run of `trainer`."""
    clock = Clock()
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(clock)
    trainer.train()
    return clock.seconds


def trainer_row(pairs: int, tokens: int, steps: int) -> dict[str, float]:
    """Our trainer and model with the world off against the stock ones. The first of `steps` is not timed."""
    # 1. The same weights on both sides
    fields = gemma(8192, 256, 6)
    torch.manual_seed(0)
    stock = Gemma3ForConditionalGeneration(Gemma3Config(**fields))
    ours = TheWorld(TheWorldConfig(**fields, enable_world=False))
    ours.load_state_dict(stock.state_dict())
    for model in (stock, ours):
        train_layers(model)
    rows = [{name: value[0] for name, value in batch(1, tokens, torch.device("cpu")).items()}] * (2 * steps)
    # 2. The same arguments for both trainers, and runs in turn
    with tempfile.TemporaryDirectory() as folder:
        config = TrainingConfig(
            enable_world=False,
            freeze_gemma_language=False,
            output_dir=folder,
            batch_size=2,
            gradient_accumulation_steps=1,
            max_steps=steps,
            mixed_precision="bf16" if torch.accelerator.is_available() else "no",
        )

        def build(cls: Callable[..., Trainer], model: nn.Module, **own: Any) -> Trainer:
            arguments = training_arguments(config)
            arguments.save_strategy = "no"
            return cls(model, args=arguments, train_dataset=rows, **own)

        def run_ours() -> float:
            skips = {training: SkipLog(Path(folder) / "skipped.jsonl", 0, len(rows)) for training in (True, False)}
            own = {"config": config, "stage": {}, "skips": skips}
            return timed(build(TheWorldTrainer, ours, **own))

        def run_stock() -> float:
            return timed(build(Trainer, stock))

        run_ours(), run_stock()
        return paired(run_ours, run_stock, pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--vocabulary", type=int, default=GEMMA_VOCABULARY)
    parser.add_argument("--tokens", type=int, default=256, help="of a sample")
    parser.add_argument("--num_world_steps", type=int, help="future latent frames (default: the nano model's own)")
    parser.add_argument("--trainer_steps", type=int, default=11, help="of a run; every tenth logs")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    transformers_logging.set_verbosity_error()
    rows = {
        "loss": loss_row(args.pairs, args.vocabulary, args.tokens),
        **world_rows(args.pairs, args.num_world_steps),
        "trainer": trainer_row(args.pairs, args.tokens, args.trainer_steps),
    }
    if args.json:
        print(json.dumps(rows, indent=2))
        return
    device, dtype = best_device()
    name = str(dtype).removeprefix("torch.")
    print(f"{device}, {name}, {torch.get_num_threads()} threads, median of {args.pairs} pairs\n")
    print(f"{'':<14}{'ours ms':>10}{'other ms':>10}{'ratio':>8}{'ours MB':>10}{'other MB':>10}")
    for name, row in rows.items():
        memory = f"{row['ours_mb']:>10,.0f}{row['stock_mb']:>10,.0f}" if "ours_mb" in row else ""
        print(f"{name:<14}{row['ours_ms']:>10,.2f}{row['stock_ms']:>10,.2f}{row['ratio']:>8.3f}{memory}")
    print(f"\nencoder calls in three steps with the cache: {rows['world path']['encoder_calls']}")


if __name__ == "__main__":
    main()
