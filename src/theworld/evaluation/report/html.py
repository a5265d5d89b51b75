"""A report as one HTML page that needs nothing beside it."""

from __future__ import annotations

import base64
import re
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from theworld.utils.io import write_text

from .content import Report
from .plots import INK
from .tables import label_of, warning_lines

PAGE = "page.html.jinja"


def write_html(report: Report, output: Path) -> Path:
    """Write <output>/report.html and return its path."""
    loader = PackageLoader(__package__ or "", "")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    functions = (warning_lines, label_of, inline_svg, data_uri, breakable)
    page = environment.get_template(PAGE).render(report=report, **{each.__name__: each for each in functions})
    path = output / "report.html"
    write_text(path, page)
    return path


def inline_svg(svg: str, title: str) -> Markup:
    """A figure within the page: its ink is that of the text, its width that of the column.

    The text in it was escaped by matplotlib; ids that would be there twice are dropped.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*">', "<g>", body)
    body = re.sub(r' width="[^"]*" height="[^"]*"', "", body, count=1)
    label = Markup('<svg role="img" aria-label="{}"').format(title)
    return Markup(body.replace("<svg", label, 1).replace(INK, "currentColor"))


def breakable(text: str) -> Markup:
    """A name that a narrow column may break behind its underscores."""
    return Markup("_<wbr>").join(re.split(r"_(?=\w{3})", text))


def data_uri(path: Path) -> str:
    """A PNG file as a URI that holds it."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


__all__ = ["breakable", "data_uri", "inline_svg", "write_html"]
