"""Fill the latent cache of a training config."""

import argparse
from dataclasses import asdict

from .loading import report
from .train import add_arguments as add_arguments  # one config serves both commands
from .train import checked_config


def run(args: argparse.Namespace) -> int:
    """Encode the images that the cache lacks, and print the counts."""
    config = checked_config(args)
    from theworld.training.precompute import precompute

    result = precompute(config)
    done = f"{result.computed} images encoded, {result.present} already in the cache"
    text = f"{done}; {result.skipped} of {result.rows} rows skipped: {result.folder}"
    return report(args, asdict(result), text, result.skip_causes)
