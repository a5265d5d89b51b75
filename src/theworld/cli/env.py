"""Show versions, devices and source state: what to paste into a bug report."""

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the environment."""
    from theworld.utils.reproducibility import environment

    values = environment()
    if args.json:
        print(json.dumps(values, indent=2))
        return 0
    git = values["git"]
    state = "no checkout" if git is None else git["commit"][:12] + (" with local changes" if git["dirty"] else "")
    lines = {
        "python": values["python"],
        "platform": values["platform"],
        **{name: version or "not installed" for name, version in values["packages"].items()},
        "devices": ", ".join(values["devices"]),
        "threads": values["threads"],
        "git": state,
    }
    for name, value in lines.items():
        print(f"{name:<14}{value}")
    return 0
