"""Speed of writing, reading and verifying the latent cache, and its size on disk; on one core.

    python benchmarks/latent_cache.py             # 4,096 latents of 16 x 28 x 28 in bf16, in a temporary folder
    python benchmarks/latent_cache.py --pairs 31 --json
    python benchmarks/latent_cache.py --encode    # cost of filling it: the VAE at full width

Rows, in latents per second of wall time and of CPU time:
    write                add, checksum and flush to disk
    read                 by key, in batches of 32 in random order, every checksum verified
    read, bare           the same rows of the same shards with safetensors only, without look-up and verification
    hash                 key of a frame of 3 x 224 x 224: the additional cost of a look-up, in a data loading process
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from safetensors import safe_open
from torch.utils.flop_counter import FlopCounterMode

from theworld.data.latent_cache import LatentCache, content_key
from theworld.model.world_encoders.single_frame import posterior_mode
from theworld.utils.devices import best_device

SHAPE, FRAME, BATCH = (16, 1, 28, 28), (3, 224, 224), 32
FINGERPRINT = {"encoder": "benchmark", "dtype": "bfloat16"}


def rates(run: Callable[[], object], count: int) -> tuple[float, float]:
    """Rate of one call that handles `count` latents: per second of wall time and of CPU time."""
    clock, processor = time.perf_counter(), time.process_time()
    run()
    return count / (time.perf_counter() - clock), count / (time.process_time() - processor)


def write(folder: Path, count: int) -> list[bytes]:
    """Fill a cache; returns its keys."""
    cache = LatentCache(folder, FINGERPRINT, writable=True)
    latents = torch.randn(SHAPE).bfloat16()
    keys = [os.urandom(32) for _ in range(count)]
    for key in keys:
        cache.add(key, latents)
    cache.flush()
    return keys


def read_bare(shards: Sequence[torch.Tensor], order: Sequence[tuple[int, int]]) -> None:
    for start in range(0, len(order), BATCH):
        torch.stack([shards[shard][row] for shard, row in order[start : start + BATCH]])


def measure(folder: Path, count: int, pairs: int) -> dict[str, float]:
    """All figures by name."""
    # 1. Write the cache, and open its shards directly for comparison
    keys: list[bytes] = []
    written = rates(lambda: keys.extend(write(folder, count)), count)
    cache = LatentCache(folder, FINGERPRINT)
    shards = []
    for file in sorted(folder.glob("*/shards/*")):
        with safe_open(file, "pt") as opened:
            shards.append(opened.get_tensor("latents"))
    places = [(shard, row) for shard, latents in enumerate(shards) for row in range(len(latents))]
    frames = torch.rand(min(count, 256), *FRAME)

    def read(order: list[int]) -> None:
        for start in range(0, count, BATCH):
            cache.get([keys[index] for index in order[start : start + BATCH]])

    # 2. Time reading and hashing in turn
    figures: dict[str, list[tuple[float, float]]] = {"write": [written], "read": [], "read_bare": [], "hash": []}
    for _ in range(pairs):
        order = torch.randperm(count).tolist()
        bare_order = [places[index] for index in order]
        figures["read"].append(rates(partial(read, order), count))
        figures["read_bare"].append(rates(partial(read_bare, shards, bare_order), count))
        figures["hash"].append(rates(lambda: [content_key(frame) for frame in frames], len(frames)))
    # 3. Medians, and the size on disk
    used = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    raw = 2 * torch.Size(SHAPE).numel()
    medians = {
        f"{name}_per_{unit}": statistics.median(rate[index] for rate in found)
        for name, found in figures.items()
        for index, unit in enumerate(("second", "processor_second"))
    }
    return {**medians, "bytes_per_latent": used / count, "raw_bytes": raw, "overhead": used / count / raw - 1}


def encode_cost() -> dict[str, float | str]:
    """Operations and seconds per frame of the VAE encoder of Cosmos-Predict2 (random weights), by batch size.

    Runs on the best device: an accelerator in bf16, or one CPU core in fp32.
    """
    device, dtype = best_device()
    vae = AutoencoderKLWan().eval().requires_grad_(False).to(device, dtype)
    figures: dict[str, float | str] = {"device": str(device), "dtype": str(dtype)}
    with torch.no_grad():
        frames = torch.rand(64, 3, 1, *FRAME[1:], device=device, dtype=dtype) * 2 - 1
        with FlopCounterMode(display=False) as counter:
            begin = time.process_time()
            posterior_mode(vae, frames[:1])
        figures |= {
            "teraflop_per_frame": counter.get_total_flops() / 1e12,
            "processor_seconds_per_frame": time.process_time() - begin,
        }
        if device.type != "cpu":
            figures["device"] = torch.get_device_module(device).get_device_name(device)
            for together in (1, 8, 64):
                figures[f"seconds_per_frame_in_batches_of_{together}"] = (
                    seconds_on(device, lambda count=together: posterior_mode(vae, frames[:count])) / together
                )
    return figures


def seconds_on(device: torch.device, run: Callable[[], object], repeats: int = 20) -> float:
    """Median seconds of a call on an accelerator, after three warm-up calls."""
    found: list[float] = []
    for _ in range(3 + repeats):
        torch.accelerator.synchronize(device)
        begin = time.perf_counter()
        run()
        torch.accelerator.synchronize(device)
        found.append(time.perf_counter() - begin)
    return statistics.median(found[3:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, default=4096)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--encode", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.encode:
        print(json.dumps(encode_cost()))
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), args.latents, args.pairs)
    if args.json:
        print(json.dumps(figures, indent=2))
        return
    print(f"one core, {args.latents} latents of 16 x 28 x 28 in bf16, median of {args.pairs} runs\n")
    print(f"{'':<20}{'per second':>12}{'per CPU second':>22}")
    for name in ("write", "read", "read_bare", "hash"):
        row = (figures[f"{name}_per_second"], figures[f"{name}_per_processor_second"])
        print(f"{name.replace('_', ', '):<20}{row[0]:>12,.0f}{row[1]:>22,.0f}")
    sizes = f"{figures['bytes_per_latent']:,.0f} bytes per latent, raw {figures['raw_bytes']:,}"
    print(f"\n{sizes}: {figures['overhead']:+.2%}")


if __name__ == "__main__":
    main()
