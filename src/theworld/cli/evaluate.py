"""Measure a checkpoint on a benchmark, with the arms that tell whether the world is the reason."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from theworld.constants import NANO

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image

    from theworld.evaluation.asking import EvaluationSettings
    from theworld.evaluation.records import Item
    from theworld.evaluation.run import Evaluation

HUB_IDS = {
    "blink": "BLINK-Benchmark/BLINK",
    "vsr": "cambridgeltl/vsr_zeroshot",
    "spatial_rgpt": "a8cheng/SpatialRGPT-Bench",
}
"""Where a task's data is, unless it is given."""

DEFAULTS: dict[str, Any] = {
    "task": None,
    "model": NANO,
    "arms": "all",
    "data": None,
    "image_folder": None,
    "split": None,
    "num_samples": None,
    "question_template": None,
    "scorer": "auto",
    "num_world_steps": None,
    "control": [],
    "output": "runs/evaluation",
    "latent_cache": None,
    "batch_size": 16,
    "seed": 0,
}

NUMBERS = ("num_samples", "batch_size", "seed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options; what `--config` says stands in for those that are not given."""
    parser.add_argument("--config", type=Path, help="JSON file of these options, by their names without dashes")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.add_argument_group("options, over those of the file")

    def add(*flags: str, help: str, **settings: Any) -> None:
        name = flags[0].removeprefix("--")
        default = "" if DEFAULTS[name] in (None, []) else f" (default: {DEFAULTS[name]})"
        options.add_argument(*flags, dest=name, default=argparse.SUPPRESS, help=help + default, **settings)

    add("--task", help="blink, custom, micro_world, spatial_rgpt or vsr")
    add("--model", "--model_name", help="folder or Hub id of a TheWorld checkpoint or a Gemma 3")
    add("--arms", help="all, or names of arms with commas between them")
    add("--data", help="file, folder or Hub id of the questions; micro_world without it simulates held-out scenes")
    add("--image_folder", "--image-dir", help="where relative image names are looked up")
    add("--split", help="of data that has several")
    add("--num_samples", type=int, help="ask this many questions at most")
    add("--question_template", help="prompt in place of the official one, with the row's fields in braces")
    add("--scorer", help="auto, choices (compare the answers' log-probabilities) or generate (and parse)")
    add("--num_world_steps", help="future latent frames to compare, as in 0,4; by default 0 and the model's own")
    add(
        "--control", action="append", metavar="NAME=PATH", help="a control checkpoint: gemma_tuned, random_encoder, ..."
    )
    add("--output", help="folder of predictions, metrics and report; what is there already is not asked again")
    add("--latent_cache", help="folder of world latents; by default in the output")
    add("--batch_size", type=int, help="questions asked at once")
    add("--seed", type=int, help="of the noise, the untrained projector, and whose world another item gets")


def run(args: argparse.Namespace) -> int:
    """Ask, score, report; print the tables."""
    options = {
        **DEFAULTS,
        **_config(args.config),
        **{key: value for key, value in vars(args).items() if key in DEFAULTS},
    }

    from theworld.evaluation.tasks import TASKS

    if options["task"] not in TASKS:
        named = "--task is missing" if options["task"] is None else f"--task {options['task']}"
        raise ValueError(f"{named}: expected one of {', '.join(TASKS)}")
    settings = settings_of(options)

    from theworld.evaluation.report import terminal_report, write_report
    from theworld.evaluation.run import evaluate
    from theworld.evaluation.score import write_metrics
    from theworld.utils.logging import configure_logging

    configure_logging()
    task = TASKS[options["task"]]
    evaluation = evaluate(task, settings)
    metrics = write_metrics(settings.output, task, evaluation.items.items)
    items, folder = {task.name: evaluation.items.items}, settings.source.image_folder
    page = write_report(settings.output, items, rollout_of(evaluation, settings), folder)
    if args.json:
        described = {"metrics": metrics, "not_run": evaluation.not_run, "report": str(page)}
        print(json.dumps(described, ensure_ascii=False))
        return 0
    print(terminal_report(metrics))
    for arm, reason in evaluation.not_run.items():
        print(f"not run       {arm}: {reason}")
    print(f"report        {page}")
    return 0


def settings_of(options: dict[str, Any]) -> EvaluationSettings:
    """The settings that the options say; scenes of the micro-world are simulated if there are none.

    Raises:
        ValueError: An option does not parse or is out of range.
    """
    from theworld.data.schema import SourceSettings
    from theworld.evaluation.arms import ARMS
    from theworld.evaluation.asking import EvaluationSettings

    count = options["num_samples"]
    if count is not None and count < 1:  # none would ask for all scenes
        raise ValueError(f"--num_samples {count}: expected at least 1")
    output = Path(options["output"])
    data = options["data"] or HUB_IDS.get(options["task"])
    if options["task"] == "micro_world" and data is None:
        data = str(held_out_scenes(output / "scenes", options["num_samples"]))
    folder, latents = options["image_folder"], options["latent_cache"]
    source = SourceSettings(
        path=data,
        image_folder=Path(folder) if folder else None,
        split=options["split"],
        num_samples=options["num_samples"],
        question_template=options["question_template"],
    )
    return EvaluationSettings(
        model=options["model"],
        output=output,
        source=source,
        arms=tuple(ARMS) if options["arms"] == "all" else tuple(_listed(options["arms"])),
        scorer=options["scorer"],
        num_world_steps=_steps(options["num_world_steps"]),
        controls=dict(_control(text) for text in options["control"]),
        latent_cache=Path(latents) if latents else None,
        batch_size=options["batch_size"],
        seed=options["seed"],
    )


def held_out_scenes(folder: Path, num_samples: int | None) -> Path:
    """Scenes of the test split in `folder`: those of the recipe, or as many as there are questions to ask."""
    from theworld.nano.recipe import Recipe
    from theworld.nano.scenes import generate
    from theworld.utils.imports import require

    require("nano", "pymunk")
    counts = Recipe().counts("test")
    share = min(1.0, (num_samples or math.inf) / sum(counts.values()))
    counts = {kind: math.ceil(count * share) for kind, count in counts.items()}
    path = folder / f"test-{sum(counts.values())}"
    if not path.is_dir():
        generate(path, "test", counts)
    return path


def _config(path: Path | None) -> dict[str, Any]:
    """The options of a file; keys that begin with an underscore are comments."""
    if path is None:
        return {}
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such config file")
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected a JSON object of options")
    options = {str(key): value for key, value in found.items() if not str(key).startswith("_")}
    unknown = sorted(options.keys() - DEFAULTS.keys())
    if unknown:
        raise ValueError(f"{path}: unknown option {unknown[0]!r}: expected some of {', '.join(DEFAULTS)}")
    for name in NUMBERS:
        if not isinstance(options.get(name, 0), int):
            raise ValueError(f"{path}: {name}={options[name]!r}: expected a whole number")
    return options


def _listed(value: Any) -> list[str]:
    """A list, or text with commas."""
    parts = value if isinstance(value, list) else str(value).split(",")
    return [str(part).strip() for part in parts]


def _steps(value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        return tuple(int(part) for part in _listed(value))
    except ValueError as error:
        raise ValueError(f"--num_world_steps {value}: expected whole numbers with commas, as in 0,4") from error


def _control(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals or not path:
        raise ValueError(f"--control {text}: expected NAME=PATH, as in gemma_tuned=runs/tuned")
    return name, path


def rollout_of(evaluation: Evaluation, settings: EvaluationSettings) -> Callable[[Item], list[Image.Image]] | None:
    """What the full model imagines for an item, decoded, where it ran and its pictures may be shown."""
    from functools import cache

    from theworld.analysis.guardrail import can_show
    from theworld.analysis.imagine import imagine
    from theworld.evaluation.prompts import open_images
    from theworld.evaluation.run import load
    from theworld.utils.errors import one_line
    from theworld.utils.logging import logger

    steps = evaluation.num_world_steps
    if "world" not in evaluation.arms or steps is None:
        return None
    model = cache(lambda: load(settings.model, enable_world=True, num_world_steps=steps))

    def frames(item: Item) -> list[Image.Image]:
        encoder = model().model.world_encoder
        if encoder is None or not encoder.can_decode or not can_show(encoder, model().config.cosmos_subfolder):
            return []
        try:
            return imagine(model(), open_images(item, settings.source.image_folder)[0], steps)
        except ValueError as error:  # the guardrail's refusal of one picture is no reason to go without a report
            logger.warning("item %s: %s", item.id, one_line(error))
            return []

    return frames
