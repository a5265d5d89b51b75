"""The nano world: simulate its scenes, train its models, and fusions of the shipped ones."""

import argparse
from pathlib import Path
from typing import Any

from theworld.utils.errors import TheWorldError

from .loading import add_json, report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands and their options."""
    jobs = parser.add_subparsers(dest="job", required=True, metavar="JOB")

    scenes = jobs.add_parser("scenes", help="simulate scenes and write them, and questions about them, to a folder")
    scenes.add_argument("folder", type=Path)
    scenes.add_argument("--split", default="train", choices=("train", "validation", "fusion", "test"))
    for kind, count in (("drop", 100), ("race", 50), ("stack", 50)):
        scenes.add_argument(f"--{kind}", type=int, default=count, help=f"scenes of this kind (default {count})")

    train = jobs.add_parser("train", help="run the whole recipe, or resume it")
    train.add_argument("folder", type=Path, nargs="?", default=Path("runs/nano"))

    fuse = jobs.add_parser("fuse", help="train fusions of the shipped base models, or resume it")
    fuse.add_argument("folder", type=Path, nargs="?", default=Path("runs/nano-fusions"))
    encoders = "world encoders, one fusion each (default: cosmos)"
    fuse.add_argument("--world_encoder", nargs="+", default=["cosmos"], metavar="KEY", help=encoders)
    seeds = "training seeds, one fusion of every encoder each (default: 0)"
    fuse.add_argument("--seed", type=int, nargs="+", default=[0], metavar="SEED", help=seeds)

    for job in (train, fuse):
        job.add_argument("--smoke", action="store_true", help="a few steps of every stage")

    # No character begins an option here, so the old command with any options names its successor
    gone = jobs.add_parser("evaluate", prefix_chars="\0", add_help=False)
    gone.add_argument("options", nargs="*")

    for job in (scenes, train, fuse):
        job.add_argument("--workers", type=int, default=2, help="processes that simulate")
        add_json(job)


def run(args: argparse.Namespace) -> int:
    """Run the sub-command."""
    from theworld.utils.imports import require
    from theworld.utils.logging import configure_logging

    if args.job == "evaluate":
        raise TheWorldError("theworld nano evaluate is now theworld evaluate --task micro_world --arms all")
    needed = [("nano", "pymunk")]
    if args.job != "scenes":  # needed by the fusion stage, which may start after an hour
        needed += [("train", module) for module in ("datasets", "pyarrow", "tensorboard")]
    for extra, module in needed:
        require(extra, module)
    configure_logging()
    return {"scenes": _scenes, "train": _train, "fuse": _fuse}[args.job](args)


def _scenes(args: argparse.Namespace) -> int:
    from theworld.nano.scenes import generate

    counts = {kind: getattr(args, kind) for kind in ("drop", "race", "stack")}
    made = generate(args.folder, args.split, counts, args.workers)
    return report(args, {"folder": str(args.folder), "scenes": len(made)}, f"{len(made)} scenes in {args.folder}")


def _train(args: argparse.Namespace) -> int:
    from theworld.recipes.nano import train_nano

    weights = train_nano(args.folder, _recipe(args))
    return report(args, {"weights": str(weights)}, f"weights in {weights}")


def _fuse(args: argparse.Namespace) -> int:
    from theworld.model.components import check_choice
    from theworld.recipes.nano import train_fusions

    for encoder in args.world_encoder:
        check_choice("world_encoder", encoder)
    folders = [str(path) for path in train_fusions(args.folder, args.world_encoder, args.seed, _recipe(args))]
    return report(args, {"weights": folders}, "\n".join(f"weights in {folder}" for folder in folders))


def _recipe(args: argparse.Namespace) -> Any:
    """The sizes of the stages."""
    from dataclasses import replace

    from theworld.recipes.nano import SMOKE, Recipe

    return SMOKE if args.smoke else replace(Recipe(), workers=args.workers)
