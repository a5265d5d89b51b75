"""The nano world: simulate scenes, train the nano models or fusions of the shipped ones, run the evidence tests."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from theworld.utils.errors import TheWorldError
from theworld.utils.settings import keys

from .loading import add_json, add_key, report

if TYPE_CHECKING:
    from theworld.recipes.nano_config import NanoConfig

SCENES = 50
FOLDER = "output folder (default: %(default)s)"
OF_FUSIONS = ("fusion", "align_steps", "align_learning_rate", "question_steps", "question_learning_rate", "workers",
              "device")  # fmt: skip
"""Keys of the nano recipe that concern fusions of the shipped base models."""
OF_EVIDENCE = (*OF_FUSIONS, "validation", "test", "compile")
"""Keys of the nano recipe that concern the experiment: its fusions, what they are asked about, and other dynamics."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands and their options."""
    from theworld.nano.scenes import SIZES, SPLITS
    from theworld.recipes.nano_config import NanoConfig

    jobs = parser.add_subparsers(dest="job", required=True, metavar="JOB")

    scenes = jobs.add_parser("scenes", help="simulate scenes and write them, and questions about them, to a folder")
    scenes.add_argument("folder", type=Path, help="output folder")
    scenes.add_argument(
        "--split", default="train", choices=tuple(SPLITS), help="split whose seeds are used (default: train)"
    )
    for kind in SIZES["train"]:
        told = f"scenes of this kind (default 0, or {SCENES} of every kind if no number is given)"
        scenes.add_argument(f"--{kind}", type=int, help=told)
    scenes.add_argument("--workers", type=int, default=2, help="processes that simulate")

    train = jobs.add_parser("train", help="run the whole recipe; resumes if interrupted")
    train.add_argument("folder", type=Path, nargs="?", default=Path("runs/nano"), help=FOLDER)

    fuse = jobs.add_parser("fuse", help="train fusions of the shipped base models; resumes if interrupted")
    fuse.add_argument("folder", type=Path, nargs="?", default=Path("runs/nano-fusions"), help=FOLDER)
    encoders = "world encoders, one fusion each (default: cosmos)"
    fuse.add_argument("--world_encoder", nargs="+", default=["cosmos"], metavar="KEY", help=encoders)
    seeds = "training seeds, one fusion of every encoder each (default: the recipe's)"
    fuse.add_argument("--seed", type=int, nargs="+", metavar="SEED", help=seeds)

    evidence = jobs.add_parser(
        "evidence", help="measure whether answers follow from the rollout; resumes if interrupted"
    )
    evidence.add_argument("folder", type=Path, nargs="?", default=Path("runs/nano"), help=FOLDER)
    evidence.add_argument("--quick", action="store_true", help="one seed, fewer labels and scenes: minutes, not hours")
    seeds = "training seeds of fusions and controls (default: 0 1 2 3 4; with --quick: 0)"
    evidence.add_argument("--seeds", type=int, nargs="+", metavar="SEED", help=seeds)
    counts = "numbers of labelled scenes of a kind (default: 50 100 250 500 1000 2000; with --quick: 50 200 400)"
    evidence.add_argument("--curve", type=int, nargs="+", metavar="LABELS", help=counts)
    dynamics = "folders of dynamics of other seeds, each with `transformer`; fusions of each are trained"
    evidence.add_argument("--dynamics", type=Path, nargs="+", default=[], metavar="FOLDER", help=dynamics)
    early = "folders of weaker dynamics for the dose-response, each with `transformer`, such as early checkpoints"
    evidence.add_argument("--checkpoints", type=Path, nargs="+", default=[], metavar="FOLDER", help=early)

    for job, names in ((train, tuple(keys(NanoConfig))), (fuse, OF_FUSIONS), (evidence, OF_EVIDENCE)):
        files = job.add_mutually_exclusive_group()
        files.add_argument("--config", help="JSON file of keys of the recipe that differ from the defaults")
        if job is not evidence:  # too few scenes for it
            files.add_argument("--smoke", action="store_true", help="a few steps of every stage")
        group = job.add_argument_group("keys of the recipe, over those of the file")
        for name in names:
            add_key(group, keys(NanoConfig)[name])

    # No character begins an option here, so the old command with any options names its successor
    gone = jobs.add_parser("evaluate", prefix_chars="\0", add_help=False)
    gone.add_argument("options", nargs="*")

    for job in (scenes, train, fuse, evidence):
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
    if args.job == "evidence":
        needed += [("eval", module) for module in ("matplotlib", "scipy", "sklearn", "statsmodels")]
    for extra, module in needed:
        require(extra, module)
    configure_logging()
    return {"scenes": _scenes, "train": _train, "fuse": _fuse, "evidence": _evidence}[args.job](args)


def _scenes(args: argparse.Namespace) -> int:
    from theworld.nano.scenes import SIZES, generate

    given = {kind: vars(args)[kind] for kind in SIZES["train"] if vars(args)[kind] is not None}
    counts = given or dict.fromkeys(SIZES["train"], SCENES)
    made = generate(args.folder, args.split, counts, args.workers)
    return report(args, {"folder": str(args.folder), "scenes": len(made)}, f"{len(made)} scenes in {args.folder}")


def _train(args: argparse.Namespace) -> int:
    config = _config(args)
    from theworld.recipes.nano import train_nano

    weights = train_nano(args.folder, config)
    return report(args, {"weights": str(weights)}, f"weights in {weights}")


def _fuse(args: argparse.Namespace) -> int:
    config = _config(args, OF_FUSIONS)
    from theworld.model.components import check_choice
    from theworld.recipes.nano import train_fusions

    for encoder in args.world_encoder:
        check_choice("world_encoder", encoder)
    folders = [str(path) for path in train_fusions(args.folder, args.world_encoder, args.seed or [config.seed], config)]
    return report(args, {"weights": folders}, "\n".join(f"weights in {folder}" for folder in folders))


def _evidence(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from theworld.recipes.evidence import QUICK, EvidenceSettings, gather_evidence
    from theworld.recipes.nano_config import QUICK_CONFIG

    config = _config(args, OF_EVIDENCE, QUICK_CONFIG if args.quick else None)
    chosen = QUICK if args.quick else EvidenceSettings()
    settings = replace(
        chosen,
        seeds=tuple(args.seeds or chosen.seeds),
        curve=tuple(args.curve or chosen.curve),
        dynamics=tuple(args.dynamics),
        checkpoints=tuple(args.checkpoints),
        config=config,
    )
    evidence = gather_evidence(args.folder, settings)
    claims = [
        f"{'holds' if row['holds'] else 'does not hold'}: {row['claim']}. {row['found']}" for row in evidence["claims"]
    ]
    return report(args, evidence, *claims, f"evidence in {args.folder / 'evidence.json'}")


def _config(args: argparse.Namespace, names: Iterable[str] | None = None, default: Path | None = None) -> "NanoConfig":
    """The config file, that of the smoke test, or `default`, with the options of these names (all) over its keys."""
    from theworld.recipes.nano_config import SMOKE, NanoConfig

    known = keys(NanoConfig)
    given = {name: known[name].parse(vars(args)[name]) for name in names or known if name in args}
    path = SMOKE if vars(args).get("smoke") else default if args.config is None else args.config
    return NanoConfig.from_dict(given) if path is None else NanoConfig.from_file(path, given)
