"""Train a model as a config says, or continue a run."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .loading import add_json, add_key, report

if TYPE_CHECKING:
    from theworld.training.config import TrainingConfig

ALIASES = {"model_name": "--model", "dataset_name": "--dataset"}
GROUPS = {
    "TrainingConfig": "the run",
    "TheWorldConfig": "the model",
    "TrainingArguments": "the trainer of transformers (its documentation says more)",
}
STOPPED = 75  # EX_TEMPFAIL: what a requeuing job goes on from


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--config`, and an option for every config key."""
    from theworld.training.config import REFUSED, TrainingConfig
    from theworld.utils.settings import keys

    parser.usage = "%(prog)s [--config FILE] [--KEY VALUE ...]"
    parser.add_argument("--config", help="JSON file of config keys that differ from the defaults")
    add_json(parser)
    groups = {
        owner: parser.add_argument_group(f"config keys, over those of the file: {title}")
        for owner, title in GROUPS.items()
    }
    for name, key in keys(TrainingConfig).items():
        add_key(groups[key.source], key, *([ALIASES[name]] if name in ALIASES else []))
    for name in REFUSED.keys() - {"debug"}:  # so that the reason is said
        parser.add_argument(f"--{name}", dest=name, nargs="?", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def config_of(args: argparse.Namespace) -> "TrainingConfig":
    """The config file with the options over its keys; without one, the config of the run that `--resume_from` names."""
    from theworld.training.config import REFUSED, TrainingConfig
    from theworld.utils.settings import keys

    known = keys(TrainingConfig)
    names = (known.keys() | REFUSED.keys()) - {"debug"}  # which is the command's own option
    options = {name: value for name, value in vars(args).items() if name in names}
    given = {name: known[name].parse(value) if name in known else value for name, value in options.items()}
    path, run = args.config, None
    if path is None:
        run = run_of(given.get("resume_from") or given.get("resume_from_checkpoint"))
    if run is not None:
        path, given = run / "config.json", {"output_dir": str(run), **given}
    return TrainingConfig.from_file(path, given) if path else TrainingConfig.from_dict(given)


def checked_config(args: argparse.Namespace) -> "TrainingConfig":
    """The config, once its data is known to be there: before what is slow to import."""
    config = config_of(args)
    from theworld.training.rows import check_rows

    check_rows(config)
    return config


def run_of(name: str | None) -> Path | None:
    """The run folder that `name` is, or that holds the checkpoint `name`; `None` for anything else."""
    folders = [] if name is None else [Path(name).expanduser(), Path(name).expanduser().parent]
    return next((folder for folder in folders if (folder / "manifest.json").is_file()), None)


def run(args: argparse.Namespace) -> int:
    """Train, and print where the last checkpoint lies."""
    from contextlib import redirect_stdout
    from dataclasses import asdict

    with redirect_stdout(sys.stderr):  # transformers greets W&B's offline mode there when it is imported
        config = checked_config(args)
        from theworld.training.run import train
    from theworld.utils.logging import configure_logging

    configure_logging()
    result = train(config)
    text = f"step {result.step}, loss {result.loss}, {result.skipped} rows skipped: {result.checkpoint}"
    report(args, asdict(result), text)
    return STOPPED if result.stopped else 0
