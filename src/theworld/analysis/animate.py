"""A rollout as a file: GIF, MP4, or a contact sheet."""

from __future__ import annotations

from fractions import Fraction
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from theworld.utils.errors import TheWorldError
from theworld.utils.image_decoding import to_rgb
from theworld.utils.imports import require
from theworld.utils.io import write_bytes

SHOWN_SIDE = 256
"""Smallest shorter side in pixels; smaller frames are enlarged."""

SHEET_COLUMNS = 8
GAP, BAR, INK, PAPER = 8, 20, (30, 30, 30), (255, 255, 255)
LAST_FRAME = 1000  # milliseconds that a GIF shows the last frame before it restarts


def enlarge(frame: Image.Image, side: int = SHOWN_SIDE) -> Image.Image:
    """Scale by the smallest whole number that makes the shorter side at least `side`, without smoothing.

    The pixels of a small frame, such as 32 x 32, stay visible as squares.
    """
    factor = max(1, -(-side // min(frame.size)))
    return to_rgb(frame).resize((frame.width * factor, frame.height * factor), Image.Resampling.NEAREST)


def save_rollout(
    frames: list[Image.Image], path: str | Path, *, fps: float = 8, frames_per_step: int = 4, caption: str = ""
) -> Path:
    """Write the frames in the format of the suffix of `path`: `.gif`, `.mp4` or `.png` (a contact sheet).

    Args:
        frames: The current frame, then `frames_per_step` imagined frames per future latent frame.
        fps: Frames per second of GIF and MP4.
        caption: Text below the frames.

    Raises:
        ValueError: The suffix is another one, or `fps` is out of range.
        ImportError: MP4 without the extra `analysis`.
    """
    path = Path(path)
    check_ending(path)
    if not 0 < fps <= 100:
        raise TheWorldError(f"fps={fps}: expected more than 0 and at most 100 frames per second")
    if path.suffix.lower() == ".png":
        data = BytesIO()
        contact_sheet_of(frames, frames_per_step, caption).save(data, "PNG")
        write_bytes(path, data.getvalue())
        return path
    shown = [_with_footer(enlarge(frame), index, frames_per_step, caption) for index, frame in enumerate(frames)]
    write_bytes(path, (_mp4 if path.suffix.lower() == ".mp4" else _gif)(shown, fps))
    return path


def check_ending(path: str | Path) -> None:
    """Check the suffix of a path for `save_rollout`.

    Raises:
        ValueError: It is not supported; names the path and the supported suffixes.
    """
    if Path(path).suffix.lower() not in (".gif", ".mp4", ".png"):
        raise TheWorldError(f"{path}: expected a file that ends in .gif, .mp4 or .png (a contact sheet)")


def contact_sheet_of(frames: list[Image.Image], frames_per_step: int = 4, caption: str = "") -> Image.Image:
    """All frames with their numbers; if one line is too short, the current frame has its own line."""
    tiles = [enlarge(frame, SHOWN_SIDE // 2) for frame in frames]
    width, height = tiles[0].size
    columns = min(len(tiles), 1 + SHEET_COLUMNS)
    lines = [tiles] if len(tiles) <= columns else _lines(tiles)
    sheet_width = max(len(line) for line in lines) * (width + GAP) + GAP
    text = _wrap(caption, sheet_width - 2 * GAP)
    sheet = Image.new("RGB", (sheet_width, len(lines) * (height + BAR + GAP) + GAP + BAR * len(text)), PAPER)
    draw, index, top = ImageDraw.Draw(sheet), 0, GAP
    for line in lines:
        for column, tile in enumerate(line):
            left = GAP + column * (width + GAP)
            draw.text((left, top), _label(index, frames_per_step), INK, _font(13))
            sheet.paste(tile, (left, top + BAR))
            index += 1
        top += height + BAR + GAP
    _write(draw, text, top)
    return sheet


def _lines(tiles: list[Image.Image]) -> list[list[Image.Image]]:
    return [tiles[:1], *(tiles[at : at + SHEET_COLUMNS] for at in range(1, len(tiles), SHEET_COLUMNS))]


def _label(index: int, frames_per_step: int) -> str:
    """`now`, or the number of the imagined frame and of its latent frame."""
    return f"+{index}, step {-(-index // frames_per_step)}" if index else "now"


def _with_footer(frame: Image.Image, index: int, frames_per_step: int, caption: str) -> Image.Image:
    """The frame above its label and the caption; both sides are even, as MP4 needs."""
    text = [_label(index, frames_per_step), *_wrap(caption, frame.width - 2 * GAP)]
    height = frame.height + BAR * len(text) + GAP
    shown = Image.new("RGB", (frame.width + frame.width % 2, height + height % 2), PAPER)
    shown.paste(frame, (0, 0))
    _write(ImageDraw.Draw(shown), text, frame.height + GAP // 2)
    return shown


def _write(draw: ImageDraw.ImageDraw, lines: list[str], top: int) -> None:
    for number, line in enumerate(lines):
        draw.text((GAP, top + number * BAR), line, INK, _font(13))


def _wrap(text: str, width: int) -> list[str]:
    """Lines of `text` that fit into `width` pixels; line breaks are kept."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and _font(13).getlength(longer) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return lines


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def _gif(frames: list[Image.Image], fps: float) -> bytes:
    data = BytesIO()
    durations = [round(1000 / fps)] * (len(frames) - 1) + [LAST_FRAME]
    frames[0].save(data, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return data.getvalue()


def _mp4(frames: list[Image.Image], fps: float) -> bytes:
    av = require("analysis", "av")
    data = BytesIO()
    with av.open(data, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = *frames[0].size, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return data.getvalue()


__all__ = ["check_ending", "contact_sheet_of", "enlarge", "save_rollout"]
