"""A list of dicts as a source, in every shape that rows come in."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
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


@pytest.mark.parametrize(
    ("answer", "choices", "text"),
    [(3, ["1", "2", "3"], "3"), (0, ["1", "2", "3"], "1"), (np.int64(1), ["a", "b"], "b"), (0, ["0", "1"], "0")],
)
def test_an_integer_that_can_be_only_one_choice_is_that(answer: Any, choices: list[str], text: str) -> None:
    assert example({**ROW, "answer": answer, "choices": choices}).messages[1].content == text


def test_an_integer_that_can_be_two_choices_is_skipped() -> None:
    assert "answer 1 is a choice, and as a number the index of '2'" in skipped(
        {**ROW, "answer": 1, "choices": ["1", "2", "3"]}
    )


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (np.bool_(True), "true"), (np.int64(3), "3"), (np.float32(0.1), "0.1"), (np.str_("x"), "x"),
        (Decimal("2.50"), "2.50"), (date(2020, 1, 2), "2020-01-02"), (datetime(2020, 1, 2, 3), "2020-01-02T03:00:00"),
    ],
)  # fmt: skip
def test_an_answer_that_is_one_text(answer: Any, text: str) -> None:
    assert example({**ROW, "answer": answer}).messages[1].content == text
    assert example({**ROW, "note": answer}, question_template="{note}?").messages[0].content
    assert example({**ROW, "answer": text, "choices": [answer, "other"]}).choices == (text, "other")


@pytest.mark.parametrize(
    "answer",
    [
        pd.NA, pd.NaT, np.float32("nan"), np.float64("inf"), Decimal("sNaN"), ("a", "b"), {"a"}, bytearray(b"x"), b"x",
        object(), Image.new("RGB", (20, 20)), np.array(1), np.timedelta64(1, "s"), 1 + 2j, Path("x"), range(3),
    ],
)  # fmt: skip
def test_an_answer_that_is_no_text_is_skipped(answer: Any) -> None:
    assert "expected text or a number" in skipped({**ROW, "answer": answer})
    assert "expected texts or numbers" in skipped({**ROW, "choices": [answer, "A cat."]})
    if not isinstance(answer, tuple):
        assert "question_template does not fit the row: {topic} is" in skipped(
            {**ROW, "topic": answer}, question_template="On {topic}?"
        )


def test_an_empty_field_of_a_template_is_skipped() -> None:
    row = {**ROW, "topic": None}
    assert "question_template does not fit the row: {topic} is 'None'; expected a text" in skipped(
        row, question_template="On {topic}?"
    )
    assert "no question" in skipped({**ROW, "topic": " "}, question_template="{topic}")


@pytest.mark.parametrize(
    "image", [{"bytes": b"", "path": None}, {"bytes": None, "path": ""}, {"path": ""}, {"bytes": b"", "path": "a.png"}]
)
def test_an_image_of_nothing_is_skipped(image: dict[str, Any]) -> None:
    assert "neither bytes nor path" in skipped({**ROW, "image": image})
    assert "neither bytes nor path" in skipped({**ROW, "images": ["a.png", image]})


@pytest.mark.parametrize(
    "columns",
    [
        {"image": None, "img": "b.png"}, {"image": None, "file_name": "c.png"}, {"file_name": "c.png"},
        {"image2": "b.png"}, {"image2": [None, "b.PNG"]}, {"mask": np.zeros((20, 20, 3), np.uint8)},
        {"mask": Path("b.png")}, {"mask": {"path": "b.png"}},
    ],
)  # fmt: skip
def test_an_image_that_would_not_be_read_is_skipped(columns: dict[str, Any]) -> None:
    name = next(name for name in columns if name != "image")
    assert f"column '{name}' holds an image that is not read" in skipped({**ROW, **columns})
    named = one({**ROW, **columns}, image_key="image")  # the user says which is the image
    assert isinstance(named, Example if columns.get("image", "a.png") else Skipped)
    assert isinstance(one({**ROW, "url": "https://example.com/a.png"}), Example)


def test_a_second_image_in_every_row_is_an_error_that_says_how_to_choose() -> None:
    with pytest.raises(
        ValueError, match=r'image2 holds images; expected one of image, .*: columns=\{"image": "image"\}'
    ):
        TheWorldDataset([{**ROW, "image2": "b.png"}])
    assert isinstance(TheWorldDataset([{**ROW, "image2": "b.png"}], image_key="image")[0], Example)
