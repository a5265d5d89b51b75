"""A report as Markdown, with its figures beside it."""

from __future__ import annotations

from pathlib import Path

from theworld.utils.io import write_text

from .content import Report, Section
from .examples import ExampleItem
from .plots import INK
from .tables import Table, markdown, warning_lines

FIGURES = "figures"


def write_markdown(report: Report, output: Path) -> Path:
    """Write <output>/report.md and <output>/figures/*.svg; returns the path of the first."""
    parts = [f"# {report.title}\n"]
    for section in report.sections:
        parts += [f"**{section.metrics['title']}.** {_plain(verdict)}\n" for verdict in section.verdicts]
    for section in report.sections:
        parts += _section(section, output)
    parts += ["## What this was made with\n", markdown(_settings(report))]
    if report.differing and len(report.differing_names) > 2:
        parts += [
            "Where arms differ:\n",
            markdown(Table("", report.differing_names, report.differing, left=len(report.differing_names))),
        ]
    path = output / "report.md"
    write_text(path, "\n".join(parts))
    return path


def _section(section: Section, output: Path) -> list[str]:
    metrics = section.metrics
    parts = [f"## {metrics['title']}\n", f"`{section.task}`, {metrics['n']} items.\n"]
    warnings = warning_lines(metrics)
    if warnings:
        parts += ["Before reading on:\n", *(f"- {_plain(line)}" for line in warnings), ""]
    for table in section.tables:
        parts += [f"### {table.title}\n", markdown(table)]
    for name, (title, svg) in section.plots.items():
        figure = Path(FIGURES, f"{section.task}-{name}.svg")
        write_text(output / figure, _on_white(svg))
        parts.append(f"![{title}]({figure.as_posix()})\n")
    if section.examples:
        parts.append("### Where arms disagree\n")
        parts.append(f"{len(section.examples)} of {section.disagreements} such items, drawn at random.\n")
        parts += [_example(example, output) for example in section.examples]
    parts.append("### The prompt of the first item\n")
    parts += [f"{arms}:\n\n{_fenced(prompt)}\n" for prompt, arms in section.prompts]
    return parts


def _example(example: ExampleItem, output: Path) -> str:
    rows = tuple(
        (reply.arm, reply.output, reply.parsed or "", "right" if reply.right else "wrong") for reply in example.replies
    )
    pictures = [*example.pictures, *([example.rollout] if example.rollout else [])]
    links = " ".join(
        f"![{'rollout' if picture == example.rollout else 'picture'}]({picture.relative_to(output).as_posix()})"
        for picture in pictures
        if picture.is_relative_to(output)
    )
    table = markdown(Table("", ("Arm", "Output", "Parsed", ""), rows, left=4))
    asked = f"{_fenced(example.question)}\n\nRight answer: {_plain(example.answer)}\n"
    return "\n\n".join(part for part in (f"#### {_plain(example.id)}", links, asked, table) if part)


def _settings(report: Report) -> Table:
    return Table("", ("Setting", "Value"), report.settings, left=2)


def _fenced(text: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text}\n{fence}"


def _plain(text: str) -> str:
    """Text of a data set on one line, none of which Markdown reads as HTML."""
    return " ".join(text.replace("<", "&lt;").split())


def _on_white(svg: str) -> str:
    """A figure that is shown by itself, where no page says what is behind it."""
    start = svg.index(">", svg.index("<svg")) + 1
    return f'{svg[:start]}\n <rect width="100%" height="100%" fill="white"/>{svg[start:]}'.replace("currentColor", INK)


__all__ = ["write_markdown"]
