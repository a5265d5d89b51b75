"""BLINK as its authors ask and count it, on rows of its format and on the real Relative_Depth questions."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.evaluation.reference import reference_data
from theworld.data.images import open_image
from theworld.data.schema import SourceSettings
from theworld.evaluation.store.predictions import Item, Prediction
from theworld.evaluation.tasks import TASKS

BLINK = TASKS["blink"]
DEPTH = "Which point is closer?\nSelect from the following choices.\n(A) A is closer\n(B) B is closer"
JIGSAW = "Which one fits?\nSelect from the following choices.\n(A) the second image\n(B) the third image"
COUNT = "How many?\nSelect from the following choices.\n(A) 1\n(B) 2\n(C) 3\n(D) 4"


def row(subtask: str, number: int, prompt: str, answer: str, pictures: int = 1, **changes: Any) -> dict[str, Any]:
    images = {f"image_{n}": f"{n}.png" for n in range(1, pictures + 1)}
    return {
        "idx": f"val_{subtask}_{number}",
        "sub_task": subtask,
        "prompt": prompt,
        "answer": f"({answer})",
        "choices": [line[4:] for line in prompt.splitlines() if line.startswith("(")],
        **images,
        **changes,
    }


ROWS = [
    *(row("Relative_Depth", number, DEPTH, answer) for number, answer in enumerate("AAB", 1)),
    row("Jigsaw", 1, JIGSAW, "B", pictures=3),
    *(row("Counting", number, COUNT, answer) for number, answer in enumerate("DDDA", 1)),
]


def write(folder: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    for number in range(1, 5):
        Image.new("RGB", (24, 24), (40 * number, 0, 0)).save(folder / f"{number}.png")
    (folder / "val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / "val.jsonl"


def load(path: Path, **settings: Any) -> tuple[Item, ...]:
    return BLINK.load(SourceSettings(path=str(path), **settings)).items


def predictions(items: tuple[Item, ...], outputs: list[str]) -> list[Prediction]:
    rows = []
    for item, output in zip(items, outputs, strict=True):
        score = BLINK.score(item, output)
        rows.append(Prediction(item.id, "", item.answer, output, item.family, item.cluster, score.parsed, score.right))
    return rows


def test_items(tmp_path: Path) -> None:
    items = load(write(tmp_path))
    assert Counter(item.family for item in items) == {"Relative_Depth": 3, "Jigsaw": 1, "Counting": 4}
    depth, jigsaw, count = items[0], items[3], items[4]
    assert (depth.id, depth.answer, depth.choices) == ("val_Relative_Depth_1", "A", ("A", "B"))
    assert [message.content for message in depth.messages] == [DEPTH]
    assert [open_image(picture).getpixel((0, 0)) for picture in jigsaw.images] == [(40 * n, 0, 0) for n in (1, 2, 3)]
    (message,) = jigsaw.messages
    assert message.content.startswith("Disclaimer: This is not to make unfair assumptions about the people")
    assert message.content.endswith(f"I gave you.\n\n{JIGSAW}")
    assert (count.answer, count.choices) == ("D", ("A", "B", "C", "D"))
    for item in items:  # as the scorer that compares them says them
        assert [BLINK.score(item, choice).parsed for choice in item.choices] == list(item.choices)
    assert count.cluster == depth.cluster != ""  # the same picture


def test_a_template_says_it_all(tmp_path: Path) -> None:
    items = load(write(tmp_path), question_template="{prompt}\nA letter:")
    assert items[0].messages[0].content == f"{DEPTH}\nA letter:"
    assert items[3].messages[0].content == f"{JIGSAW}\nA letter:"


def test_the_subtask_is_also_read_from_the_id(tmp_path: Path) -> None:
    rows = [row("Multi-view_Reasoning", 12, DEPTH, "A", sub_task=None), row("x", 1, DEPTH, "B", idx="7", sub_task=None)]
    loaded = BLINK.load(SourceSettings(path=str(write(tmp_path, rows))))
    assert [item.family for item in loaded.items] == ["Multi-view_Reasoning"]
    assert [(bad.id, bad.cause) for bad in loaded.skipped] == [("7", "bad_row")]


def test_hidden_answers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="answers of BLINK's test split are hidden .* use split 'val'"):  # noqa: RUF043
        load(write(tmp_path), split="test")
    with pytest.raises(ValueError, match="hidden"):
        load(write(tmp_path, [{**ROWS[3], "answer": "hidden"}]))
    mixed = [ROWS[0], {**ROWS[3], "answer": "hidden"}]
    loaded = BLINK.load(SourceSettings(path=str(write(tmp_path, mixed))))
    assert (len(loaded.items), [bad.cause for bad in loaded.skipped]) == (1, ["hidden_answer"])


def test_a_letter_is_right_or_wrong_and_nothing_else_counts(tmp_path: Path) -> None:
    item = load(write(tmp_path))[0]
    for output in ("A", "(A)", "(A) A is closer", "The answer is (A).", "A is closer"):
        assert BLINK.score(item, output).parsed == "A", output
        assert BLINK.score(item, output).right == 1.0
    for output, parsed in (("B", "B"), ("(B) B is closer", "B"), ("", None), ("(D)", None), ("I cannot tell.", None)):
        assert (BLINK.score(item, output).parsed, BLINK.score(item, output).right) == (parsed, 0.0), output


def test_both_totals(tmp_path: Path) -> None:
    """Depth 2 of 3, Jigsaw 1 of 1, Counting 1 of 4: by sub-task 23/36, by question 4/8."""
    items = load(write(tmp_path))
    rows = predictions(items, ["A", "A", "A", "B", "D", "A", "", "D"])
    assert [row.score for row in rows] == [1, 1, 0, 1, 1, 0, 0, 0]
    measures = BLINK.measures(rows)
    assert measures == {"mean_of_subtasks": pytest.approx(23 / 36), "pooled": 0.5}  # a count is no measure
    unknown = Prediction("row", "", "", "", failed="bad_row: no picture")
    assert BLINK.measures([*rows, unknown]) == {**measures, "pooled": 4 / 9}


def test_baselines(tmp_path: Path) -> None:
    """Of the other items, A and B tie for the depth's two A; the jigsaw has no other; D for counting 3/4."""
    baselines = BLINK.baselines([replace(item, cluster=item.id) for item in load(write(tmp_path))])
    assert baselines == {
        "majority_letter": 4.5 / 8,
        "majority_letter_mean_of_subtasks": pytest.approx((1 / 3 + 1 / 2 + 3 / 4) / 3),
    }


def test_real_relative_depth() -> None:
    items = load(reference_data("blink_relative_depth"))
    assert len(items) == 124
    assert {item.family for item in items} == {"Relative_Depth"}
    assert len({item.cluster for item in items}) == 124
    assert BLINK.measures(predictions(items, [f"({item.answer})" for item in items]))["pooled"] == 1.0
    gold = predictions(items, [item.answer for item in items])
    always_a, silent = predictions(items, ["A"] * 124), predictions(items, [""] * 124)
    totals = [sum(row.score for row in rows) for rows in (gold, always_a, silent)]
    unparsed = [sum(row.parsed is None for row in rows) for rows in (gold, always_a, silent)]
    print(f"Relative_Depth: gold, A and nothing score {totals} of 124; unparsed {unparsed}")
    assert totals == [124, 64, 0]
    assert unparsed == [0, 0, 124]
    assert BLINK.baselines(items)["majority_letter"] <= 64 / 124
    assert open_image(items[0].images[0]).width > 200
