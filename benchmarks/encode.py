"""Encodes single frames with the full-size VAE (126.9 M, random weights): ours against `AutoencoderKLWan.encode`.

    python benchmarks/encode.py               # one core, fp32; or one GPU, bf16
    python benchmarks/encode.py --pairs 15 --threads 2 --json

Both sides run alternately in one process. Prints medians of both, the median of paired ratios, and the largest
difference of the latents. On one core it measures CPU time, which other programs do not affect.
"""

import argparse
import json

import torch
from diffusers import AutoencoderKLWan
from side_by_side import own_seconds, paired

from theworld.model.world_encoders.single_frame import posterior_mode, runs_as_image
from theworld.utils.devices import best_device
from theworld.utils.logging import quiet_third_party


def measure(size: int, batch: int, pairs: int, threads: int, base_dim: int) -> dict[str, float | str]:
    """Milliseconds of a batch on both sides, `ratio` of ours to stock, and `difference` of the latents."""
    torch.set_num_threads(threads)
    device, dtype = best_device()
    torch.manual_seed(0)
    with quiet_third_party():  # diffusers warns about casting after loading
        vae = AutoencoderKLWan(base_dim=base_dim).to(device, dtype).eval().requires_grad_(False)
    assert runs_as_image(vae)
    frames = torch.rand(batch, 3, 1, size, size).to(device, dtype) * 2 - 1

    def ours() -> torch.Tensor:
        return posterior_mode(vae, frames)

    def stock() -> torch.Tensor:
        return vae.encode(frames, return_dict=False)[0].mode()

    with torch.no_grad():
        difference = (ours().float() - stock().float()).abs().max().item()
        row = paired(lambda: own_seconds(ours, device), lambda: own_seconds(stock, device), pairs)
    rate = {"ours_per_second": 1000 * batch / row["ours_ms"], "stock_per_second": 1000 * batch / row["stock_ms"]}
    return {**row, **rate, "times": 1 / row["ratio"], "difference": difference, "device": str(device)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--base_dim", type=int, default=96, help="width; 96 is full size")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    row = measure(args.size, args.batch, args.pairs, args.threads, args.base_dim)
    if args.json:
        print(json.dumps(row, indent=2))
        return
    print(
        f"{row['device']}, {args.threads} threads, {args.batch} frames of {args.size} px, median of {args.pairs} pairs"
    )
    print(f"ours {row['ours_per_second']:.2f}, AutoencoderKLWan.encode {row['stock_per_second']:.2f} images per second")
    print(f"{row['times']:.2f} times as fast; largest difference of a latent {row['difference']:.1e}")


if __name__ == "__main__":
    main()
