"""Compare evaluations: a report as Markdown and as one HTML page, with plots and the versions of everything."""

import argparse

from .loading import add_json, report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="output folder of `theworld evaluate`")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of report.md and report.html")
    labels = "name of each run (default: its folder); runs with the same label are seeds of one model"
    parser.add_argument("--labels", nargs="+", metavar="LABEL", help=labels)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Write the report and print its tables."""
    from theworld.evaluation.report import compare_runs, terminal_report

    tasks = [section.metrics for section in compare_runs(args.runs, args.output, args.labels).sections]
    page = f"{args.output}/report.html"
    described = {"tasks": {metrics["task"]: metrics for metrics in tasks}, "report": page}
    return report(args, described, *(f"{terminal_report(metrics)}\n" for metrics in tasks), f"report        {page}")
