"""The nano world: simulate its scenes, train its models, measure the shipped one."""

import argparse
from pathlib import Path
from typing import Any

from theworld.constants import NANO

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

    evaluate = jobs.add_parser("evaluate", help="held-out accuracy of the model and its controls")
    evaluate.add_argument("--model", default=NANO)
    evaluate.add_argument("--control", help="the fusion trained alike on the current frame (default: beside the model)")
    evaluate.add_argument("--scenes", type=Path, default=Path("runs/nano/scenes"), help="simulated there if missing")
    evaluate.add_argument("--split", default="test", choices=("validation", "test"))
    evaluate.add_argument("--predictive", type=int, default=1000, help="questions per predictive family")
    evaluate.add_argument("--static", type=int, default=500, help="questions per static family")
    evaluate.add_argument("--probes", action="store_true", help="also probe the outcome in latents and rollouts (slow)")
    evaluate.add_argument("--output", type=Path, help="write the figures to this JSON file as well")

    for job in (scenes, train, evaluate):
        job.add_argument("--workers", type=int, default=2, help="processes that simulate")
        add_json(job)


def run(args: argparse.Namespace) -> int:
    """Run the sub-command."""
    from theworld.utils.imports import require
    from theworld.utils.logging import configure_logging

    for module in ("pymunk", "scipy"):
        require("nano", module)
    configure_logging()
    return {"scenes": _scenes, "train": _train, "evaluate": _evaluate}[args.job](args)


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


def _evaluate(args: argparse.Namespace) -> int:
    from theworld.nano.evaluate import control_of, evaluate_nano, held_out_scenes, load_for_evaluation, results_text
    from theworld.nano.probe import probe_model
    from theworld.utils.io import write_json

    scenes = held_out_scenes(args.scenes, args.split, args.workers)
    model = load_for_evaluation(args.model)
    control = load_for_evaluation(args.control or control_of(args.model))
    results = evaluate_nano(scenes, model, control, per_predictive=args.predictive, per_static=args.static)
    if args.probes:
        results["probes"] = probe_model(model, held_out_scenes(args.scenes, "train", args.workers), scenes)
    if args.output:
        write_json(args.output, results)
    return report(args, results, results_text(results))
