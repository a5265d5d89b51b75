"""The nano world: simulate its scenes and train its models."""

import argparse
from pathlib import Path
from typing import Any

from theworld.utils.errors import TheWorldError

from .loading import add_json, report

ENCODED_TOGETHER = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands and their options."""
    jobs = parser.add_subparsers(dest="job", required=True, metavar="JOB")

    scenes = jobs.add_parser("scenes", help="simulate scenes and write them, and questions about them, to a folder")
    scenes.add_argument("folder", type=Path)
    scenes.add_argument("--split", default="train", choices=("train", "validation", "fusion", "test"))
    for kind, count in (("drop", 100), ("race", 50), ("stack", 50)):
        scenes.add_argument(f"--{kind}", type=int, default=count, help=f"scenes of this kind (default {count})")

    train = jobs.add_parser("train", help="run the whole recipe, or what is left of it")
    train.add_argument("folder", type=Path, nargs="?", default=Path("runs/nano"))
    train.add_argument("--smoke", action="store_true", help="a few steps of every stage")

    # No character begins an option here: whatever options the old command had, its successor is named
    gone = jobs.add_parser("evaluate", prefix_chars="\0", add_help=False)
    gone.add_argument("options", nargs="*")

    for job in (scenes, train):
        job.add_argument("--workers", type=int, default=2, help="processes that simulate")
        add_json(job)


def run(args: argparse.Namespace) -> int:
    """Run the sub-command."""
    from theworld.utils.imports import require
    from theworld.utils.logging import configure_logging

    if args.job == "evaluate":
        raise TheWorldError("theworld nano evaluate is now theworld evaluate --task micro_world --arms all")
    for module in ("pymunk", "scipy"):
        require("nano", module)
    configure_logging()
    return {"scenes": _scenes, "train": _train}[args.job](args)


def _scenes(args: argparse.Namespace) -> int:
    from theworld.nano.scenes import generate

    counts = {kind: getattr(args, kind) for kind in ("drop", "race", "stack")}
    made = generate(args.folder, args.split, counts, args.workers)
    return report(args, {"folder": str(args.folder), "scenes": len(made)}, f"{len(made)} scenes in {args.folder}")


def _train(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from theworld.nano.recipe import SMOKE, Recipe, train_nano
    from theworld.utils.imports import require

    for module in ("datasets", "pyarrow", "tensorboard"):  # the fusion's, which comes after an hour
        require("train", module)
    weights = train_nano(args.folder, run_stage, SMOKE if args.smoke else replace(Recipe(), workers=args.workers))
    return report(args, {"weights": str(weights)}, f"weights in {weights}")


def run_stage(keys: dict[str, Any]) -> None:
    """Train what a config says; the recipe calls it in processes of its own."""
    from theworld.training.config import TrainingConfig
    from theworld.training.precompute import precompute
    from theworld.training.run import train

    config = TrainingConfig.from_dict(keys)
    if config.objective == "align":  # the questions are about the first frames of the same clips
        precompute(config, together=ENCODED_TOGETHER)
    train(config)
