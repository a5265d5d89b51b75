"""Show versions, devices and the git commit, for bug reports."""

import argparse

from .loading import add_json, report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    forms = parser.add_mutually_exclusive_group()
    add_json(forms)
    forms.add_argument("--report", action="store_true", help="print Markdown for a bug report, with extras and memory")


def run(args: argparse.Namespace) -> int:
    """Print the environment."""
    from theworld.utils.reproducibility import environment, git_text

    if args.report:
        from theworld.utils.bug_report import bug_report

        return report(args, None, bug_report())
    values = environment()
    lines = {
        "python": values["python"],
        "platform": values["platform"],
        **{name: version or "not installed" for name, version in values["packages"].items()},
        "devices": ", ".join(values["devices"]),
        "threads": values["threads"],
        "git": git_text(values["git"]),
    }
    return report(args, values, *(f"{name:<14}{value}" for name, value in lines.items()))
