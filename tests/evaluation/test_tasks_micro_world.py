"""The micro-world's questions as a benchmark: families apart, items of one scene together."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from theworld.cli.main import main
from theworld.data.schema import SourceSettings
from theworld.evaluation.store.predictions import Item, Prediction
from theworld.evaluation.tasks import TASKS
from theworld.utils.io import read_jsonl

TASK = TASKS["micro_world"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "test"
    assert (
        main(["nano", "scenes", str(folder), "--split=test", "--drop=3", "--race=3", "--stack=3", "--workers=1"]) == 0
    )
    return folder


@pytest.fixture(scope="module")
def items(folder: Path) -> tuple[Item, ...]:
    return TASK.load(SourceSettings(path=str(folder))).items


def test_items(folder: Path, items: tuple[Item, ...]) -> None:
    rows = list(read_jsonl(folder / "questions.jsonl"))
    assert [item.id for item in items] == [row["id"] for row in rows]
    assert [item.messages[0].content for item in items] == [row["question"] for row in rows]
    assert [item.family for item in items] == [f"{row['kind']}/{row['family']}" for row in rows]
    assert [item.cluster for item in items] == [f"scene-{row['clip']}" for row in rows]
    assert all(item.answer in item.choices for item in items)
    for item in items:  # as the scorer that compares them says them
        assert [TASK.score(item, choice).parsed for choice in item.choices] == list(item.choices)
    frames = np.load(folder / "frames.npy")
    for item, row in zip(items, rows, strict=True):
        (picture,) = item.images
        assert np.array_equal(picture, frames[row["clip"], row["frame"]])
        assert picture.base is None  # keeps no clip alive


def test_scores_and_measures(items: tuple[Item, ...]) -> None:
    item = items[0]
    wrong = next(choice for choice in item.choices if choice != item.answer)
    outputs = (item.answer, f"{item.answer.capitalize()}.", wrong, "", f"{item.answer} or {wrong}", "perhaps")
    scores = [TASK.score(item, output) for output in outputs]
    assert [(score.parsed, score.right) for score in scores] == [
        *[(item.answer, 1.0)] * 2, (wrong, 0.0), *[(None, 0.0)] * 3,
    ]  # fmt: skip
    rows = [
        Prediction(item.id, "", item.answer, "", item.family, score=float(item.family.startswith("predictive")))
        for item in items
    ]
    rows.append(Prediction("row", "", "", "", failed="bad_row: no picture"))
    assert TASK.measures(rows) == {"static_accuracy": 0.0, "predictive_accuracy": 1.0}


def test_floors(items: tuple[Item, ...]) -> None:
    most = 0
    for family in {item.family for item in items}:
        most += Counter(item.answer for item in items if item.family == family).most_common(1)[0][1]
    floors = TASK.floors(items)
    assert 0 < floors["majority_answer"] < most / len(items)  # counted on other items than those that are scored
    assert floors["chance"] == pytest.approx(np.mean([1 / len(item.choices) for item in items]))
    assert 0.2 < floors["chance"] < 0.5


def test_clips_are_no_questions(folder: Path) -> None:
    with pytest.raises(ValueError, match="does not use clip_frames=9"):
        TASK.load(SourceSettings(path=str(folder), clip_frames=9))
