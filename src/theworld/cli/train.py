"""Train a model as a config says, or go on with a run."""

import argparse
import json
import os
import re
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from theworld.training.config import TrainingConfig

ALIASES = {"model_name": "--model", "dataset_name": "--dataset"}
STOPPED = 75  # EX_TEMPFAIL: what a requeuing job goes on from


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--config`, and an option for every config key."""
    from theworld.training.config import TrainingConfig, field_types

    parser.add_argument("--config", help="JSON file of config keys that differ from the defaults")
    parser.add_argument("--json", action="store_true", help="print JSON")
    keys = parser.add_argument_group("config keys, over those of the file")
    helps = dict(re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", TrainingConfig.__doc__ or "", re.MULTILINE))
    for name, kind in field_types().items():
        flag: dict[str, Any] = {"nargs": "?", "const": "true"} if kind is bool else {}
        names = [f"--{name}", *([ALIASES[name]] if name in ALIASES else [])]
        text = " ".join(helps[name].split()).replace("%", "%%")
        keys.add_argument(*names, dest=name, metavar="VALUE", default=argparse.SUPPRESS, help=text, **flag)


def config_of(args: argparse.Namespace) -> "TrainingConfig":
    """The config file with the options over its keys."""
    from theworld.training.config import TrainingConfig, field_types, parse_value

    given = {name: parse_value(name, value) for name, value in vars(args).items() if name in field_types()}
    return TrainingConfig.from_file(args.config, given) if args.config else TrainingConfig.from_dict(given)


def run(args: argparse.Namespace) -> int:
    """Train, and print where the last checkpoint lies."""
    config = config_of(args)

    from contextlib import redirect_stdout
    from dataclasses import asdict

    with redirect_stdout(sys.stderr):  # transformers greets W&B's offline mode there when it is imported
        from theworld.training.run import train
    from theworld.utils.logging import configure_logging

    configure_logging()
    result = train(config)
    if os.environ.get("RANK", "0") == "0":
        described = f"step {result.step}, loss {result.loss}, {result.skipped} rows skipped: {result.checkpoint}"
        print(json.dumps(asdict(result)) if args.json else described)
    return STOPPED if result.stopped else 0
