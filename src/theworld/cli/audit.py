"""List what an evaluation set shares with training sets, and the scores of baselines without images."""

import argparse

from .loading import add_json, report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--train", nargs="+", required=True, metavar="FILE", help=".jsonl or .json files of training")
    parser.add_argument("--eval", required=True, metavar="FILE", help=".jsonl or .json file of the evaluation")
    add_json(parser, "print JSON, with every id, statement and image shared")


def run(args: argparse.Namespace) -> int:
    """Print what was found."""
    from theworld.evaluation.audit import audit, audit_text

    found = audit(args.train, args.eval)
    return report(args, found, audit_text(found))
