"""Time to the first answer: a new process that loads the nano model and answers, against one that only imports.

    python benchmarks/start.py                # whole processes, alternately
    python benchmarks/start.py --pairs 7 --json

The other side runs `import torch, transformers, diffusers` and uses one class of each. Times are CPU times of the
process, which other programs do not affect; `ours_wall_ms` and `stock_wall_ms` are wall times.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from side_by_side import paired

import theworld

IMAGE = Path(theworld.__file__).parent / "nano/examples/drop.png"
QUESTION = "Which bin will the ball land in?"
ANSWER = f"""
from theworld import TheWorld
model = TheWorld.from_pretrained("nano")
print(model.ask({str(IMAGE)!r}, {QUESTION!r}))
"""
IMPORTS = """
import torch, transformers, diffusers
print(torch.nn.Linear, transformers.Gemma3ForConditionalGeneration, diffusers.AutoencoderKLWan)
"""


def measure(pairs: int) -> dict[str, float]:
    """`ours_ms`, `stock_ms` and `ratio` in CPU time, and `ours_wall_ms` and `stock_wall_ms` in wall time."""
    walls: dict[str, list[float]] = {ANSWER: [], IMPORTS: []}

    def processor_seconds(code: str) -> float:
        before, started = os.times(), time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        walls[code].append(time.perf_counter() - started)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    row = paired(lambda: processor_seconds(ANSWER), lambda: processor_seconds(IMPORTS), pairs)
    named = {"ours_wall_ms": ANSWER, "stock_wall_ms": IMPORTS}
    return {**row, **{name: 1000 * statistics.median(walls[code]) for name, code in named.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    row = measure(args.pairs)
    if args.json:
        print(json.dumps(row, indent=2))
        return
    print(f"median of {args.pairs} pairs of processes\n\n{'':<12}{'CPU ms':>14}{'wall ms':>10}")
    print(f"{'answer':<12}{row['ours_ms']:>14.0f}{row['ours_wall_ms']:>10.0f}")
    print(f"{'imports':<12}{row['stock_ms']:>14.0f}{row['stock_wall_ms']:>10.0f}\n\nratio {row['ratio']:.2f}")


if __name__ == "__main__":
    main()
