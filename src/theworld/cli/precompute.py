"""Fill the latent cache that a training config names."""

import argparse
from dataclasses import asdict

from .loading import report
from .train import add_arguments as add_arguments  # one config serves both commands
from .train import checked_config


def run(args: argparse.Namespace) -> int:
    """Encode what is not in the cache yet, and print what was done."""
    config = checked_config(args)
    from theworld.training.precompute import precompute

    result = precompute(config)
    done = f"{result.computed} images encoded, {result.present} were there"
    text = f"{done}; {result.skipped} of {result.rows} rows skipped: {result.folder}"
    return report(args, asdict(result), text, result.skip_causes)
