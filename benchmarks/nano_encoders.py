"""Features of one forward against a rollout: accuracy on predictive and static questions, and time per image.

    theworld nano fuse runs/nano-fusions --world_encoder cosmos_features --seed 0 1 2
    python benchmarks/nano_encoders.py cosmos_features=runs/nano-fusions/weights/cosmos_features-{0,1,2}

Takes fusions of the nano base models by the key of their world encoder; several of one key are training seeds. They are
compared with the shipped fusions: the rollout (`cosmos`), and the current frame repeated (`still`). All answer the same
questions about test scenes. Times are medians for the world encoder only, in batches of 64, on one thread; the encoders
run in turn.
"""

import argparse
import json
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
from side_by_side import own_seconds

import theworld
from theworld import TheWorld
from theworld.evaluation.stats.intervals import interval
from theworld.utils.logging import configure_logging

SHIPPED = {"still": ["nano/controls/current_frame"], "cosmos": ["nano"]}
BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fusions", nargs="*", metavar="KEY=FOLDER")
    parser.add_argument("--num_samples", type=int, default=2000, help="questions")
    parser.add_argument("--data", help="folder of test scenes (default: simulated)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--work", type=Path, default=Path("runs/nano-encoders"), help="folder of the evaluations")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    configure_logging()
    torch.set_num_threads(1)
    models = {key: list(names) for key, names in SHIPPED.items()}
    for key, _, folder in (text.partition("=") for text in args.fusions):
        models.setdefault(key, []).append(folder)
    rows = {key: accuracy(key, names, args) for key, names in models.items()}
    for key, milliseconds in times({key: names[0] for key, names in models.items()}, args.rounds).items():
        rows[key]["milliseconds"] = milliseconds
    for key, row in rows.items():
        told = "".join(f" {kind} {100 * row[kind]['estimate']:.1f}," for kind in ("predictive", "static"))
        print(f"{key:<16} {row['seeds']} seeds,{told} {row['milliseconds']:.1f} ms per image", flush=True)
    if args.output:
        args.output.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def accuracy(key: str, names: list[str], args: Any) -> dict[str, Any]:
    """Accuracy by kind over all seeds with its interval, and the accuracy of each seed."""
    scores: dict[str, list[list[float]]] = {"predictive": [], "static": []}
    clusters: dict[str, list[str]] = {}
    for place, name in enumerate(names):
        settings = {"num_samples": args.num_samples, "batch_size": 50, "data": args.data}
        output = str(args.work / f"{key}-{place}")
        result = theworld.evaluate(name, "micro_world", arms="world", output=output, **settings)
        for kind, of_seeds in scores.items():
            asked = [row for row in result.predictions["world"] if row.family.startswith(kind)]
            of_seeds.append([row.score for row in asked])
            clusters[kind] = [row.cluster for row in asked]
    found: dict[str, Any] = {"seeds": len(names)}
    for kind, of_seeds in scores.items():
        one = interval(of_seeds if len(of_seeds) > 1 else of_seeds[0], clusters[kind])
        of_each = [statistics.fmean(own) for own in of_seeds]
        found[kind] = {"estimate": one.estimate, "low": one.low, "high": one.high, "n": one.n, "by_seed": of_each}
    return found


def times(models: dict[str, str], rounds: int) -> dict[str, float]:
    """Milliseconds of CPU time per image: the median over rounds in which every encoder runs once."""
    loaded = {key: TheWorld.from_pretrained(name, dtype=torch.float32).model for key, name in models.items()}
    steps = {key: model.config.num_world_steps for key, model in loaded.items()}
    side = next(iter(loaded.values())).config.world_image_shape
    pixels = torch.rand(BATCH, 3, *side) * 2 - 1
    taken: dict[str, list[float]] = {key: [] for key in loaded}
    for number in range(rounds + 1):
        for key, model in loaded.items():
            took = own_seconds(partial(model.world_encoder.encode, pixels, steps[key]), pixels.device)
            if number:  # the first loads and warms up
                taken[key].append(1000 * took / BATCH)
    return {key: statistics.median(values) for key, values in taken.items()}


if __name__ == "__main__":
    main()
