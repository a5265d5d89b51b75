"""Writes a report as Markdown with figure files, and as one self-contained HTML page."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from theworld.utils.io import write_text

from .content import Report, Section
from .plots import INK
from .tables import plain, warning_lines


def write_pages(report: Report, output: Path) -> Path:
    """Write <output>/report.md, <output>/figures/*.svg and <output>/report.html; returns the path of the last."""
    for section in report.sections:
        for title, (_, svg) in section.figures.items():
            alone = svg.replace("<svg", '<svg style="background: white"', 1)
            write_text(output / "figures" / figure_name(section, title), alone)
    environment = Environment(
        loader=PackageLoader(__package__ or "", ""),
        autoescape=lambda name: name == "report.html.jinja",
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown: dict[str, Any] = {
        each.__name__: each for each in (plain, inline_svg, data_uri, warning_lines, quote, figure_name)
    }
    shown |= {"report": report, "output": output}
    for name in ("report.md", "report.html"):
        write_text(output / name, environment.get_template(f"{name}.jinja").render(shown))
    return output / "report.html"


def figure_name(section: Section, title: str) -> str:
    """File name of a task's figure; the first figure has just the task's name."""
    first = title == next(iter(section.figures))
    return section.metrics["task"] + ("" if first else f"-{title.lower().replace(' ', '-')}") + ".svg"


def inline_svg(svg: str, title: str) -> Markup:
    """An SVG for embedding in a page, drawn in the page's text colour. matplotlib has escaped its texts."""
    body = re.sub(r'<g id="[^"]*">', "<g>", svg[svg.index("<svg") :]).replace(INK, "currentColor")  # ids must be unique
    return Markup(body.replace("<svg", Markup('<svg role="img" aria-label="{}"').format(title), 1))


def data_uri(path: Path) -> str:
    """A PNG file as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


__all__ = ["write_pages"]
