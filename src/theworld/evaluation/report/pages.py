"""A report as Markdown, with its figures beside it, and as one HTML page that needs nothing beside it."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from theworld.utils.io import write_text

from .content import Report
from .plots import INK
from .tables import plain, warning_lines


def write_pages(report: Report, output: Path) -> Path:
    """Write <output>/report.md, <output>/figures/*.svg and <output>/report.html; returns the path of the last."""
    for section in report.sections:
        write_text(output / "figures" / f"{section.task}.svg", on_white(section.figure[1]))
    for name in ("report.md", "report.html"):
        loader, html = PackageLoader(__package__ or "", ""), name.endswith("html")
        environment = Environment(loader=loader, autoescape=html, undefined=StrictUndefined, trim_blocks=True)
        environment.lstrip_blocks = True
        functions = {each.__name__: each for each in (plain, fenced, inline_svg, data_uri, warning_lines)}
        page = environment.get_template(f"{name}.jinja").render(report=report, output=output, quote=quote, **functions)
        write_text(output / name, page)
    return output / "report.html"


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


def on_white(svg: str) -> str:
    """A figure that is shown by itself, where no page says what is behind it."""
    start = svg.index(">", svg.index("<svg")) + 1
    return f'{svg[:start]}\n <rect width="100%" height="100%" fill="white"/>{svg[start:]}'


def data_uri(path: Path) -> str:
    """A PNG file as a URI that holds it."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def fenced(text: str) -> str:
    """A block of Markdown that shows text as it is."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


__all__ = ["write_pages"]
