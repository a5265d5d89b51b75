"""Draw two figures of the README: the shipped nano model's answers to one scene, and the architecture.

python scripts/readme_figures.py                                # into docs/figures
python scripts/readme_figures.py --scene race --output runs/figures

`three-answers.gif` and `.png` show a scene in which only the rollout leads to the right answer. Their comment
holds every text as JSON.
The other figures of the README are results-*.svg, by scripts/write_results.py.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from string import Template

from PIL import Image, ImageColor, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from theworld import TheWorld
from theworld.analysis.imagine import imagine
from theworld.analysis.scenarios import SCENARIOS, answer_three_ways
from theworld.analysis.sheet import INK, PAPER, RIGHT, WRONG
from theworld.nano.examples import EXAMPLES, FRAME_SECONDS, load_example
from theworld.utils.errors import TheWorldError
from theworld.utils.io import write_bytes, write_text

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
TEMPLATE = Path(__file__).with_name("architecture.svg")

# Twice the size at which the README shows it, so that text is sharp on every screen; sizes below are of the page
SCALE, WIDTH, HEIGHT, MARGIN = 2, 800, 456, 24
PANEL, PANEL_TOP, CARD_TOP, CARD_HEIGHT, CARD_GAP = 224, 104, 368, 64, 16
MUTED, EMPTY, LINE, ACCENT = "#5b6474", "#f3f4f6", "#c3cad6", "#c9771f"
QUESTION_SIZE = 21

NAMES = dict(zip(SCENARIOS, ("Plain Gemma 3", "With the current frame", "With the imagined future"), strict=True))
QUESTION, TRUTH = "Question", "Truth"
PANELS = ("Image", "Imagined by the world model", "Simulated (truth)")
ROLLOUT = [*SCENARIOS].index("rollout")
FRAME_MS, PAUSE_MS, LAST_MS = 280, 1100, 4500

THEMES = {
    "light": {
        "ink": "#1b1f27", "muted": "#5b6474", "line": "#7d8798", "plain": "#f5f7fa", "plain_edge": "#c3cad6",
        "world": "#fdeed9", "world_edge": "#c9771f", "gemma": "#e0ecfd", "gemma_edge": "#3f74c4",
    },
    "dark": {
        "ink": "#e6e9ef", "muted": "#a3adbd", "line": "#8a94a6", "plain": "#232831", "plain_edge": "#4b5565",
        "world": "#3d2c16", "world_edge": "#e29a45", "gemma": "#1b2c48", "gemma_edge": "#6c9be6",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """A scene of `T` frames: the answers in the order of `SCENARIOS`, and the frames imagined and simulated."""

    question: str
    answers: Sequence[str]
    truth: str
    imagined: Sequence[Image.Image]
    simulated: Sequence[Image.Image]


@dataclass(frozen=True)
class Moment:
    """A frame of the animation: number of answers, frame index of each clip (`None`: hidden), truth shown or not."""

    answers: int
    imagined: int | None = None
    simulated: int | None = None
    truth: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene", choices=EXAMPLES, default="pegs", help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=FIGURES, metavar="DIR", help="default: docs/figures")
    args = parser.parse_args()
    try:
        scene = answer_scene(args.scene)
    except TheWorldError as error:
        parser.exit(2, f"readme_figures.py: error: {error}\n")
    write_animation(scene, args.output)
    template = Template(TEMPLATE.read_text(encoding="utf-8"))
    for name, colours in THEMES.items():
        write_text(args.output / f"architecture-{name}.svg", template.substitute(colours))
    print(f"{args.output}: three-answers.gif, three-answers.png, architecture-light.svg, architecture-dark.svg")


def answer_scene(name: str) -> Scene:
    """What the shipped model answers and imagines about a shipped scene.

    Raises:
        TheWorldError: The answer with the rollout is not the only right one.
    """
    model, example = TheWorld.from_pretrained("nano"), load_example(name)
    answers = answer_three_ways(model, example.image, example.question)
    if [how for how, answer in answers.items() if answer == example.answer] != ["rollout"]:
        raise TheWorldError(
            f"--scene {name}: the answers are {answers} and the truth is {example.answer!r}; expected that only the "
            f"rollout is right: try another of {', '.join(EXAMPLES)}"
        )
    imagined = imagine(model, example.image)
    return Scene(example.question, [*answers.values()], example.answer, imagined, example.clip[: len(imagined)])


def moments(frames: int) -> list[tuple[Moment, int]]:
    """The animation, each moment with its milliseconds."""
    last = frames - 1
    return [
        (Moment(0), PAUSE_MS),
        (Moment(1), PAUSE_MS),
        (Moment(ROLLOUT), PAUSE_MS),
        *((Moment(ROLLOUT, frame), FRAME_MS) for frame in range(frames)),
        (Moment(3, last), PAUSE_MS),
        *((Moment(3, last, frame), FRAME_MS) for frame in range(frames)),
        (Moment(3, last, last, truth=True), LAST_MS),
    ]


def write_animation(scene: Scene, folder: Path) -> None:
    """The animation, and its last moment as a still; the comment of both is JSON of every text."""
    shown = moments(len(scene.simulated))
    palette = palette_of([*scene.imagined, *scene.simulated])
    # No dithering: an even area stays even, and the file small
    images = [draw(scene, moment).quantize(palette=palette, dither=Image.Dither.NONE) for moment, _ in shown]
    comment = json.dumps(texts(scene))
    gif, png, info = BytesIO(), BytesIO(), PngInfo()
    info.add_text("comment", comment)
    durations = [milliseconds for _, milliseconds in shown]
    images[0].save(gif, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0, comment=comment)
    images[-1].save(png, "PNG", optimize=True, pnginfo=info)
    write_bytes(folder / "three-answers.gif", gif.getvalue())
    write_bytes(folder / "three-answers.png", png.getvalue())


def texts(scene: Scene) -> dict[str, str]:
    """Every question and answer by its label."""
    answers = dict(zip(NAMES.values(), scene.answers, strict=True))
    return {QUESTION: scene.question, **answers, TRUTH: scene.truth}


def palette_of(frames: Sequence[Image.Image]) -> Image.Image:
    """One palette for all images, so that nothing flickers: the colours of text on paper, and those of the scene."""
    paper = ImageColor.getrgb(PAPER)
    inks = [ImageColor.getrgb(colour) for colour in (INK, MUTED, RIGHT, WRONG, ACCENT, LINE)]
    colours = [
        tuple(round(p + (i - p) * share / 7) for p, i in zip(paper, ink, strict=True))
        for ink in inks
        for share in range(8)
    ]
    colours.append(ImageColor.getrgb(EMPTY))
    strip = Image.new("RGB", (sum(frame.width for frame in frames), frames[0].height))
    for place, frame in enumerate(frames):
        strip.paste(frame, (place * frame.width, 0))
    of_scene = strip.quantize(256 - len(colours), Image.Quantize.MEDIANCUT).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette([*(value for colour in colours for value in colour), *of_scene])
    return palette


def draw(scene: Scene, moment: Moment) -> Image.Image:
    """One image of the animation."""
    page = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), PAPER)
    pen = ImageDraw.Draw(page)
    pen.rectangle((0, 0, page.width - 1, page.height - 1), outline=LINE, width=SCALE)
    # 1. The question, smaller where it would not fit
    font = ImageFont.load_default(QUESTION_SIZE)
    assert isinstance(font, ImageFont.FreeTypeFont)
    share = min(1.0, (WIDTH - 2 * MARGIN) / font.getlength(scene.question))
    text(pen, (MARGIN, 18), QUESTION, 13, MUTED)
    text(pen, (MARGIN, 36), scene.question, int(share * QUESTION_SIZE), INK)
    # 2. The image, the imagined future, the simulated one
    step = PANEL + (WIDTH - 2 * MARGIN - 3 * PANEL) // 2
    futures = ((scene.simulated, 0), (scene.imagined, moment.imagined), (scene.simulated, moment.simulated))
    for place, (name, (frames, index)) in enumerate(zip(PANELS, futures, strict=True)):
        panel(pen, page, MARGIN + place * step, name, frames, index)
    # 3. The answers, judged once the truth is known
    shown = [*scene.answers[: moment.answers], *[""] * (3 - moment.answers), scene.truth if moment.truth else ""]
    width = (WIDTH - 2 * MARGIN - 3 * CARD_GAP) // 4
    for place, (name, answer) in enumerate(zip((*NAMES.values(), TRUTH), shown, strict=True)):
        judged = answer == scene.truth if moment.truth and name != TRUTH else None
        card(pen, MARGIN + place * (width + CARD_GAP), width, name, answer, judged)
    return page


def panel(
    pen: ImageDraw.ImageDraw, page: Image.Image, left: int, name: str, frames: Sequence[Image.Image], index: int | None
) -> None:
    """A frame, enlarged by a whole number without smoothing, with its time; an empty square where none is shown."""
    text(pen, (left, PANEL_TOP - 24), name, 14, INK)
    top, side = PANEL_TOP * SCALE, PANEL * SCALE
    if index is None:
        pen.rectangle((left * SCALE, top, left * SCALE + side - 1, top + side - 1), fill=EMPTY)
        text(pen, (left + PANEL / 2, PANEL_TOP + PANEL / 2), "?", 48, LINE, anchor="mm")
        return
    factor = side // frames[index].width
    page.paste(frames[index].resize((frames[index].width * factor,) * 2, Image.Resampling.NEAREST), (left * SCALE, top))
    below = PANEL_TOP + PANEL + 6
    text(pen, (left + PANEL, below), f"+{index * FRAME_SECONDS:.3f} s" if index else "now", 13, INK, anchor="ra")
    # Progress bar of the clip, beside its time
    if name != PANELS[0]:
        track, end = below + 8, PANEL - 72
        bar(pen, left, track, end, EMPTY)
        if index:
            bar(pen, left, track, end * index / (len(frames) - 1), ACCENT)


def bar(pen: ImageDraw.ImageDraw, left: float, top: float, width: float, colour: str) -> None:
    pen.rectangle((left * SCALE, top * SCALE, (left + width) * SCALE - 1, (top + 4) * SCALE - 1), fill=colour)


def card(pen: ImageDraw.ImageDraw, left: int, width: int, name: str, answer: str, judged: bool | None) -> None:
    """An answer under its name; green with a tick where it is right, red with a cross where it is wrong."""
    colour = {None: INK, True: RIGHT, False: WRONG}[judged]
    box = (left * SCALE, CARD_TOP * SCALE, (left + width) * SCALE - 1, (CARD_TOP + CARD_HEIGHT) * SCALE - 1)
    pen.rounded_rectangle(
        box, 8 * SCALE, PAPER, LINE if judged is None else colour, SCALE if judged is None else 2 * SCALE
    )
    text(pen, (left + 12, CARD_TOP + 10), name, 13, MUTED)
    text(pen, (left + 12, CARD_TOP + 30), answer, 20, colour)
    if judged is not None:
        x, y = left + width - 30, CARD_TOP + 34
        strokes = [((0, 8), (6, 14), (16, 0))] if judged else [((1, 1), (14, 14)), ((14, 1), (1, 14))]
        for stroke in strokes:
            pen.line([((x + dx) * SCALE, (y + dy) * SCALE) for dx, dy in stroke], colour, 3 * SCALE, "curve")


def text(
    pen: ImageDraw.ImageDraw, at: tuple[float, float], words: str, size: int, colour: str, anchor: str = "la"
) -> None:
    pen.text((at[0] * SCALE, at[1] * SCALE), words, colour, ImageFont.load_default(size * SCALE), anchor=anchor)


if __name__ == "__main__":
    main()
