"""A file of one's own as a benchmark, closed or open, in every format."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from theworld.data.images import open_image
from theworld.data.schema import Message, SourceSettings
from theworld.evaluation.tasks import TASKS
from theworld.evaluation.tasks.base import TaskItems, image_name
from theworld.evaluation.tasks.custom import normalised

TASK = TASKS["custom"]
ROWS: list[dict[str, Any]] = [
    {
        "id": "a",
        "image": "1.png",
        "question": "What colour?",
        "answer": "red",
        "choices": ["red", "blue"],
        "category": "",
    },
    {"id": "b", "image": "1.png", "question": "What is it?", "answer": "A ball.", "choices": [], "category": "names"},
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def write(folder: Path, form: str, rows: list[dict[str, Any]] = ROWS) -> Path:
    Image.new("RGB", (24, 24), "red").save(folder / "1.png")
    path = folder / f"rows.{form}"
    if form == "json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif form == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, ["id", "image", "question", "answer", "choices", "category"])
            table.writeheader()
            table.writerows([{**row, "choices": json.dumps(row["choices"]) if row["choices"] else ""} for row in rows])
    return path


def load(path: Path, **settings: Any) -> TaskItems:
    return TASK.load(SourceSettings(path=str(path), **settings))


@pytest.mark.parametrize("form", ["json", "jsonl", "parquet", "csv"])
def test_every_format(tmp_path: Path, form: str) -> None:
    loaded = load(write(tmp_path, form))
    assert loaded.skipped == ()
    closed, open_ = loaded.items
    assert (closed.id, closed.answer, closed.choices, closed.family) == ("a", "red", ("red", "blue"), "all")
    assert (open_.id, open_.answer, open_.choices, open_.family) == ("b", "A ball.", (), "names")
    assert closed.messages == (Message("user", "What colour?"),)
    assert closed.cluster == open_.cluster == f"{tmp_path.name}/1.png"
    assert open_image(closed.images[0]).getpixel((0, 0)) == (255, 0, 0)


def test_closed_and_open_answers(tmp_path: Path) -> None:
    closed, open_ = load(write(tmp_path, "jsonl")).items
    expected = {"red": ("red", 1), "It is red.": ("red", 1), "blue": ("blue", 0), "green": (None, 0), "": (None, 0)}
    for output, (parsed, right) in expected.items():
        assert (TASK.score(closed, output).parsed, TASK.score(closed, output).right) == (parsed, right), output
    rows = [{**ROWS[0], "choices": ["left_hand", "*", "“so-so”"], "answer": "*"}]
    (item,) = load(write(tmp_path, "jsonl", rows)).items
    assert [TASK.score(item, choice).parsed for choice in item.choices] == list(item.choices)
    for output in ("A ball.", "a  ball", ' "A ball" '):
        assert TASK.score(open_, output).right == 1.0, output
    assert (TASK.score(open_, "ball").parsed, TASK.score(open_, "ball").right) == ("ball", 0.0)
    assert TASK.score(open_, " ").parsed is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("-5", "5", False), (".5", "5", False), ("5.", "5", True), ("C++", "c", False), ("“Yes!”", "yes", True)],
)
def test_normalising_keeps_what_matters(one: str, other: str, same: bool) -> None:
    assert (normalised(one) == normalised(other)) is same


def test_bad_rows_are_told_and_ids_stay_apart(tmp_path: Path) -> None:
    rows = [ROWS[0], {**ROWS[0], "answer": "green"}, {**ROWS[0], "answer": "blue"}]
    loaded = load(write(tmp_path, "jsonl", rows))
    assert [(item.id, item.answer) for item in loaded.items] == [("a", "red"), ("a#2", "blue")]
    assert [(bad.id, bad.cause) for bad in loaded.skipped] == [("a", "bad_row")]
    with pytest.raises(ValueError, match="none of 1 rows can be used: a: answer 'green': expected one of red, blue"):
        load(write(tmp_path, "jsonl", rows[1:2]))


def test_the_last_turn_is_what_is_asked_for(tmp_path: Path) -> None:
    turns = [("user", "Hello"), ("assistant", "Hi"), ("user", "2 + 2?"), ("assistant", "4"), ("user", "Thanks")]
    messages = [{"role": role, "content": content} for role, content in turns]
    loaded = load(write(tmp_path, "jsonl", [{"id": "x", "messages": messages[:4]}, {"id": "y", "messages": messages}]))
    (item,) = loaded.items
    assert (item.messages, item.answer) == (tuple(Message(*turn) for turn in turns[:3]), "4")
    assert [(bad.id, bad.detail) for bad in loaded.skipped] == [
        ("y", "the last turn is the user's: expected the answer")
    ]


def test_a_table_without_pictures(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "image": ""}, {**ROWS[1], "image": "", "choices": "A ball, a box"}]
    loaded = load(write(tmp_path, "csv", rows))
    assert [(item.images, item.cluster, item.choices) for item in loaded.items] == [((), "", ("red", "blue"))]
    assert "expected a list; as text in JSON" in loaded.skipped[0].detail


def test_streams(tmp_path: Path) -> None:
    assert [item.id for item in load(write(tmp_path, "jsonl"), streaming=True).items] == ["a", "b"]


def test_the_most_frequent_answer_of_a_family(tmp_path: Path) -> None:
    """Of the other items: red and blue tie for a red one, red is wrong for the blue one, and names have no other."""
    answers = enumerate(("red", "red", "blue"))
    rows = [{**ROWS[0], "id": str(n), "answer": answer, "cluster": str(n)} for n, answer in answers]
    rows.append({**ROWS[1], "cluster": "3"})
    assert TASK.baselines(load(write(tmp_path, "jsonl", rows)).items) == {"majority_answer": 1 / 4}


def test_pictures_are_told_apart_by_name_or_content(tmp_path: Path) -> None:
    path = write(tmp_path, "jsonl").with_name("1.png")
    assert image_name([str(path)]) == image_name([path]) == f"{tmp_path.name}/1.png"
    assert image_name([path.read_bytes()]) != image_name([path.read_bytes() + b"0"])
    with Image.open(path) as image:
        assert image_name([image]) == image_name([image.copy(), "2.png"])
    assert image_name([]) == ""
