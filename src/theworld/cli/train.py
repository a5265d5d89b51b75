"""Train a model as a config says, or continue a run."""

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
    "TrainingArguments": "config keys of the trainer of transformers (its documentation says more)",
}
STOPPED = 75  # EX_TEMPFAIL: what a requeuing job goes on from


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
    for name in REFUSED.keys() - {"debug"}:  # so that the reason is said
        parser.add_argument(f"--{name}", dest=name, nargs="?", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def checked_config(args: argparse.Namespace) -> "TrainingConfig":
    """The config file with the options over its keys; without one, the config of the run that `--resume_from` names.

    Its data is looked for before what is slow to import is imported.
    """
    from theworld.training.config import REFUSED, TrainingConfig
    from theworld.utils.logging import configure_logging
    from theworld.utils.settings import keys

    # 1. The options
    known = keys(TrainingConfig)
    names = (known.keys() | REFUSED.keys()) - {"debug"}  # which is the command's own option
    options = {name: value for name, value in vars(args).items() if name in names}
    given = {name: known[name].parse(value) if name in known else value for name, value in options.items()}
    # 2. The file: the one that is named, or that of the run folder that is resumed or that holds the checkpoint
    path, start = args.config, given.get("resume_from") or given.get("resume_from_checkpoint")
    if path is None and start is not None:
        places = Path(start).expanduser(), Path(start).expanduser().parent
        run = next((folder for folder in places if (folder / "manifest.json").is_file()), None)
        if run is not None:
            path, given = run / "config.json", {"output_dir": str(run), **given}
    # 3. The config, and its data
    with redirect_stdout(sys.stderr):  # transformers greets W&B's offline mode there when it is imported
        config = TrainingConfig.from_file(path, given) if path else TrainingConfig.from_dict(given)
        from theworld.training.rows import check_rows

        check_rows(config)
        import_module("theworld.training.run")
    configure_logging()
    return config


def run(args: argparse.Namespace) -> int:
    """Train, and print where the last checkpoint lies."""
    config = checked_config(args)
    from theworld.training.run import train

    result = train(config)
    place = result.checkpoint or config.output_dir
    report(args, asdict(result), f"step {result.step}, loss {result.loss}, {result.skipped} rows skipped: {place}")
    return STOPPED if result.stopped else 0
