"""SpatialRGPT-Bench: the official measures on rows that were counted by hand, each read by rules on both sides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from theworld.data.schema import SourceSettings
from theworld.evaluation.store.predictions import Item, Prediction
from theworld.evaluation.tasks import TASKS
from theworld.evaluation.tasks.spatial_rgpt import best_constant, group_of, hours_apart

TASK = TASKS["spatial_rgpt"]
BOXES = [[10.0, 20.0, 110.0, 220.0], [300.0, 40.0, 420.0, 260.0]]


def row(category: str, question: str, answer: str, number: int = 0, **changes: Any) -> dict[str, Any]:
    kind = "qualitative" if category.endswith(("predicate", "choice")) else "quantitative"
    return {
        "id": f"{kind}_{category}_{number}",
        "image_info": {"file_path": f"kitti/{number}.png", "height": 300, "width": 500},
        "text_q": question,
        "qa_info": {"type": kind, "category": category},
        "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}],
        "bbox": BOXES[: question.count("<mask>")],
        "rle": [],
        **changes,
    }


SMALLER = "Can you confirm if <mask> is smaller than <mask>?"
LEFT = "Who is positioned more to the left, <mask> or <mask>?"
FAR = "Estimate the vertical distance between <mask> and <mask>."
WIDE = "How wide is <mask>?"
WHERE = "If you are at <mask>, where will you find <mask>?"
ROWS = [
    row("small_predicate", SMALLER, "Incorrect, Region [0] is not smaller in size than Region [1].", 0),
    row("small_predicate", SMALLER, "Indeed, Region [0] has a smaller size compared to Region [1].", 1),
    row("left_choice", LEFT, "From the viewer's perspective, Region [0] appears more on the left side.", 2),
    row("vertical_distance_data", FAR, "A vertical distance of 10.0 feet exists between Region [0] and Region [1].", 3),
    row("width_data", WIDE, "Region [0] is 2.0 meters wide.", 4),
    row("width_data", WIDE, "The width of Region [0] is 50 centimeters.", 5),
    row("direction", WHERE, "Region [1] is roughly at 1 o'clock from Region [0].", 6),
    row("direction", WHERE, "Region [0] will find Region [1] around the 6 o'clock direction.", 7),
]


def write(folder: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    (folder / "kitti").mkdir(exist_ok=True)
    for number in range(len(rows)):
        Image.new("RGB", (500, 300), (20 * number, 90, 90)).save(folder / "kitti" / f"{number}.png")
    (folder / "bench.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder / "bench.json"


def load(path: Path, **settings: Any) -> tuple[Item, ...]:
    return TASK.load(SourceSettings(path=str(path), image_folder=path.parent, **settings)).items


def predictions(items: tuple[Item, ...], outputs: list[str]) -> list[Prediction]:
    rows = []
    for item, output in zip(items, outputs, strict=True):
        score = TASK.score(item, output)
        known = Prediction(item.id, "", item.answer, output, item.family, item.cluster, score.parsed, score.right)
        rows.append(Prediction(**{**vars(known), "figures": score.figures}))
    return rows


def test_items(tmp_path: Path) -> None:
    items = load(write(tmp_path))
    assert [item.family for item in items] == [row["qa_info"]["category"] for row in ROWS]
    assert [item.metadata["truth"] for item in items[:3] + items[6:]] == ["no", "yes", "Region [0]", 1, 6]
    assert [item.metadata["truth"] for item in items[3:6]] == pytest.approx([3.048, 2.0, 0.5])
    assert items[0].messages[-1].content == (
        "Can you confirm if Region [0] is smaller than Region [1]?\nAnswer yes or no."
    )
    assert items[2].messages[-1].content.endswith("\nAnswer with one of: Region [0], Region [1].")
    assert [item.choices for item in items[:5:2]] == [("Yes", "No"), ("Region [0]", "Region [1]"), ()]
    for item in items:  # as the scorer that compares them says them
        assert [TASK.score(item, choice).parsed for choice in item.choices] == [
            choice.replace("Yes", "yes").replace("No", "no") for choice in item.choices
        ]
    assert items[0].answer == ROWS[0]["conversations"][1]["value"]
    assert items[3].cluster == "kitti/3.png"
    assert items[0].metadata["draw_regions"]
    assert [region["box"] for region in items[0].metadata["regions"]] == BOXES


def test_a_template_says_it_all(tmp_path: Path) -> None:
    items = load(write(tmp_path), question_template="{question} Be brief.", draw_bboxes=False)
    assert items[4].messages[-1].content == "How wide is Region [0]? Be brief."
    assert not items[4].metadata["draw_regions"]


def test_rows_that_no_rule_reads_are_told(tmp_path: Path) -> None:
    rows = [
        row("width_data", WIDE, "Rather wide.", 0),
        row("width_data", WIDE, "It is 0 meters wide.", 1),
        row("left_choice", LEFT, "Neither of them.", 2),
        row("colour", WIDE, "Red.", 3),
        row("width_data", WIDE, "It is 1 meter wide.", 4),
    ]
    loaded = TASK.load(SourceSettings(path=str(write(tmp_path, rows)), image_folder=tmp_path))
    assert [item.id for item in loaded.items] == ["quantitative_width_data_4"]
    assert [bad.cause for bad in loaded.skipped] == ["bad_row"] * 4
    assert "'Rather wide.': cannot be read as that of a width_data" in loaded.skipped[0].detail
    with pytest.raises(ValueError, match=r"none of 4 rows can be used: quantitative_width_data_0: answer 'Rather"):
        load(write(tmp_path, rows[:4]))


def test_the_ground_truths_score_full_marks(tmp_path: Path) -> None:
    items = load(write(tmp_path))
    rows = predictions(items, [item.answer for item in items])
    assert [row.score for row in rows] == [1.0] * len(ROWS)
    assert TASK.measures(rows) == {
        "qualitative_accuracy": 1.0, "big_small_accuracy": 1.0, "left_right_accuracy": 1.0,
        "quantitative_success": 1.0, "parsed_share": 1.0,
        "vertical_distance_success": 1.0, "vertical_distance_relative_error": 0.0,
        "vertical_distance_parsed_share": 1.0,
        "width_success": 1.0, "width_relative_error": 0.0, "width_parsed_share": 1.0,
        "direction_success": 1.0, "direction_error_degrees": 0.0, "direction_parsed_share": 1.0,
    }  # fmt: skip


@pytest.mark.parametrize("word", ["Actually", "In fact", "No", "Incorrect", "That is False"])
def test_how_the_benchmark_says_no(tmp_path: Path, word: str) -> None:
    rows = [row("wide_predicate", WIDE, f"{word}, Region [0] might be narrower.")]
    (item,) = load(write(tmp_path, rows))
    assert item.metadata["truth"] == "no"
    assert [TASK.score(item, output).right for output in ("No", "In fact, it is narrower.", "Yes", "It is.")] == [
        1,
        1,
        0,
        0,
    ]


@pytest.mark.parametrize(
    ("output", "parsed"),
    [
        ("Region [1]", "Region [1]"),
        ("region 0", "Region [0]"),
        ("Region [4]", None),
        ("Region [0] or Region [1]", None),
    ],
)
def test_only_regions_that_were_asked_about(tmp_path: Path, output: str, parsed: str | None) -> None:
    assert TASK.score(load(write(tmp_path))[2], output).parsed == parsed


def test_measures(tmp_path: Path) -> None:
    """Counted by hand: 2 of 3 qualitative; 3.9 of 3.048 m is too far, 1.5 of 2 m the bound, 12 and 1 o'clock near."""
    items = load(write(tmp_path))
    outputs = ["No.", "No.", "Region [0]", "3.9 meters", "Region [0] is 150 cm wide.", "It is wide.", "12 o'clock", ""]
    rows = predictions(items, outputs)
    assert [row.score for row in rows] == [1, 0, 1, 0, 1, 0, 1, 0]
    assert [row.parsed is None for row in rows] == [False] * 5 + [True, False, True]
    measures = TASK.measures(rows)
    assert measures["qualitative_accuracy"] == pytest.approx(2 / 3)
    assert (measures["big_small_accuracy"], measures["left_right_accuracy"]) == (0.5, 1.0)
    assert measures["quantitative_success"] == 2 / 5
    assert (measures["width_success"], measures["width_parsed_share"]) == (0.5, 0.5)  # unread is wrong,
    assert measures["width_relative_error"] == pytest.approx(0.25)  # and has no error
    assert measures["vertical_distance_success"] == 0
    assert measures["vertical_distance_relative_error"] == pytest.approx(0.852 / 3.048)
    assert (measures["direction_success"], measures["direction_error_degrees"]) == (0.5, 30.0)
    assert measures["parsed_share"] == 6 / 8
    unknown = Prediction("row", "", "", "", failed="bad_row: no picture")
    assert TASK.measures([*rows, unknown]) == {**measures, "parsed_share": 6 / 9}


def test_nothing_read_has_no_error(tmp_path: Path) -> None:
    items = load(write(tmp_path))
    measures = TASK.measures(predictions(items, [""] * len(items)))
    assert not [name for name in measures if "error" in name]
    assert set(measures.values()) == {0.0}


@pytest.mark.parametrize(("said", "right"), [("1.5 m", 1), ("1.49 m", 0), ("2.5 m", 1), ("2.51 m", 0)])
def test_bounds_of_a_length(tmp_path: Path, said: str, right: float) -> None:
    assert TASK.score(load(write(tmp_path))[4], said).right == right


@pytest.mark.parametrize(("one", "other", "apart"), [(12, 1, 1), (1, 12, 1), (6, 12, 6), (11, 2, 3), (3, 3, 0)])
def test_hours(one: int, other: int, apart: int) -> None:
    assert hours_apart(one, other) == apart


def test_baselines(tmp_path: Path) -> None:
    """Of the other items: 1.5 m gets 1.25 m and ties; 1 o'clock gets 12, 1 and 2, twice in a tie; yes ties for yes."""
    widths = [row("width_data", WIDE, f"It is {metres} meters wide.", n) for n, metres in enumerate((2, 1.25, 0.3))]
    hours = [row("direction", WHERE, f"It is at {hour} o'clock.", 3 + n) for n, hour in enumerate((12, 1, 2, 7))]
    asked = [
        row("small_predicate", SMALLER, f"{word}, so it is.", 7 + n) for n, word in enumerate(("Yes", "Yes", "No"))
    ]
    items = load(write(tmp_path, [*widths, *hours, *asked]))
    assert [best_constant(items[:3]), best_constant(items[3:7]), best_constant(items[7:])] == [0.5, 2, 1]
    assert TASK.baselines(items) == {
        "best_constant": 3.5 / 10,
        "best_constant_width_data": 0.5 / 3,
        "best_constant_direction": 2 / 4,
        "best_constant_small_predicate": 1 / 3,
    }


def test_groups() -> None:
    names = {
        "distance_data": "direct_distance", "horizontal_distance_data": "horizontal_distance", "width_data": "width",
        "direction": "direction", "short_choice": "tall_short", "behind_predicate": "behind_front",
        "thin_predicate": "wide_thin", "above_choice": "below_above", "right_predicate": "left_right",
    }  # fmt: skip
    assert {category: group_of(category) for category in names} == names
