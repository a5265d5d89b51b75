"""Calibration of the nano model's answers from one rollout, and from the mean of several.

    python benchmarks/futures.py SCENES                 # SCENES is a folder of `theworld nano scenes`
    python benchmarks/futures.py SCENES --num_futures 8 --output futures.json

Every predictive question is answered from each of the rollouts alone, and from the mean of their probabilities. The
mean of a score over the rollouts is what one rollout is expected to reach, without the chance of one seed.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

from theworld import TheWorld
from theworld.data.schema import SourceSettings
from theworld.evaluation.ask.arms import ARMS
from theworld.evaluation.ask.prompts import PromptBuilder
from theworld.evaluation.ask.scorers import choices, joined
from theworld.evaluation.ask.worlds import encode_worlds
from theworld.evaluation.score import scored
from theworld.evaluation.stats.calibration import calibration
from theworld.evaluation.stats.intervals import bootstrap
from theworld.evaluation.store.predictions import Item, Prediction
from theworld.evaluation.tasks.micro_world import MICRO_WORLD
from theworld.utils.devices import best_device
from theworld.utils.errors import TheWorldError, one_line

BATCH = 50
MEASURES = {"brier": "Brier score", "accuracy": "accuracy in %", "calibration_error": "calibration error"}


def answer(model: TheWorld, items: tuple[Item, ...], futures: int, cache: Path) -> list[list[Prediction]]:
    """The predictions of each rollout, and last those of their mean."""
    steps = model.config.num_world_steps
    worlds = [encode_worlds(model, items, None, cache, BATCH, future=future) for future in range(futures)]
    builder, rows = PromptBuilder(model, steps), [list[Prediction]() for _ in range(futures + 1)]
    for start in range(0, len(items), BATCH):
        batch, reasons = builder.build(items[start : start + BATCH])
        assert batch is not None
        assert not reasons
        told = [choices(model, batch, one.tokens(batch.items, ARMS["world"], steps)) for one in worlds]
        told.append([joined(answers) for answers in zip(*told, strict=True)])
        for own, answers in zip(rows, told, strict=True):
            found = zip(batch.items, answers, strict=True)
            own += [scored(MICRO_WORLD, item, Prediction.of(item, **vars(one))) for item, one in found]
    return rows


def compared(rows: list[list[Prediction]]) -> dict[str, Any]:
    """Each measure of one rollout, of the mean, and the difference with its 95 % interval over scenes."""
    *single, mean = ([row.figures["brier"] for row in own] for own in rows)
    *right, joint = ([row.score for row in own] for own in rows)
    clusters, found = [row.cluster for row in rows[0]], dict[str, Any]()
    for name, one, several in (("brier", single, mean), ("accuracy", right, joint)):
        usual = np.mean(one, axis=0)
        told = bootstrap(several, usual.tolist(), clusters)
        figures = {"one": float(usual.mean()), "several": float(np.mean(several))}
        found[name] = {**figures, "difference": told.estimate, "low": told.low, "high": told.high}
    *errors, error = (curve["error"] for own in rows if (curve := calibration(own)))
    found["calibration_error"] = {"one": float(np.mean(errors)), "several": error}
    return {"n": len(rows[0]), "futures": len(rows) - 1, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path)
    parser.add_argument("--num_futures", type=int, default=8)
    parser.add_argument("--num_samples", type=int, help="maximum number of questions")
    parser.add_argument("--output", type=Path, help="JSON file for the table")
    args = parser.parse_args()
    if args.num_futures < 2:
        parser.error(f"--num_futures {args.num_futures}: expected at least 2")
    transformers_logging.set_verbosity_error()
    device, dtype = best_device()
    try:
        asked = MICRO_WORLD.load(SourceSettings(path=str(args.scenes))).items
    except (TheWorldError, OSError) as error:
        parser.error(one_line(error))
    items = tuple(item for item in asked if item.family.startswith("predictive"))[: args.num_samples]
    if not items:
        parser.error(f"{args.scenes}: no predictive questions to ask")
    model = TheWorld.from_pretrained("nano", dtype=dtype, device_map={"": device})
    with tempfile.TemporaryDirectory() as cache, torch.no_grad():
        found = compared(answer(model, items, args.num_futures, Path(cache)))
    if args.output:
        args.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"{found['n']} predictive questions\n")
    print(f"{'':<20}{'1 rollout':>12}{f'{args.num_futures} rollouts':>13}{'difference':>12}")
    for name, label in MEASURES.items():
        row, scale = found[name], 100 if name == "accuracy" else 1
        told = f"{scale * (row['several'] - row['one']):>+12.4f}"
        if "low" in row:
            told += f"  [{scale * row['low']:+.4f}, {scale * row['high']:+.4f}]"
        print(f"{label:<20}{scale * row['one']:>12.4f}{scale * row['several']:>13.4f}{told}")


if __name__ == "__main__":
    main()
