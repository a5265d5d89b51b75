"""Evaluate a checkpoint on a benchmark, with arms that show whether the world makes the difference."""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from theworld.evaluation.settings import TASK_NAMES, EvaluationSettings, check_task, listed
from theworld.utils.errors import TheWorldError, brief
from theworld.utils.settings import keys, nearest, read_values, setting

from .loading import add_json, add_key, report


@dataclass(kw_only=True)
class Asked:
    """The key of the command that is not a setting of an evaluation."""

    task: str | list[str] | None = setting(
        None, f"{', '.join(TASK_NAMES)}, or path/to/file.py:NAME; several separated by commas.", unset="required"
    )


KEYS = {**keys(Asked), **keys(EvaluationSettings)}
ALIASES = {"model": ["--model_name"], "image_folder": ["--image-dir"]}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options; `--config` gives the values of those that are not given."""
    parser.add_argument("--config", type=Path, help="JSON file of these options, by their names without dashes")
    add_json(parser)
    options = parser.add_argument_group("options, over those of the file")
    for name, key in KEYS.items():
        add_key(options, key, *ALIASES.get(name, []), **({"action": "append"} if name == "control" else {}))


def run(args: argparse.Namespace) -> int:
    """Evaluate, write the report, and print its tables."""
    # 1. Options of the command line and the file
    typed = {name: value for name, value in vars(args).items() if name in KEYS}
    typed = {name: KEYS[name].parse(value) if isinstance(value, str) else value for name, value in typed.items()}
    options = {**_config(args.config), **typed}
    names = listed(options.pop("task", None))
    settings = EvaluationSettings(**options)
    if not names:
        raise TheWorldError(f"--task is missing: expected one of {', '.join(TASK_NAMES)}, or path/to/file.py:NAME")
    for name in names:  # before anything heavy is imported
        check_task(name)

    from theworld.evaluation.report import terminal_report
    from theworld.evaluation.run import evaluate_tasks
    from theworld.evaluation.tasks import find_task
    from theworld.recipes.imagined import imagined_frames
    from theworld.utils.logging import configure_logging

    # 2. Evaluate
    configure_logging()
    results = evaluate_tasks([find_task(name) for name in names], settings)
    if os.environ.get("RANK", "0") != "0":  # only the main process scores and reports
        return 0
    # 3. Report
    page, lines = "", []
    for result in results:
        page = str(result.report(rollout=imagined_frames(result)))
        lines += [terminal_report(result.metrics), *(f"not run       {n}: {why}" for n, why in result.not_run.items())]
    by_task: dict[str, Any] = {r.task.name: {"metrics": r.metrics, "not_run": r.not_run} for r in results}
    described = {**(by_task[results[0].task.name] if len(results) == 1 else {"tasks": by_task}), "report": page}
    return report(args, described, *lines, f"report        {page}")


def _config(path: Path | None) -> dict[str, Any]:
    """The options of a file; keys that begin with an underscore are comments."""
    options = {} if path is None else read_values(path)
    for name, value in options.items():
        if name not in KEYS:
            raise TheWorldError(f"{path}: unknown option {brief(repr(name))}: {nearest(name, KEYS)}".removesuffix(": "))
        KEYS[name].check(value)
    return options
