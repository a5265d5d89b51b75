"""One sheet that shows scenes with their question, the answers, and imagined frames above simulated ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten

from PIL import Image, ImageDraw, ImageFont

FRAME, GAP, MARGIN, LABELS = 96, 4, 24, 104
"""Height of a frame, space between frames, around the sheet, and for the names of the rows, in pixels."""

INK, MUTED, RIGHT, WRONG, PAPER = "#1f2430", "#6b7280", "#15803d", "#b91c1c", "#ffffff"
_TITLE, _TEXT, _SMALL = 22, 17, 13


@dataclass(frozen=True)
class SheetScene:
    """What a sheet shows of one scene; `simulated` and `truth` are empty where they are not known."""

    question: str
    answers: Mapping[str, str]
    imagined: Sequence[Image.Image]
    frame_seconds: float
    simulated: Sequence[Image.Image] = ()
    truth: str = ""


def labelled_sheet(scenes: Sequence[SheetScene]) -> Image.Image:
    """Every scene in a block of its own: the question, the answers with `correct` or `wrong`, and rows of frames."""
    widths = [len(scene.imagined) * (_width(scene.imagined[0]) + GAP) for scene in scenes]
    heights = [_height(scene) for scene in scenes]
    sheet = Image.new("RGB", (2 * MARGIN + LABELS + max([*widths, 1000]), MARGIN + sum(heights)), PAPER)
    top = MARGIN
    for scene, height in zip(scenes, heights, strict=True):
        _paste(sheet, scene, top)
        top += height
    return sheet


def _short(text: str, length: int) -> str:
    """One line of at most so many characters: a sheet has no room for more."""
    return shorten(text, length, placeholder=" ...")


def _width(frame: Image.Image) -> int:
    return frame.width * FRAME // frame.height


def _height(scene: SheetScene) -> int:
    rows = 1 + bool(scene.simulated)
    return 2 * _TITLE + 2 * _TEXT + rows * (FRAME + GAP) + 2 * _SMALL + MARGIN


def _paste(sheet: Image.Image, scene: SheetScene, top: int) -> None:
    draw = ImageDraw.Draw(sheet)
    title, text, small = (ImageFont.load_default(size) for size in (_TITLE, _TEXT, _SMALL))
    # 1. The question, and the answers in one line
    draw.text((MARGIN, top), _short(scene.question, 90), INK, title)
    left, line = float(MARGIN), top + _TITLE + 14
    for name, answer in (*scene.answers.items(), *([("truth", scene.truth)] if scene.truth else [])):
        shown, colour = _short(answer, 24 if scene.truth else 40) or "(nothing)", INK
        if scene.truth and name != "truth":
            verdict, colour = ("correct", RIGHT) if answer == scene.truth else ("wrong", WRONG)
            shown = f"{shown} ({verdict})"
        draw.text((left, line), f"{name}: ", MUTED, text)
        left += draw.textlength(f"{name}: ", text)
        draw.text((left, line), shown, colour, text)
        left += draw.textlength(shown, text) + 28
    # 2. Rows of frames, with the time below
    top = line + _TEXT + 16
    for name, frames in (("imagined", scene.imagined), ("simulated", scene.simulated)):
        if not frames:
            continue
        draw.text((MARGIN, top + FRAME / 2 - _TEXT / 2), name, MUTED, text)
        for place, frame in enumerate(frames):
            size = (_width(frame), FRAME)
            at = (MARGIN + LABELS + place * (size[0] + GAP), top)
            sheet.paste(frame.resize(size, Image.Resampling.NEAREST), at)
        top += FRAME + GAP
    step = _width(scene.imagined[0]) + GAP
    for place in range(0, len(scene.imagined), 2):
        draw.text((MARGIN + LABELS + place * step, top + 2), f"{place * scene.frame_seconds:.2f} s", MUTED, small)


__all__ = ["SheetScene", "labelled_sheet"]
