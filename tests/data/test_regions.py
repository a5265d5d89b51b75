"""Questions, answers and drawn labels speak of the same regions."""

from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from theworld.data import regions
from theworld.data.regions import COLOURS, LARGEST_SIDE, SMALLEST_SIDE, draw_regions, number_regions
from theworld.data.schema import BadSample, Message

A, B, C = ({"box": box} for box in ([10.0, 10.0, 60.0, 60.0], [80.0, 20.0, 120.0, 90.0], [5.0, 95.0, 40.0, 115.0]))


def turns(*texts: str) -> list[Message]:
    return [Message("assistant" if number % 2 else "user", text) for number, text in enumerate(texts)]


def ellipse(height: int, width: int) -> tuple[dict[str, Any], np.ndarray]:
    rows, columns = np.mgrid[:height, :width]
    mask = ((rows / height - 0.5) / 0.3) ** 2 + ((columns / width - 0.5) / 0.2) ** 2 < 1
    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [height, width], "counts": rle["counts"].decode()}, mask


def has_colour(image: Image.Image, number: int) -> np.ndarray:
    return (np.asarray(image) == COLOURS[number % len(COLOURS)]).all(axis=-1)


def test_numbers_of_each_turn_become_numbers_of_the_picture() -> None:
    conversation = turns(
        "<image>\nIs <mask> <depth> wider than <mask> <depth>?",
        "No, Region [0] is narrower than Region [1].",
        "How tall is <mask>?",
        "Region [0] is 1.2 meters tall.",
        "Who is left, <mask> <depth> or <mask> <depth>?",
        "region [1], not Region [0].",
    )
    numbered, drawn = number_regions(conversation, [A, B, C, B, C])
    assert drawn == [A, B, C]
    assert [message.content for message in numbered] == [
        "<image>\nIs Region [0] wider than Region [1]?",
        "No, Region [0] is narrower than Region [1].",
        "How tall is Region [2]?",
        "Region [2] is 1.2 meters tall.",
        "Who is left, Region [1] or Region [2]?",
        "region [2], not Region [1].",
    ]
    assert [message.role for message in numbered] == [message.role for message in conversation]


@pytest.mark.parametrize("size", [(400, 20_000), (20_000, 400), (1, 4_000_000)])
def test_a_long_strip_is_reduced(size: tuple[int, int]) -> None:
    drawn = draw_regions(Image.new("RGB", size), [{"box": [0, 0, *size]}])
    assert drawn.width * drawn.height <= 1.2 * LARGEST_SIDE**2


def test_equal_masks_are_one_region_too() -> None:
    rle = ellipse(20, 30)[0]
    numbered, drawn = number_regions(turns("<mask>?", "Region [0]", "<mask>?", "Region [0]"), [{"rle": rle}] * 2)
    assert drawn == [{"rle": rle}]
    assert [message.content for message in numbered] == ["Region [0]?", "Region [0]"] * 2


def test_without_masks_the_numbers_are_those_of_the_list() -> None:
    numbered, drawn = number_regions(turns("Is Region [0] left of Region [2]?", "Yes, Region [0] is."), [A, A, B])
    assert [message.content for message in numbered] == ["Is Region [0] left of Region [1]?", "Yes, Region [0] is."]
    assert drawn == [A, B]


@pytest.mark.parametrize(
    "texts",
    [
        ("Is <mask> here?", "Region [0] is."),  # two regions
        ("Is <mask> left of <mask> or <mask>?", "Yes."),
        ("Is <mask> left of <mask>?", "Region [2] is."),
        ("Is <mask> here?", "No, <mask> is."),
        ("Is <mask> left of <mask>?", "Yes.", "And Region [1]?", "No."),
        ("Is Region [2] here?", "Yes."),
    ],
)
def test_references_that_lead_nowhere(texts: tuple[str, ...]) -> None:
    with pytest.raises(BadSample) as error:
        number_regions(turns(*texts), [A, B])
    assert error.value.cause == "bad_row"


def test_outlines_and_labels_are_drawn_where_the_regions_are() -> None:
    white = Image.new("RGB", (640, 480), "white")
    drawn = draw_regions(white, [{"box": [100, 100, 300, 250]}, {"box": [400, 200, 600, 400]}])
    assert white.getextrema() == ((255, 255),) * 3  # the caller's picture is left alone
    assert drawn.size == white.size
    first, second = has_colour(drawn, 0), has_colour(drawn, 1)
    assert first[100:250, 100].all()
    assert first[249, 100:300].all()
    assert second[200:400, 599].all()
    assert not first[300:, 320:].any()
    assert (np.asarray(drawn)[130:220, 130:270] == 255).all()  # the inside stays as it is


def test_a_mask_goes_before_its_box_and_is_drawn_as_its_contour() -> None:
    rle, mask = ellipse(480, 640)
    drawn = has_colour(draw_regions(Image.new("RGB", (640, 480)), [{"rle": rle, "box": [0, 0, 640, 480]}]), 0)
    below_label = 100
    assert not drawn[below_label:][~mask[below_label:]].any()
    left = int(np.flatnonzero(mask[240])[0])
    assert drawn[240, left]
    assert not drawn[240, left + 12 : 640 - left - 12].any()
    assert not drawn[400:, 0].any()


def test_a_mask_of_nothing_falls_back_on_the_filled_box() -> None:
    rle = {"size": [480, 640], "counts": [480 * 640]}
    drawn = has_colour(draw_regions(Image.new("RGB", (640, 480)), [{"rle": rle, "box": [100, 100, 300, 250]}]), 0)
    assert drawn[100:250, 100].all()


def test_regions_of_a_picture_of_another_scale() -> None:
    rle, _ = ellipse(960, 1280)
    sized = {"box": [200, 200, 600, 500], "size": [960, 1280]}
    drawn = draw_regions(Image.new("RGB", (640, 480)), [{"rle": rle}, sized])
    assert has_colour(drawn, 1)[100:250, 100].all()
    assert has_colour(drawn, 0)[240].any()
    with pytest.raises(BadSample) as error:
        draw_regions(Image.new("RGB", (480, 640)), [{"rle": rle}])
    assert error.value.cause == "size_mismatch"


def test_boxes_are_clamped_to_the_picture() -> None:
    drawn = has_colour(draw_regions(Image.new("RGB", (640, 480)), [{"box": [-50.5, 300, 200, 9000]}]), 0)
    assert drawn[300:480, 0].all()
    assert drawn[479, 0:200].all()


@pytest.mark.parametrize(
    "region",
    [
        {"box": [700, 10, 800, 50]},
        {"box": [-90, 10, -10, 50]},
        {"box": [50, 50, 20, 80]},
        {"box": [50, 50, float("nan"), 80]},
        {"box": [1, 2, 3]},
        {"box": ["1", 2, 3, 4]},
        {"box": [1, 2, 30, 40], "size": [0, 10]},
        {"box": [1, 2, 30, 40], "size": ["a", 10]},
        {},
        {"rle": {"size": [480, 640], "counts": "garbage!!"}},
        {"rle": {"size": [480, 640], "counts": [5, 5]}},
        {"rle": {"size": [480, 640], "counts": [-5, 5]}},
        {"rle": {"size": [480, 640], "counts": 7}},
        {"rle": {"size": [480, 640]}},
        {"rle": {"size": [48000, 64000], "counts": [1]}},
        {"rle": {"size": [480], "counts": [1]}},
    ],
)
def test_regions_that_are_none(region: dict[str, Any]) -> None:
    with pytest.raises(BadSample) as error:
        draw_regions(Image.new("RGB", (640, 480)), [region])
    assert error.value.cause == "bad_region"


@pytest.mark.parametrize("size", [(16, 16), (80, 60), (448, 448), (2000, 1500), (40, 1600), (3000, 60)])
@pytest.mark.parametrize("background", ["white", "black", COLOURS[0]])
def test_lines_and_labels_stand_out_on_any_background_and_size(size: tuple[int, int], background: Any) -> None:
    width, height = size
    box = [0.2 * width, 0.3 * height, 0.8 * width, 0.9 * height]
    drawn = draw_regions(Image.new("RGB", size, background), [{"box": box}])
    assert min(drawn.size) >= min(SMALLEST_SIDE, min(size))
    gray = np.asarray(drawn.convert("L")).astype(int)
    labelled = has_colour(drawn, 0) if background != COLOURS[0] else gray < 40
    assert labelled.any()
    row = gray[int(0.6 * gray.shape[0])]
    assert row.max() - row.min() > 60  # the line against its rim, or its rim against what lies behind


@pytest.mark.parametrize(
    ("size", "drawn"),
    [((8192, 4096), (1792, 896)), ((8192, 1024), (3584, 448)), ((3000, 60), (3000, 60)), ((1792, 448), (1792, 448))],
)
def test_large_photos_are_reduced_before_anything_is_drawn(size: tuple[int, int], drawn: tuple[int, int]) -> None:
    boxed = [{"box": [0.25 * size[0], 0.25 * size[1], 0.75 * size[0], 0.75 * size[1]]}]
    assert draw_regions(Image.new("RGB", size), boxed).size == drawn


def test_labels_hide_neither_each_other_nor_small_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    placed: list[Any] = []
    place = regions._place_label
    monkeypatch.setattr(regions, "_place_label", lambda *given: placed.append(place(*given)) or placed[-1])
    boxes = [[300, 5, 312, 20], [0, 0, 640, 480], *[[100 + n, 100 + n, 160 + n, 150 + n] for n in range(10)]]
    drawn = draw_regions(Image.new("RGB", (640, 480), "gray"), [{"box": box} for box in boxes])
    assert len(placed) == len(boxes)
    for number, label in enumerate(placed):
        assert 0 <= label[0] < label[2] <= drawn.width
        assert 0 <= label[1] < label[3] <= drawn.height
        assert not any(regions._overlap(label, other) for other in placed[:number])
    assert has_colour(drawn, 0)[5:20, 300:312].any()


def test_drawing_is_the_same_every_time() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 130, 3), dtype=np.uint8))
    assert draw_regions(picture, [A, B, C]).tobytes() == draw_regions(picture, [A, B, C]).tobytes()
