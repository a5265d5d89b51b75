"""Fill the latent cache that a training config names."""

import argparse
import json
import os
import sys

from . import train


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `theworld train`: one config serves both."""
    train.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Encode what is not in the cache yet, and print what was done."""
    from contextlib import redirect_stdout
    from dataclasses import asdict

    with redirect_stdout(sys.stderr):  # as in `train`
        config = train.config_of(args)
        from theworld.training.precompute import precompute
    from theworld.utils.logging import configure_logging

    configure_logging()
    result = precompute(config)
    if os.environ.get("RANK", "0") == "0":
        done = f"{result.computed} pictures encoded, {result.present} were there"
        text = f"{done}; {result.skipped} of {result.rows} rows skipped: {result.folder}"
        print(json.dumps(asdict(result)) if args.json else "\n".join(filter(None, (text, result.skip_causes))))
    return 0
