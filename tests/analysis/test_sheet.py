"""The labelled sheet: every scene has room, right answers are green, frames keep their pixels."""

import pytest
from PIL import Image, ImageColor

from theworld.analysis.sheet import FRAME, GAP, LABELS, MARGIN, RIGHT, WRONG, SheetScene, labelled_sheet


def frames(count: int, width: int = 32, height: int = 32) -> list[Image.Image]:
    return [Image.new("RGB", (width, height), (place * 10, 100, 200)) for place in range(count)]


def has(sheet: Image.Image, colour: str) -> bool:
    found = sheet.getcolors(sheet.width * sheet.height)
    assert found is not None
    return ImageColor.getrgb(colour) in {pixel for _, pixel in found}


def test_right_answers_are_green_and_wrong_ones_red() -> None:
    scene = SheetScene("Which bin?", {"rollout": "blue"}, frames(5), 0.25, frames(5), truth="blue")
    sheet = labelled_sheet([scene])
    assert has(sheet, RIGHT)
    assert not has(sheet, WRONG)
    other = SheetScene("Which bin?", {"plain": "red", "rollout": "blue"}, frames(5), 0.25, truth="blue")
    assert has(labelled_sheet([other]), WRONG)
    unknown = SheetScene("Which bin?", {"plain": "red"}, frames(5), 0.25)
    assert not (has(labelled_sheet([unknown]), RIGHT))
    assert not (has(labelled_sheet([unknown]), WRONG))


def test_right_and_wrong_do_not_differ_in_colour_alone() -> None:
    def in_black(truth: str) -> bytes:
        """The name and the answer of the sheet, up to the truth behind them, without colour."""
        sheet = labelled_sheet([SheetScene("Which bin?", {"rollout": "blue"}, frames(5), 0.25, truth=truth)])
        answer = sheet.crop((MARGIN, MARGIN + 30, MARGIN + 155, MARGIN + 60))
        return answer.convert("L").point(lambda value: 255 * (value > 150)).tobytes()

    assert in_black("blue") != in_black("grey")
    assert in_black("grey") == in_black("gold")


def test_frames_are_neither_squashed_nor_smoothed() -> None:
    sheet = labelled_sheet([SheetScene("What happens next?", {}, frames(13, 64, 32), 0.125)])
    assert sheet.width >= 2 * MARGIN + LABELS + 13 * (2 * FRAME + GAP)
    for place in range(13):
        assert has(sheet, f"#{place * 10:02x}64c8")


def test_a_block_a_scene() -> None:
    one = SheetScene("?", {"rollout": "yes"}, frames(3), 0.25)
    both = SheetScene("?", {"rollout": "yes"}, frames(3), 0.25, frames(3))
    assert labelled_sheet([both]).height == labelled_sheet([one]).height + FRAME + GAP
    assert labelled_sheet([one, both]).height == labelled_sheet([one]).height + labelled_sheet([both]).height - MARGIN


@pytest.mark.parametrize("truth", ["", "green"])
def test_long_answers_stay_on_the_sheet(truth: str) -> None:
    told = (
        "The pink ball falls onto the ramp.\nThen it rolls to the left and lands in the green bin, beside the wall. "
        * 4
    )
    answers = {"plain Gemma 3": told, "current frame": "", "rollout": told}
    sheet = labelled_sheet([SheetScene(told, answers, frames(9), 0.125, truth=truth)])
    edge = sheet.crop((sheet.width - MARGIN, 0, sheet.width, sheet.height))
    assert edge.getcolors() == [(edge.width * edge.height, (255, 255, 255))]
