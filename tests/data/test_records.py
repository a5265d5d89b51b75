"""A list of dicts as a source, in every shape that rows come in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import theworld
from theworld.data.schema import Example, Message, Skipped
from theworld.data.sources import records
from theworld.data.sources.records import RowReader, TheWorldDataset

ROW = {"image": "a.png", "question": "What is it?", "answer": "A cat."}
ASKED = (Message("user", "What is it?"), Message("assistant", "A cat."))


def one(row: Any, **keys: Any) -> Example | Skipped:
    return TheWorldDataset([ROW, row], **keys)[1]


def example(row: Any, **keys: Any) -> Example:
    read = one(row, **keys)
    assert isinstance(read, Example), read
    return read


def skipped(row: Any, **keys: Any) -> str:
    read = one(row, **keys)
    assert isinstance(read, Skipped)
    assert read.id == "1"
    assert read.cause == "bad_row"
    return read.detail


def test_a_list_of_dicts_is_a_source() -> None:
    dataset = theworld.TheWorldDataset([ROW, {**ROW, "id": 7, "answer": 3, "source": "web"}])
    assert len(dataset) == 2
    assert dataset[0] == Example("0", ASKED, images=("a.png",))
    assert dataset[-1] == Example(
        "7",
        (Message("user", "What is it?"), Message("assistant", "3")),
        images=("a.png",),
        metadata={"source": "web"},
    )
    assert [row.id for row in dataset] == ["0", "7"]


def test_pictures_may_be_of_any_kind_and_number() -> None:
    picture, array = Image.new("RGB", (20, 20)), np.zeros((20, 20, 3), np.uint8)
    for value in (picture, array, b"bytes", Path("a.png")):
        assert example({**ROW, "image": value}).images == (value,)
    assert example({**ROW, "image": None}).images == ()
    assert example({"question": "q", "answer": "a"}).images == ()
    assert example({**ROW, "image": ["a.png", "b.png"]}).images == ("a.png", "b.png")
    assert example({**ROW, "image": "a.png", "images": ["b.png", None]}).images == ("a.png", "b.png")
    assert example({**ROW, "image": {"bytes": b"x", "path": "a.png"}}).images == (b"x",)
    assert example({**ROW, "image": {"bytes": None, "path": "a.png"}}).images == ("a.png",)


def test_other_names_and_a_template() -> None:
    row = {"picture": "a.png", "caption": "The cat is on the mat.", "label": 1}
    dataset = TheWorldDataset(
        [row],
        image_key="picture",
        question_key=None,
        answer_key="label",
        question_template="Statement: {caption}\nAnswer (only '0' or '1'):",
        choices=("0", "1"),
    )
    read = dataset[0]
    assert isinstance(read, Example)
    assert read.messages[0].content == "Statement: The cat is on the mat.\nAnswer (only '0' or '1'):"
    assert read.messages[1].content == "1"
    assert read.choices == ("0", "1")


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"answer": "B", "choices": ["A", "B"]}, "B"),
        ({"answer": 1, "choices": ["a cat", "a dog"]}, "a dog"),
        ({"answer": True, "choices": ["no", "yes"]}, "yes"),
        ({"answer": True, "choices": ["yes", "no"]}, "yes"),
        ({"answer": False, "choices": ["Yes", "No"]}, "No"),
        ({"answer": True, "choices": ["False", "True"]}, "True"),
        ({"answer": False, "choices": [True, False]}, "false"),
        ({"answer": True, "choices": '["true", "maybe", "yes"]'}, "true"),
        ({"answer": 1, "choices": [0, 1]}, "1"),
    ],
)
def test_a_closed_answer_is_one_of_the_choices(row: dict[str, Any], answer: str) -> None:
    read = example({**ROW, **row})
    assert read.messages[1].content == answer
    assert answer in read.choices


def test_a_boolean_is_its_text_in_json() -> None:
    assert [example({**ROW, "answer": value}).messages[1].content for value in (True, False)] == ["true", "false"]
    assert example({**ROW, "answer": "true", "choices": [True, False]}).choices == ("true", "false")


@pytest.mark.parametrize(
    "turns",
    [
        [{"from": "human", "value": "<image>\nHi"}, {"from": "gpt", "value": "Ho"}],
        [{"role": "user", "content": "<image>\nHi"}, {"role": "assistant", "content": "Ho"}],
        [
            {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "\nHi"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Ho"}]},
        ],
    ],
)
@pytest.mark.parametrize("key", ["messages", "conversations"])
def test_conversations_of_every_kind(key: str, turns: list[dict[str, Any]]) -> None:
    read = example({"image": "a.png", key: turns})
    assert read.messages == (Message("user", "<image>\nHi"), Message("assistant", "Ho"))
    assert read.images == ("a.png",)
    assert read.metadata == {}


def test_pictures_inside_a_conversation_keep_their_order() -> None:
    content = [
        {"type": "image", "image": "a.png"},
        {"type": "text", "text": " or "},
        {"type": "image", "image": "b.png"},
    ]
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": "The first."}]
    read = example({"messages": turns})
    assert read.messages[0].content == "<image> or <image>"
    assert read.images == ("a.png", "b.png")
    assert "order" in skipped({"messages": turns, "image": "c.png"})


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (["not a dict"], "expected a dict, got list"),
        ({"question": "q"}, "no answer in 'answer'"),
        ({"question": "q", "answer": ""}, "no answer in 'answer'"),
        ({"question": " ", "answer": "a"}, "no question in 'question'"),
        ({"question": ["q"], "answer": "a"}, "no question in 'question'"),
        ({"question": "q", "answer": ["a", "b"]}, "expected text or a number"),
        ({"question": "q", "answer": "c", "choices": ["a", "b"]}, "expected one of a, b"),
        ({"question": "q", "answer": 2, "choices": ["a", "b"]}, "there are 2 choices"),
        ({"question": "q", "answer": True, "choices": ["a", "b"]}, "answer 'true': expected one of a, b"),
        ({"question": "q", "answer": False, "choices": ["yes", "no", "unknown"]}, "answer 'false': expected one of"),
        ({"question": "q", "answer": "a", "choices": "ab"}, "expected a list"),
        ({"messages": "hello"}, "expected a list of turns"),
        ({"messages": []}, "expected a list of turns"),
        ({"messages": ["hello"]}, "expected a dict"),
        ({"messages": [{"role": "judge", "content": "x"}]}, "role 'judge'"),
        ({"messages": [{"role": "user", "content": "x"}]}, "the assistant says nothing"),
        ({"messages": [{"role": "user", "content": None}]}, "expected text or a list"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "expected a text or an image"),
        ({**ROW, "image": "https://example.com/a.png"}, "datacomp"),
    ],
)
def test_a_bad_row_is_skipped_with_its_reason(row: Any, reason: str) -> None:
    assert reason in skipped(row)


def test_a_row_that_the_template_does_not_fit_is_skipped() -> None:
    dataset = TheWorldDataset([{"a": 1, "answer": "x"}, {"answer": "x"}], question_key=None, question_template="{a}?")
    assert isinstance(dataset[0], Example)
    read = dataset[1]
    assert isinstance(read, Skipped)
    assert "question_template" in read.detail


@pytest.mark.parametrize(
    ("keys", "column"),
    [({"answer_key": "label"}, "label"), ({"question_key": "text"}, "text"), ({"question_template": "{b.c}"}, "b")],
)
def test_a_column_that_is_not_there_is_named_at_once(keys: dict[str, str], column: str) -> None:
    with pytest.raises(ValueError, match=f"no column '{column}' in the data, which has image, question, answer"):
        TheWorldDataset([ROW], **keys)


def test_a_template_has_no_place_in_a_conversation() -> None:
    with pytest.raises(ValueError, match="question_template"):
        TheWorldDataset([{"messages": []}], question_template="{question}")


def test_names_are_looked_up_in_the_base_folder_and_not_beyond(tmp_path: Path) -> None:
    reader = RowReader(base_folder=tmp_path)
    inside = reader.read(ROW, "0")
    assert isinstance(inside, Example)
    assert inside.images == (tmp_path.resolve() / "a.png",)
    for name in ("../a.png", "/etc/passwd"):
        outside = reader.read({**ROW, "image": name}, "0")
        assert isinstance(outside, Skipped)
        assert outside.cause == "outside_folder"


def test_pictures_on_the_hub_are_read_from_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"from the hub")

    class Hub:
        def open(self, url: str) -> Any:
            return (tmp_path / url.removeprefix("hf://datasets/me/mine/")).open("rb")

    monkeypatch.setattr(records, "HfFileSystem", Hub)
    assert example({**ROW, "image": {"bytes": None, "path": "hf://datasets/me/mine/a.png"}}).images == (
        b"from the hub",
    )
    read = one({**ROW, "image": "hf://datasets/me/mine/b.png"})
    assert isinstance(read, Skipped)
    assert read.cause == "connection"


def test_choices_nested_too_deep_are_a_bad_row() -> None:
    row = {"question": "?", "answer": "a", "choices": "[" * 100_000 + "]" * 100_000}
    skipped = RowReader().read(row, "0")
    assert isinstance(skipped, Skipped)
    assert skipped.cause == "bad_row"
