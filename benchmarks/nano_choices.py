"""Ablations of the nano fusion: each row changes one setting (`gated` also has no alignment).

    python benchmarks/nano_choices.py runs/nano-choices --output docs/results/choices.json

Trains fusions of the shipped base models, each with one number of latent frames ahead. All have the same scenes,
conversations, steps and seeds, and answer the same questions about validation scenes. Differences are to the first row,
question by question; intervals resample questions and, with several `--seeds`, seeds. Time is that of the world encoder
alone, in batches of 64 on one thread; the encoders run in turn. If interrupted, run the same command again.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from side_by_side import own_seconds

import theworld
from theworld import TheWorld
from theworld.evaluation.result import Result
from theworld.evaluation.score import one_answer_families
from theworld.evaluation.stats.intervals import interval
from theworld.evaluation.stats.significance import compare
from theworld.nano.fusion import FUSION_CONFIG, write_conversations
from theworld.recipes.lanes import Lane, run_lanes
from theworld.recipes.nano import PATCHED, align_lane, check_seeds, prepare_fusions, question_lane, simulate
from theworld.recipes.nano_config import NanoConfig
from theworld.utils.errors import TheWorldError
from theworld.utils.folders import locked
from theworld.utils.io import write_json
from theworld.utils.logging import configure_logging
from theworld.utils.settings import read_values

KINDS = ("predictive", "static")
BATCH = 64
STEPS = FUSION_CONFIG["num_world_steps"]


@dataclass(frozen=True)
class Choice:
    """A fusion, by what differs from the shipped one.

    Args:
        keys: Keys of the training config of the question stage.
        aligned: Settings of the new fusion that is aligned.
        fresh: Settings of a new fusion that is trained on questions without an alignment.
    """

    choice: str
    value: str
    keys: Mapping[str, Any] = field(default_factory=dict)
    encoder: str = "cosmos"
    aligned: Mapping[str, Any] = field(default_factory=dict)
    fresh: Mapping[str, Any] | None = None

    @property
    def title(self) -> str:
        return f"{self.choice}: {self.value}"

    @property
    def alignment(self) -> str:
        """Name of the alignment, which tells all its settings; choices with the same one share it."""
        return named(self.encoder, PATCHED.get(self.encoder, {}), self.aligned)

    @property
    def name(self) -> str:
        """Name of the run, which tells all its settings."""
        start = self.alignment if self.fresh is None else named(f"fresh-{self.encoder}", self.fresh)
        return named(start, self.keys)


def named(start: str, *settings: Mapping[str, Any]) -> str:
    merged = {name: value for some in settings for name, value in some.items()}
    return "-".join([start, *(f"{name}-{value}" for name, value in merged.items())])


AHEAD = [Choice("latent frames ahead", f"{steps}", {"num_world_steps": steps}) for steps in range(STEPS)]

# fmt: off
CHOICES = (
    Choice("as shipped", f"rollout, {STEPS} frames, before the image, bidirectional"),
    *AHEAD,
    Choice("denoising steps", "6", {"world_inference_steps": 6}),
    Choice("world encoder", "features of one forward", encoder="cosmos_features"),
    Choice("world encoder", "features, one token a patch", encoder="cosmos_features", aligned={"world_unpooling": 1}),
    Choice("world encoder", "current frame, repeated", encoder="still"),
    Choice("position", "after BOS", {"world_position": "after_bos"}),
    Choice("attention", "causal", {"world_attention": "causal"}),
    Choice("alignment", "none", fresh={}),
    Choice("fusion", "gated, without alignment", fresh={"fusion": "gated"}),
)
# fmt: on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--choices",
        nargs="*",
        default=[],
        help="rows in addition to the first, such as position or 'position: after BOS' (default: all)",
    )
    parser.add_argument("--config", type=Path, help="JSON file with keys of the nano recipe")
    parser.add_argument("--align_steps", type=int, help="(default: 5000)")
    parser.add_argument("--question_steps", type=int, help="(default: 300)")
    parser.add_argument("--labels", type=int, default=500, help="scenes of each kind to train on questions about")
    parser.add_argument(
        "--seeds", nargs="+", type=int, help="of initial weights and of the order of the data (default: the config's)"
    )
    parser.add_argument("--workers", type=int, help="number of parallel trainings")
    parser.add_argument("--num_samples", type=int, default=2000, help="questions")
    parser.add_argument("--kind", choices=KINDS, help="ask only questions of this kind")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds of the encoders")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds {args.rounds}: expected at least 1")
    known = [*dict.fromkeys(name for one in CHOICES for name in (one.choice, one.title))]
    if unknown := [name for name in args.choices if name not in known]:
        parser.error(f"--choices {unknown}: expected some of {', '.join(known)}")
    if args.num_samples < 1:
        parser.error(f"--num_samples {args.num_samples}: expected at least 1")
    if args.output and (args.output.is_dir() or not args.output.parent.is_dir()):
        parser.error(f"--output {args.output}: expected a file in an existing folder")
    configure_logging()
    try:
        config = chosen_config(args)
        most = min(config.counts("fusion").values())
        if not 1 <= args.labels <= most:
            parser.error(f"--labels {args.labels}: expected 1 to {most}, the scenes of `fusion`")
        with locked(args.folder, is_main=True, option="folder"):
            measure(args, config)
    except TheWorldError as error:
        parser.error(str(error))


def chosen_config(args: argparse.Namespace) -> NanoConfig:
    """The config of the first seed; fills in `args.seeds`."""
    read = read_values(args.config) if args.config else {}
    given = {name: vars(args)[name] for name in ("align_steps", "question_steps", "workers")}
    given["seed"] = args.seeds[0] if args.seeds else None
    given = {name: value for name, value in given.items() if value is not None}
    config = NanoConfig.from_dict({"question_steps": 300} | read | given)
    args.seeds = args.seeds or [config.seed]
    check_seeds("seeds", args.seeds)
    return config


def measure(args: argparse.Namespace, config: NanoConfig) -> None:
    asked_for = {*args.choices}
    chosen = [one for one in CHOICES if one is CHOICES[0] or not asked_for or asked_for & {one.choice, one.title}]
    # 1. Alignments, each once, then questions
    prepare_fusions(args.folder, config)
    simulate(args.folder, "validation", config)
    conversations = args.folder / f"conversations-{args.labels}"
    if not conversations.is_dir():
        scenes = args.folder / "scenes" / "fusion"
        write_conversations(scenes, conversations, labels=args.labels, seed=config.seed)
    seeded = [replace(config, seed=seed) for seed in args.seeds]
    aligned = {one.alignment: one for one in chosen if one.fresh is None}.values()
    run_lanes([alignment(args.folder, one, own, config) for own in seeded for one in aligned], config.workers)
    trained = [[Run(args.folder, one, own, config, args.labels) for own in seeded] for one in chosen]
    run_lanes([run.questions(conversations) for runs in trained for run in runs], config.workers)
    # 2. The same questions to all
    asked = {"data": str(args.folder / "scenes" / "validation"), "num_samples": args.num_samples, "batch_size": 50}
    asked |= {"latent_cache": str(args.folder / "latents"), "families": args.kind}
    results = [[run.evaluate(**asked) for run in runs] for runs in trained]
    # 3. One row each
    rows: list[dict[str, Any]] = []
    taken = times([runs[0].model for runs in trained], args.rounds)
    for one, own, milliseconds in zip(chosen, results, taken, strict=True):
        row = {"choice": one.choice, "value": one.value, "milliseconds": milliseconds}
        kinds = [args.kind] if args.kind else KINDS
        rows.append(row | {kind: accuracy(own, results[0], kind) for kind in kinds})
        told = ", ".join(f"{kind} {100 * rows[-1][kind]['estimate']:.1f}" for kind in kinds)
        print(f"{one.title}: {told}, {milliseconds:.1f} ms an image", flush=True)
    if args.output:
        steps = {name: getattr(config, name) for name in ("align_steps", "question_steps")}
        write_json(args.output, steps | {"seeds": args.seeds, "labels": args.labels, "rows": rows})


def of_seed(name: str, config: NanoConfig, first: NanoConfig) -> str:
    """Name of a run of a seed; those of the first seed have no suffix."""
    return name if config.seed == first.seed else f"{name}-seed-{config.seed}"


def alignment(folder: Path, one: Choice, config: NanoConfig, first: NanoConfig) -> Lane:
    return align_lane(folder, config, of_seed(one.alignment, config, first), one.encoder, **one.aligned)


@dataclass(frozen=True)
class Run:
    """The training of a choice with one seed, on questions about `labels` scenes of each kind."""

    folder: Path
    one: Choice
    config: NanoConfig
    first: NanoConfig  # the config of the first seed
    labels: int

    @property
    def name(self) -> str:
        return of_seed(f"{self.one.name}-{self.labels}-labels", self.config, self.first)

    @property
    def model(self) -> Path:
        return self.folder / "weights" / self.name

    def questions(self, conversations: Path) -> Lane:
        """The question stage, from the alignment of the choice's encoder or from random weights."""
        keys: dict[str, Any] = {"conversations": conversations, "num_world_steps": STEPS, "train_world_steps": None}
        keys |= self.one.keys
        if self.one.fresh is None:
            start = self.folder / of_seed(self.one.alignment, self.config, self.first) / "align"
            return question_lane(self.folder, self.config, self.name, start, **keys)
        start = align_lane(self.folder, self.config, self.name, self.one.encoder, **self.one.fresh)[:1]
        return [*start, *question_lane(self.folder, self.config, self.name, self.folder / self.name / "start", **keys)]

    def evaluate(self, **asked: Any) -> Result:
        output = self.folder / "results" / (f"{asked['families']}-{self.name}" if asked["families"] else self.name)
        return theworld.evaluate(self.model, "micro_world", arms="world", output=str(output), **asked)


def accuracy(results: Sequence[Result], bases: Sequence[Result], kind: str) -> dict[str, Any]:
    """Share of right answers with its interval and, unless these are the bases themselves, the paired difference.

    Both have one result per seed. `by_seed` are the shares of each.
    """
    told = bases[0].predictions["world"]
    counted = {row.family for row in told if row.family.startswith(kind)} - one_answer_families(told)
    if not counted:
        raise TheWorldError(f"no {kind} question with several answers among {len(told)}: raise --num_samples")
    clusters = [row.cluster for row in told if row.family in counted]
    scores, others = (
        [[row.score for row in of.predictions["world"] if row.family in counted] for of in some]
        for some in (results, bases)
    )
    own = interval(scores, clusters)
    found: dict[str, Any] = {"n": own.n, "estimate": own.estimate, "low": own.low, "high": own.high}
    found["by_seed"] = [fmean(one) for one in scores]
    if results is not bases:
        compared = compare(scores, others, clusters)
        found["to_first"] = {key: compared[key] for key in ("difference", "low", "high")}
    return found


def times(models: list[Path], rounds: int) -> list[float]:
    """Milliseconds of CPU time per image of each encoder: the median over `rounds` in which every one runs once."""
    torch.set_num_threads(1)
    loaded = [TheWorld.from_pretrained(path, dtype=torch.float32).model for path in models]
    pixels = torch.rand(BATCH, 3, *loaded[0].config.world_image_shape) * 2 - 1
    taken: list[list[float]] = [[] for _ in loaded]
    for number in range(rounds + 1):
        for model, own in zip(loaded, taken, strict=True):
            encode = partial(model.world_encoder.encode, pixels, model.config.num_world_steps)
            took = own_seconds(encode, pixels.device)
            if number:  # the first warms up
                own.append(1000 * took / BATCH)
    return [median(own) for own in taken]


if __name__ == "__main__":
    main()
