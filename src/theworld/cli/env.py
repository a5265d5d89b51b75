"""Show versions, devices and source state, for bug reports."""

import argparse

from .loading import add_json, report

add_arguments = add_json  # there are no other options


def run(args: argparse.Namespace) -> int:
    """Print the environment."""
    from theworld.utils.reproducibility import environment

    values = environment()
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
    return report(args, values, *(f"{name:<14}{value}" for name, value in lines.items()))
