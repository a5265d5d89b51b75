"""Fill the latent cache that a training config names."""

import argparse
import sys

from .loading import report
from .train import add_arguments as add_arguments  # one config serves both commands
from .train import checked_config


def run(args: argparse.Namespace) -> int:
    """Encode what is not in the cache yet, and print what was done."""
    from contextlib import redirect_stdout
    from dataclasses import asdict

    with redirect_stdout(sys.stderr):  # as in `train`
        config = checked_config(args)
        from theworld.training.precompute import precompute
    from theworld.utils.logging import configure_logging

    configure_logging()
    result = precompute(config)
    done = f"{result.computed} images encoded, {result.present} were there"
    text = f"{done}; {result.skipped} of {result.rows} rows skipped: {result.folder}"
    return report(args, asdict(result), text, result.skip_causes)
