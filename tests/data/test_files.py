"""The user's own files and folders as a source, without a line of code."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict
from PIL import Image

from theworld.data.images import open_image
from theworld.data.open_source import open_source
from theworld.data.schema import Example, Message, Skipped, SourceSettings

ROWS = [
    {"image": "a.png", "question": "What is it?", "answer": "A cat."},
    {"image": "b.png", "question": "And this?", "answer": "A dog."},
]
CHAT = [
    {
        "images": ["a.png"],
        "messages": [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
            {"role": "assistant", "content": "A cat."},
        ],
    }
]
LLAVA = [
    {
        "id": "7",
        "image": "a.png",
        "conversations": [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat."}],
    }
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures, beside which a test writes its file."""
    folder = tmp_path / "data"
    for name, colour in (("a", "red"), ("b", "blue")):
        picture(folder / f"{name}.png", colour)
    return folder


def picture(path: Path, colour: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 20), colour).save(path)


def read(path: Path | str, **settings: Any) -> list[Example]:
    source = open_source("custom", SourceSettings(path=str(path), **settings))
    rows = list(source) if settings.get("streaming") else [source[i] for i in range(len(source))]  # type: ignore[index,arg-type]
    assert all(isinstance(row, Example) for row in rows), rows
    return rows  # type: ignore[return-value]


def write(path: Path, rows: Any) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
    else:
        separator = "\t" if path.suffix == ".tsv" else ","
        lines = [rows[0].keys(), *(row.values() for row in rows)]
        path.write_text("".join(separator.join(map(str, line)) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "tsv", "parquet"])
def test_files_of_every_kind(folder: Path, kind: str, streaming: bool) -> None:
    path = write(folder / f"rows.{kind}", ROWS)
    rows = read(path, streaming=streaming)
    assert [[message.content for message in row.messages] for row in rows] == [
        ["What is it?", "A cat."],
        ["And this?", "A dog."],
    ]
    assert [open_image(row.images[0]).getpixel((0, 0)) for row in rows] == [(255, 0, 0), (0, 0, 255)]
    assert read(path, streaming=streaming, num_samples=1) == rows[:1]
    assert len(read(path, streaming=streaming, num_samples=9)) == 2


@pytest.mark.parametrize("streaming", [False, True])
def test_conversations(folder: Path, streaming: bool) -> None:
    (chat,) = read(write(folder / "chat.json", CHAT), streaming=streaming)
    assert chat.messages == (Message("user", "<image>What is it?"), Message("assistant", "A cat."))
    (llava,) = read(write(folder / "llava.json", LLAVA), streaming=streaming)
    assert llava.messages[0].content == "<image>\nWhat is it?"
    assert llava.id == "7"
    assert chat.images == llava.images == (folder / "a.png",)


@pytest.mark.parametrize("streaming", [False, True])
def test_answers_of_mixed_types_come_as_they_stand(folder: Path, streaming: bool) -> None:
    rows = read(
        write(folder / "rows.jsonl", [{"prompt": "q", "response": r} for r in ("two", 2, 2.5)]), streaming=streaming
    )
    assert [row.messages[1].content for row in rows] == ["two", "2", "2.5"]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet"])
def test_a_pipe_is_not_opened(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=rf"{name}: a special file; expected"):
        open_source("custom", SourceSettings(path=str(tmp_path / name)))


def test_a_csv_holds_text(folder: Path) -> None:
    rows = [{"image": "a.png", "question": "q", "answer": text} for text in ("None", "007", "NA", "1.50")]
    path = write(folder / "rows.csv", rows)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as spreadsheets save it
    assert [row.messages[1].content for row in read(path)] == ["None", "007", "NA", "1.50"]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_of_classes(folder: Path, streaming: bool) -> None:
    picture(folder / "classes" / "cat" / "1.png", "red")
    picture(folder / "classes" / "dog" / "1.png", "blue")
    cat, dog = read(folder / "classes", streaming=streaming)
    assert cat.messages == (
        Message("user", "What does this image show? Answer with one of: cat, dog."),
        Message("assistant", "cat"),
    )
    assert dog.choices == ("cat", "dog")
    assert open_image(dog.images[0]).getpixel((0, 0)) == (0, 0, 255)


@pytest.mark.parametrize(
    ("name", "text", "messages"),
    [
        ("metadata.csv", "file_name,text\na.png,A red square.\n", ("Describe this image.", "A red square.")),
        ("metadata.jsonl", '{"file_name": "a.png", "question": "Red?", "answer": "yes"}\n', ("Red?", "yes")),
    ],
)
def test_a_folder_with_metadata(tmp_path: Path, name: str, text: str, messages: tuple[str, str]) -> None:
    picture(tmp_path / "a.png", "red")
    (tmp_path / name).write_text(text, encoding="utf-8")
    (row,) = read(tmp_path)
    assert tuple(message.content for message in row.messages) == messages
    assert open_image(row.images[0]).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("place", [".", "train"])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_split_of_a_folder_with_metadata(tmp_path: Path, place: str, kind: str) -> None:
    rows = [{"file_name": f"{name}.png", "text": name} for name in "abcd"]
    for row in rows:
        picture(tmp_path / place / row["file_name"], "red")
    write(tmp_path / place / f"metadata.{kind}", rows)
    for split, texts in ((None, "abcd"), ("train", "abcd"), ("train[:50%]", "ab"), ("train[3:]", "d")):
        assert "".join(row.messages[1].content for row in read(tmp_path, split=split)) == texts
    assert len(read(tmp_path, split="train", streaming=True)) == 4
    for split in ("test", "nonsense", "test[:1]"):
        with pytest.raises(
            ValueError, match=split.partition("[")[0] if place == "." else "give the sub-folder that holds it"
        ):
            read(tmp_path, split=split)


def test_saved_datasets_and_their_splits(folder: Path) -> None:
    train, test = Dataset.from_list(ROWS), Dataset.from_list(ROWS[1:])
    train.save_to_disk(folder / "one")
    DatasetDict(train=train, test=test).save_to_disk(folder / "two")
    DatasetDict(dev=train, test=test).save_to_disk(folder / "three")
    images = {"image_folder": folder}
    assert len(read(folder / "one", **images)) == len(read(folder / "one", streaming=True, **images)) == 2
    assert len(read(folder / "two", **images)) == 2
    assert len(read(folder / "two", split="test", **images)) == 1
    with pytest.raises(ValueError, match="no split 'dev', it holds the splits train, test"):
        read(folder / "two", split="dev")
    with pytest.raises(ValueError, match="one split without a name"):
        read(folder / "one", split="train")
    with pytest.raises(ValueError, match="several splits, dev, test"):
        read(folder / "three")


def test_a_slice_of_a_file(folder: Path) -> None:
    path = write(folder / "rows.jsonl", ROWS)
    halves = [read(path, split=split)[0].messages[1].content for split in ("train[:50%]", "train[50%:]")]
    assert halves == ["A cat.", "A dog."]
    with pytest.raises(ValueError, match=r"rows\.jsonl: Unknown split"):
        read(path, split="validation")


def test_names_are_left_to_the_image_folder_of_the_run(folder: Path) -> None:
    path = write(folder / "rows.jsonl", ROWS)
    assert [row.images for row in read(path, image_folder=folder)] == [("a.png",), ("b.png",)]


def test_names_that_lead_out_of_the_folder_are_skipped(folder: Path) -> None:
    source = open_source(
        "custom", SourceSettings(path=str(write(folder / "rows.jsonl", [{**ROWS[0], "image": "../x.png"}])))
    )
    row = source[0]  # type: ignore[index]
    assert isinstance(row, Skipped)
    assert row.cause == "outside_folder"


def test_a_file_beside_links_is_read(folder: Path, tmp_path: Path) -> None:
    """As a snapshot of the Hub: its files are links to `../../blobs`."""
    snapshot = tmp_path / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    write(folder / "rows.jsonl", ROWS)
    for name in ("a.png", "b.png", "rows.jsonl"):
        (snapshot / name).symlink_to(Path("../..") / folder.name / name)
    for row, colour in zip(read(snapshot / "rows.jsonl"), ((255, 0, 0), (0, 0, 255)), strict=True):
        assert open_image(row.images[0]).getpixel((0, 0)) == colour


def test_a_template_asks(folder: Path) -> None:
    path = write(folder / "rows.jsonl", [{"image": "a.png", "caption": "A cat.", "label": 1}])
    (plain,) = read(path)
    assert [message.content for message in plain.messages] == ["A cat.", "1"]
    (row,) = read(path, question_template="Statement: {caption} True?")
    assert row.messages[0].content == "Statement: A cat. True?"
    with pytest.raises(ValueError, match="no column 'text'"):
        read(path, question_template="{text}")
    with pytest.raises(ValueError, match="question_template"):
        read(write(folder / "chat.json", CHAT), question_template="{text}")


@pytest.mark.parametrize("streaming", [False, True])
def test_columns_that_cannot_be_told_are_listed(folder: Path, streaming: bool) -> None:
    path = write(folder / "rows.jsonl", [{"image": "a.png", "titel": "x", "antwort": "y"}])
    with pytest.raises(
        ValueError,
        match=r"rows\.jsonl: no question and answer recognised in the columns image, titel, antwort; expected messages",
    ):
        read(path, streaming=streaming)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rows.jsonl", '{"question": "q", "answer": "a"}\n{"question": '),
        ("rows.jsonl", ""),
        ("rows.json", "[]"),
        ("rows.json", "[{]"),
        ("rows.csv", ""),
        ("rows.csv", "question,answer\n"),
        ("rows.parquet", "no parquet"),
        ("rows.txt", "text"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=name):
        read(tmp_path / name)
    if text != "question,answer\n":  # a stream shows that it is empty when it is read
        with pytest.raises(ValueError, match=name):
            read(tmp_path / name, streaming=True)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("place", ["page", "footer"])
def test_a_damaged_parquet_file_is_named_on_one_line(tmp_path: Path, place: str, streaming: bool) -> None:
    path = write(tmp_path / "rows.parquet", ROWS)
    data = bytearray(path.read_bytes())
    at = 4 if place == "page" else len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    data[at : at + 8] = b"\xff" * 8
    path.write_bytes(data)
    with pytest.raises((ValueError, OSError), match=r"rows\.parquet: ") as caught:
        read(path, streaming=streaming, image_folder=tmp_path)
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_said() -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jsonl"):
        read("nowhere.jsonl")
    with pytest.raises(ValueError, match="train_dataset_path"):
        open_source("custom", SourceSettings())


@pytest.mark.parametrize("streaming", [False, True])
def test_classes_that_are_numbers(tmp_path: Path, streaming: bool) -> None:
    for name in ("1", "2", "3", "10"):
        picture(tmp_path / name / f"im{name}.png", "red")
    found = {Path(row.images[0]).stem: row.messages[1].content for row in read(tmp_path, streaming=streaming)}
    assert found == {"im1": "1", "im2": "2", "im3": "3", "im10": "10"}


def test_images_in_columns_of_other_names_in_some_rows(folder: Path) -> None:
    rows = [ROWS[0], {"img": "b.png", "question": "q", "answer": "x"}]
    source: Any = open_source(
        "custom", SourceSettings(path=str(write(folder / "rows.jsonl", rows)), image_folder=folder)
    )
    assert isinstance(source[0], Example)
    assert "column 'img' holds an image that is not read" in source[1].detail


ROW = {"question": "q", "answer": "007"}


@pytest.mark.parametrize("answers", [([7], ["007"]), ([0.5], [1]), ([["x"]], [[1]]), ([{"a": "x"}], [{"a": 1}])])
def test_parquet_files_of_other_types_are_refused(tmp_path: Path, answers: tuple[list[Any], list[Any]]) -> None:
    for name, values in zip("ab", answers, strict=True):
        write(tmp_path / f"{name}.parquet", [{"question": "q", "answer": value} for value in values])
    with pytest.raises(ValueError, match=r"b\.parquet: .*Field answer has incompatible types: .*; write them"):
        read(tmp_path)


def test_a_parquet_column_without_values_fits_any(tmp_path: Path) -> None:
    for name, note in (("a", "x"), ("b", None)):
        write(tmp_path / f"{name}.parquet", [{**ROW, "note": note}])
    assert [row.messages[1].content for row in read(tmp_path)] == ["007"] * 2


@pytest.mark.parametrize(
    ("names", "unread"),
    [
        (["a.jsonl", "b.jsonl", "my_test.jsonl"], "2 files .*: a.jsonl, b.jsonl;"),
        (["a.jsonl", "b.jsonl", "c.csv"], "1 files .*: c.csv;"),
        (["a.parquet", "b.parquet", "c.jsonl"], "1 files .*: c.jsonl;"),
        (["x/a.png", "y/b.png", "questions.jsonl"], "1 files .*: questions.jsonl;"),
        (["x/a.png", "y/b.png", "y/train.png"], "2 files .*: x/a.png, y/b.png;"),
        (["metadata.csv", "metadata.jsonl", "a.png"], "expected one regular file of metadata.csv"),
    ],
)
def test_files_of_a_folder_never_vanish(tmp_path: Path, names: list[str], unread: str) -> None:
    for name in names:
        if name.endswith(".png"):
            picture(tmp_path / name, "red")
        else:
            write(tmp_path / name, [ROW])
    (tmp_path / ".cache").mkdir()
    write(tmp_path / ".cache" / "x.jsonl", [ROW])
    for streaming in (False, True):
        with pytest.raises(ValueError, match=unread):
            read(tmp_path, streaming=streaming)


def test_a_folder_without_data_tells_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no data files there; expected files of .*\.jsonl.*, or images"):
        open_source("custom", SourceSettings(path=str(tmp_path)))
