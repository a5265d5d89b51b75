"""Accuracy of four layouts of the world block with a frozen nano Gemma, trained alike, on validation scenes.

    python benchmarks/nano_layouts.py runs/nano

Takes the folder of a finished recipe (`theworld nano train`). All layouts start from the same aligned projector, which
was trained without prompts.
"""

import argparse
import json
from itertools import product
from pathlib import Path

import torch
from scipy.stats import binomtest

from theworld import TheWorld
from theworld.nano.asking import answer_items, draw_items
from theworld.nano.conversations import FIRST
from theworld.nano.fusion import CONVERSATIONS, stage_settings
from theworld.nano.scenes import load
from theworld.recipes.nano import run_stage
from theworld.utils.logging import configure_logging


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--items", type=int, default=300, help="questions per family")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    configure_logging()
    validation = load(args.folder / "scenes" / "validation")
    rows = {}
    for position, attention in product(("after_bos", "before_image"), ("causal", "bidirectional")):
        # 1. Train the fusion with this layout
        run = args.folder / "layouts" / f"{position}-{attention}"
        settings = stage_settings(
            "questions",
            model_name=str(args.folder / "theworld" / "align"),
            world_position=position,
            world_attention=attention,
            train_dataset_path=str(args.folder / "conversations" / CONVERSATIONS),
            latent_cache=str(args.folder / "latents"),
            max_steps=args.steps,
            output_dir=str(run),
        )
        run_stage(settings)
        # 2. Answer the questions about validation scenes
        model = TheWorld.from_pretrained(run / f"checkpoint-{args.steps}", dtype=torch.float32)
        row = {}
        for kind in ("predictive", "static"):
            items = draw_items(validation, (FIRST,), args.items, predictive=kind == "predictive")
            given = answer_items(model, model.processor, items)
            right = sum(said == item.question.answer for said, item in zip(given, items, strict=True))
            interval = binomtest(right, len(items)).proportion_ci(0.95, method="wilson")
            row[kind] = {"n": len(items), "accuracy": right / len(items), "low": interval.low, "high": interval.high}
        rows[f"{position}, {attention}"] = row
        shown = ", ".join(f"{kind} {100 * r['accuracy']:.1f} (n={r['n']})" for kind, r in row.items())
        print(f"{position:<14}{attention:<16}{shown}", flush=True)
    if args.output:
        args.output.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
