"""Measure a checkpoint on a benchmark, with the arms that tell whether the world is the reason."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from theworld.constants import NANO
from theworld.utils.errors import TheWorldError, brief
from theworld.utils.settings import keys, nearest, read_values, setting

from .loading import add_json, add_key, report

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image

    from theworld.evaluation.ask.asker import EvaluationSettings
    from theworld.evaluation.run import Evaluation
    from theworld.evaluation.store.predictions import Item

HUB_IDS = {
    "blink": "BLINK-Benchmark/BLINK",
    "vsr": "cambridgeltl/vsr_zeroshot",
    "spatial_rgpt": "a8cheng/SpatialRGPT-Bench",
}
"""Where a task's data is, unless it is given."""


# fmt: off
@dataclass(kw_only=True)
class Options:
    """The options of the command, and the keys of its config file."""

    task: str | None = setting(None, "blink, custom, micro_world, spatial_rgpt or vsr.")
    model: str = setting(NANO, "Folder or Hub id of a TheWorld checkpoint or a Gemma 3.", low=1)
    arms: str | list[str] = setting("all", "Names of arms, with commas between them, or all.")
    data: str | None = setting(
        None, "File, folder or Hub id of the questions.", unset="the task's, for micro_world simulated")
    image_folder: str | None = setting(None, "Folder of relative image names.")
    split: str | None = setting(None, "Split to read where the data has several.")
    num_samples: int | None = setting(None, "Questions to ask at most.")
    question_template: str | None = setting(None, "Prompt with the row's fields in braces.", unset="the task's")
    scorer: str = setting("auto", "auto, choices (compare the answers' log-probabilities) or generate (and parse).")
    num_world_steps: str | int | list[int] | None = setting(
        None, "Future latent frames to compare, as in 0,4.", unset="0 and the model's own")
    control: list[str] | None = setting(
        None, "A control checkpoint as NAME=PATH, once for each: gemma_tuned, random_encoder, ...")
    output: str = setting("runs/evaluation", "Folder of predictions, metrics and report; its answers are not repeated.")
    latent_cache: str | None = setting(None, "Folder of world latents.", unset="in the output folder")
    batch_size: int = setting(16, "Questions asked at once.", low=1)
    seed: int = setting(0, "Seed of the noise, the untrained projector, and the choice of another item's world.")
# fmt: on


KEYS = keys(Options)
DEFAULTS = {name: key.default for name, key in KEYS.items()}
ALIASES = {"model": ["--model_name"], "image_folder": ["--image-dir"]}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options; what `--config` says stands in for those that are not given."""
    parser.add_argument("--config", type=Path, help="JSON file of these options, by their names without dashes")
    add_json(parser)
    options = parser.add_argument_group("options, over those of the file")
    for name, key in KEYS.items():
        add_key(options, key, *ALIASES.get(name, []), **({"action": "append"} if name == "control" else {}))


def run(args: argparse.Namespace) -> int:
    """Ask, score, report; print the tables."""
    typed = {name: value for name, value in vars(args).items() if name in KEYS}
    typed = {name: KEYS[name].parse(value) if isinstance(value, str) else value for name, value in typed.items()}
    options = {**DEFAULTS, **_config(args.config), **typed}

    from theworld.evaluation.tasks import TASKS

    if options["task"] not in TASKS:
        named = "--task is missing" if options["task"] is None else brief(f"--task {options['task']}")
        raise TheWorldError(f"{named}: expected one of {', '.join(TASKS)}")
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
    described = {"metrics": metrics, "not_run": evaluation.not_run, "report": str(page)}
    lines = (f"not run       {arm}: {reason}" for arm, reason in evaluation.not_run.items())
    return report(args, described, terminal_report(metrics), *lines, f"report        {page}")


def settings_of(options: dict[str, Any]) -> "EvaluationSettings":
    """The settings that the options say; scenes of the micro-world are simulated if there are none.

    Raises:
        ValueError: An option does not parse or is out of range.
    """
    from theworld.data.schema import SourceSettings
    from theworld.evaluation.ask.arms import ARMS
    from theworld.evaluation.ask.asker import EvaluationSettings

    count = options["num_samples"]
    if count is not None and count < 1:  # none would ask for all scenes
        raise TheWorldError(f"--num_samples {count}: expected at least 1")
    output = Path(options["output"])
    data = options["data"] or HUB_IDS.get(options["task"])
    if options["task"] == "micro_world" and data is None:
        from theworld.evaluation.tasks.micro_world import default_source

        data = default_source(output, count)
    folders = {name: Path(options[name]) if options[name] else None for name in ("image_folder", "latent_cache")}
    alike = {name: options[name] for name in ("split", "num_samples", "question_template")}
    source = SourceSettings(path=data, image_folder=folders["image_folder"], **alike)
    return EvaluationSettings(
        **{name: options[name] for name in ("model", "scorer", "batch_size", "seed")},
        output=output,
        source=source,
        arms=tuple(ARMS) if options["arms"] == "all" else tuple(_listed(options["arms"])),
        num_world_steps=_steps(options["num_world_steps"]),
        controls=dict(_control(text) for text in options["control"] or []),
        latent_cache=folders["latent_cache"],
    )


def _config(path: Path | None) -> dict[str, Any]:
    """The options of a file; keys that begin with an underscore are comments."""
    options = {} if path is None else read_values(path)
    for name, value in options.items():
        if name not in KEYS:
            raise TheWorldError(f"{path}: unknown option {brief(repr(name))}: {nearest(name, KEYS)}".removesuffix(": "))
        KEYS[name].check(value)
    return options


def _listed(value: Any) -> list[str]:
    """A list, or text with commas."""
    items = value if isinstance(value, list) else str(value).split(",")
    return [str(item).strip() for item in items]


def _steps(value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        return tuple(int(item) for item in _listed(value))
    except ValueError as error:
        given = brief(f"--num_world_steps {value}")
        raise TheWorldError(f"{given}: expected whole numbers with commas, as in 0,4") from error


def _control(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals or not path:
        raise TheWorldError(f"{brief(f'--control {text}')}: expected NAME=PATH, as in gemma_tuned=runs/tuned")
    return name, path


def rollout_of(
    evaluation: "Evaluation", settings: "EvaluationSettings"
) -> "Callable[[Item], list[Image.Image]] | None":
    """What the full model imagines for an item, decoded, where it ran and its images may be shown."""
    from functools import cache

    from theworld.analysis.guardrail import can_show
    from theworld.analysis.imagine import imagine
    from theworld.evaluation.ask.prompts import open_images
    from theworld.evaluation.run import load
    from theworld.utils.errors import one_line
    from theworld.utils.logging import logger

    steps = evaluation.num_world_steps
    if "world" not in evaluation.arms or steps is None:
        return None
    model = cache(lambda: load(settings.model, enable_world=True, num_world_steps=steps))

    def frames(item: "Item") -> "list[Image.Image]":
        encoder = model().model.world_encoder
        if encoder is None or not encoder.can_decode or not can_show(encoder, model().config.cosmos_subfolder):
            return []
        try:
            return imagine(model(), open_images(item, settings.source.image_folder)[0], steps)
        except ValueError as error:  # the guardrail's refusal of one image is no reason to go without a report
            logger.warning("item %s: %s", item.id, one_line(error))
            return []

    return frames
