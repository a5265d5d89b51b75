"""Train a model from a config, or resume a run."""

import argparse
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from .loading import add_json, add_key, report

if TYPE_CHECKING:
    from theworld.training.config import TrainingConfig

ALIASES = {"model_name": "--model", "dataset_name": "--dataset"}
GROUPS = {
    "TrainingConfig": "config keys of the run, over those of the file",
    "TheWorldConfig": "config keys of the model",
    "TrainingArguments": "config keys of transformers' Trainer (see its documentation)",
}
STOPPED = 75  # EX_TEMPFAIL: a job script requeues the job


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--config`, and an option for every config key."""
    from theworld.training.config import REFUSED, TrainingConfig
    from theworld.utils.settings import keys

    parser.usage = "%(prog)s [--config FILE] [--KEY VALUE ...]"
    parser.add_argument("--config", help="JSON file of config keys that differ from the defaults")
    add_json(parser)
    groups = {owner: parser.add_argument_group(title) for owner, title in GROUPS.items()}
    for name, key in keys(TrainingConfig).items():
        add_key(groups[key.source], key, *([ALIASES[name]] if name in ALIASES else []))
    for name in REFUSED.keys() - {"debug"}:  # so that their use gives the reason
        parser.add_argument(f"--{name}", dest=name, nargs="?", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def checked_config(args: argparse.Namespace) -> "TrainingConfig":
    """The config of a file, updated with the options; without a file, that of the run that `--resume_from` names.

    Its data is checked before slow imports.
    """
    from theworld.training.config import REFUSED, TrainingConfig
    from theworld.utils.logging import configure_logging
    from theworld.utils.settings import keys

    # 1. Parse the options
    known = keys(TrainingConfig)
    names = (known.keys() | REFUSED.keys()) - {"debug"}  # `debug` is an option of the command
    options = {name: value for name, value in vars(args).items() if name in names}
    given = {name: known[name].parse(value) if name in known else value for name, value in options.items()}
    # 2. Find the config file: of `--config`, or of the run folder that is resumed or holds the checkpoint
    path, start = args.config, given.get("resume_from") or given.get("resume_from_checkpoint")
    if path is None and start is not None:
        places = Path(start).expanduser(), Path(start).expanduser().parent
        run = next((folder for folder in places if (folder / "manifest.json").is_file()), None)
        if run is not None:
            path, given = run / "config.json", {"output_dir": str(run), **given}
    # 3. Make the config, and check its data
    with redirect_stdout(sys.stderr):  # importing transformers may print a message of W&B
        config = TrainingConfig.from_file(path, given) if path else TrainingConfig.from_dict(given)
        from theworld.training.rows import check_rows

        check_rows(config)
        import_module("theworld.training.run")
    configure_logging()
    return config


def run(args: argparse.Namespace) -> int:
    """Train, and print the path of the last checkpoint."""
    config = checked_config(args)
    from theworld.training.run import train

    result = train(config)
    place = result.checkpoint or config.output_dir
    loss = "not logged" if result.loss is None else f"{result.loss:.4f}"
    report(args, asdict(result), f"step {result.step}, loss {loss}, {result.skipped} rows skipped: {place}")
    return STOPPED if result.stopped else 0
