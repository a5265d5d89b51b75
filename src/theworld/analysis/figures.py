"""Figures as files: PNG, SVG or PDF, as the ending of the path says."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

from theworld.utils.errors import TheWorldError
from theworld.utils.imports import require
from theworld.utils.io import write_bytes

FIGURE_ENDINGS = (".png", ".svg", ".pdf")


def check_figure_ending(path: str | Path) -> None:
    """Raise `ValueError` if `path` ends in none of `FIGURE_ENDINGS`."""
    if Path(path).suffix.lower() not in FIGURE_ENDINGS:
        raise TheWorldError(f"{path}: expected a file that ends in .png, .svg or .pdf")


def save_figure(figure: Any, path: str | Path, dpi: int = 150) -> Path:
    """Write a matplotlib figure in the format of the path's ending, without a date; text in an SVG stays text.

    Args:
        dpi: Pixels an inch of a PNG, and of the images within an SVG or a PDF.

    Raises:
        ValueError: `path` ends in none of `FIGURE_ENDINGS`.
    """
    check_figure_ending(path)
    kind = Path(path).suffix.lower().removeprefix(".")
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    data = BytesIO()
    with require("analysis", "matplotlib").rc_context({"svg.fonttype": "none", "svg.hashsalt": "theworld"}):
        figure.savefig(data, format=kind, dpi=dpi, metadata=undated)
    write_bytes(path, data.getvalue())
    return Path(path)


__all__ = ["FIGURE_ENDINGS", "check_figure_ending", "save_figure"]
