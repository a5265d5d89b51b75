"""Compare evaluations: a report as Markdown and as one HTML page, with plots and the versions of everything."""

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="output folder of `theworld evaluate`")
    parser.add_argument("--output", required=True, metavar="DIR", help="where report.md and report.html go")
    labels = "name of each run (default: its folder); runs with one label are seeds of one another"
    parser.add_argument("--labels", nargs="+", metavar="LABEL", help=labels)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Write the report and print its tables."""
    from theworld.evaluation.report import compare_runs, terminal_report

    report = compare_runs(args.runs, args.output, args.labels)
    if args.json:
        tasks = {section.task: section.metrics for section in report.sections}
        print(json.dumps({"tasks": tasks, "report": f"{args.output}/report.html"}, ensure_ascii=False))
        return 0
    for section in report.sections:
        print(f"{terminal_report(section.metrics)}\n")
    print(f"report        {args.output}/report.html")
    return 0
