"""What every dataset has in common, mixtures, and objects of the user's own."""

from __future__ import annotations

import json
import pickle
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, IterableDataset
from PIL import Image

from tests import tiny
from theworld.data.collator import TheWorldCollator
from theworld.data.open_source import as_source, open_mixture, open_source, rows_fingerprint
from theworld.data.schema import Example, Message, Skipped, SourceSettings
from theworld.data.sources.records import TheWorldDataset


def lines(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rows_of(path: Path, **settings: Any) -> list[Example | Skipped]:
    source: Any = open_source("custom", SourceSettings(path=str(path), **settings))
    return list(source) if settings.get("streaming") else [source[i] for i in range(len(source))]


def answers(rows: Any) -> list[str]:
    return [row.messages[-1].content for row in rows if isinstance(row, Example)]


MIXED = [2, "true", "2.50", "007", "1e3", '"quoted"', "null", "NaN", "[1]", "x"]
CHAT_ANSWERS = ["2", "null", "007", "true"]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_answers_do_not_depend_on_other_rows(tmp_path: Path, name: str, streaming: bool) -> None:
    rows: list[dict[str, Any]] = [{"question": "q", "answer": answer} for answer in MIXED]
    rows += [{"question": "q", "answer": "y", "choices": ["y", "n"]}, {"question": "q", "answer": "z", "choices": None}]
    rows += [{"question": "q", "answer": "w", "note": [1]}, {"question": "q", "answer": "v", "note": "text"}]
    read = rows_of(lines(tmp_path / name, rows), streaming=streaming)
    assert answers(read) == [*map(str, MIXED), "y", "z", "w", "v"]
    assert [row.choices for row in read if isinstance(row, Example)][-4:] == [("y", "n"), (), (), ()]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("early", "late"),
    [
        ({}, {"answer": 7, "image": ["a.png"]}),
        ({}, {"choices": ["x", "y"]}),
        ({"note": None}, {"note": "text"}),
        ({"note": [1]}, {"note": "text"}),
        ({"answer": 7}, {"answer": "text"}),
    ],
)
def test_rows_past_ten_megabytes_are_read_as_the_first(
    tmp_path: Path, early: dict[str, Any], late: dict[str, Any], streaming: bool
) -> None:
    """Libraries that infer types do so for some megabytes at a time."""
    row = {"image": "a.png", "question": "q", "answer": "x", "padding": "x" * 2**20, **early}
    written = [*[row] * 11, row | late, row]
    read = rows_of(lines(tmp_path / "a.jsonl", written), streaming=streaming)
    assert answers(read) == [str(one["answer"]) for one in written]
    assert all(one.images == (tmp_path / "a.png",) for one in read if isinstance(one, Example))


@pytest.mark.parametrize("streaming", [False, True])
def test_numbers_and_booleans_of_json_keep_their_text(tmp_path: Path, streaming: bool) -> None:
    texts = ["true", "false", "1e3", "2.50", "-0.0", "12345678901234567890.125", "7"]
    rows = "".join(f'{{"question": "q", "answer": {text}, "note": 1.50}}\n' for text in texts)
    (tmp_path / "a.jsonl").write_text(
        rows + '{"question": "q", "answer": 1, "choices": [0.10, 0.20]}\n', encoding="utf-8"
    )
    read = rows_of(tmp_path / "a.jsonl", streaming=streaming)
    assert answers(read) == answers(pickle.loads(pickle.dumps(read))) == [*texts, "0.20"]
    assert isinstance(read[0], Example)
    assert json.dumps(read[0].metadata) == '{"note": 1.5}'
    (asked, *_) = rows_of(tmp_path / "a.jsonl", streaming=streaming, question_template="{note}?")
    assert isinstance(asked, Example)
    assert asked.messages[0].content == "1.50?"


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("question", ["q", [{"type": "text", "text": "q"}]])
def test_conversations_of_short_answers(tmp_path: Path, question: Any, streaming: bool) -> None:
    user = {"role": "user", "content": question}
    good = [{"messages": [user, {"role": "assistant", "content": text}]} for text in CHAT_ANSWERS]
    bad: list[dict[str, Any]] = [
        {"messages": [user, {"role": "assistant", "content": value}]} for value in (2, None, {"a": 1}, [3], "")
    ]
    bad += [{"messages": [{"role": []}]}, {"messages": good[0]["messages"], "choices": 4}, {"messages": 3}]
    read = rows_of(lines(tmp_path / "a.jsonl", [*good, *bad]), streaming=streaming)
    assert answers(read) == CHAT_ANSWERS
    assert [row.cause for row in read if isinstance(row, Skipped)] == ["bad_row"] * len(bad)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("text", ["null", "3", '"text"', "[1, 2]", "[[1]]"])
def test_a_file_without_rows_is_an_error(tmp_path: Path, text: str, streaming: bool) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.json: expected rows with columns, the first is"):
        rows_of(tmp_path / "a.json", streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
def test_numbers_that_are_none_are_skipped(tmp_path: Path, streaming: bool) -> None:
    path = tmp_path / "a.jsonl"
    rows = [f'{{"question": "q", "answer": {text}}}' for text in ("NaN", "Infinity", "-Infinity")]
    path.write_text("\ufeff" + "\r\n\r\n".join(rows) + "\r\n", "utf-8")
    read = rows_of(path, streaming=streaming)
    assert [row.cause for row in read if isinstance(row, Skipped)] == ["bad_row"] * 3


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("column", ["image_path", "img", "Image"])
def test_images_in_a_column_of_another_name(tmp_path: Path, column: str, streaming: bool) -> None:
    path = lines(tmp_path / "a.jsonl", [{column: "a.png", "question": "q", "gold": "a", "key": 7}])
    named = {"answer": "gold", "id": "key"}
    with pytest.raises(ValueError, match=rf'{column} holds images; .* columns=\{{"image": "{column}"\}}'):
        rows_of(path, streaming=streaming, columns=named)
    (row,) = rows_of(path, streaming=streaming, columns={**named, "image": column})
    assert isinstance(row, Example)
    assert row.images == (tmp_path / "a.png",)
    assert row.id == "7"
    assert answers([row]) == ["a"]


@pytest.mark.parametrize("streaming", [False, True])
def test_no_image_though_there_is_a_folder(tmp_path: Path, streaming: bool) -> None:
    for text in ("question,answer\nq,a\n", "image,question,answer\n,q,a\n ,q,a\n"):
        (tmp_path / "a.csv").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=r"a\.csv: no image in the columns .*question, answer, but image_folder"):
            rows_of(tmp_path / "a.csv", image_folder=tmp_path, streaming=streaming)
        assert answers(rows_of(tmp_path / "a.csv", streaming=streaming))[0] == "a"


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"picture": "img"}, "unknown key 'picture'; expected some of image, question, answer, choices, id"),
        ({"answer": "gold"}, "no column 'gold' in the data, which has question, answer"),
        ({"answer": "anser"}, "no column 'anser' in the data, which has question, answer.*; did you mean 'answer'"),
    ],
)
def test_columns_that_do_not_fit(tmp_path: Path, columns: dict[str, str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        rows_of(lines(tmp_path / "a.jsonl", [{"question": "q", "answer": "a"}]), columns=columns)


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("nothing", {}, "dataset_name='nothing': expected one of blink, custom"),
        ("custom", {"path": None}, "train_dataset_path"),
        ("custom", {"path": "nowhere.jsonl"}, "no such file or folder"),
        ("custom", {"image_folder": Path("nowhere")}, "image_folder=nowhere: no such folder"),
        ("custom", {"clip_frames": 5}, "'custom' has no clip: .* micro_world or video"),
        ("custom", {"question_template": "{"}, "question_template='{'"),
        ("video", {"columns": {"image": "a"}}, "does not use columns=.*; remove it"),
    ],
)
def test_settings_are_checked_for_every_dataset(
    tmp_path: Path, name: str, changes: dict[str, Any], reason: str
) -> None:
    path = lines(tmp_path / "a.jsonl", [{"question": "q", "answer": "a"}])
    with pytest.raises((ValueError, FileNotFoundError), match=reason):
        open_source(name, SourceSettings(**{"path": str(path), **changes}))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_of_text_files_is_read_as_it_stands(tmp_path: Path, streaming: bool) -> None:
    for part, texts in (("train-0", ["007", "true"]), ("train-1", ["2.50"]), ("test", ["1e3"])):
        lines(tmp_path / f"{part}.jsonl", [{"question": "q", "answer": text} for text in texts])
    assert answers(rows_of(tmp_path, streaming=streaming)) == ["007", "true", "2.50"]
    assert answers(rows_of(tmp_path, split="test", streaming=streaming)) == ["1e3"]
    if not streaming:
        assert answers(rows_of(tmp_path, split="train[1:]+test")) == ["true", "2.50", "1e3"]


def test_a_mixture_keeps_its_shares(tmp_path: Path) -> None:
    parts = []
    for name, count, weight in (("small", 3, 1.0), ("large", 20, 3.0)):
        rows = [{"image": "a.png", "question": "q", "answer": f"{name}{i}"} for i in range(count)]
        path = lines(tmp_path / name / "rows.jsonl", rows)
        parts.append(("custom", SourceSettings(path=str(path), image_folder=tmp_path / name, seed=1), weight))
    mixture = open_mixture(parts)
    read = [mixture[i] for i in range(len(mixture))]
    counts = Counter(answers(read))
    assert sum(counts[f"small{i}"] for i in range(3)) == 7
    assert [counts[f"large{i}"] for i in range(20)] == [1] * 20
    assert max(counts[f"small{i}"] for i in range(3)) - min(counts[f"small{i}"] for i in range(3)) <= 1
    assert {row.images[0].parent.name for row in read if isinstance(row, Example)} == {"small", "large"}
    assert {row.id.partition("/")[0] for row in read} == {"custom-1", "custom-2"}
    assert answers(open_mixture(parts)) == answers(read) == answers(pickle.loads(pickle.dumps(mixture)))
    assert [part["rows_per_epoch"] for part in mixture.record()] == [7, 20]
    assert json.loads(json.dumps(mixture.record()))[1]["weight"] == 3.0
    few = mixture.take(9)
    expected = Counter(few[i].id.partition("/")[0] for i in range(len(few)))
    assert {part["name"]: part["rows_per_epoch"] for part in few.record()} == expected
    assert sum(expected.values()) == 9
    assert [part["rows"] for part in few.record()] == [3, 20]
    with pytest.raises(ValueError, match=r"'custom' has the weight 0\.0 and 3 rows; expected a weight above 0"):
        open_mixture([(*parts[0][:2], 0.0)])
    with pytest.raises(ValueError, match="set streaming to false"):
        open_mixture([("custom", SourceSettings(path=parts[0][1].path, streaming=True), 1.0)])


@pytest.mark.parametrize("weights", [(1e-12, 1.0), (1e-300, 1e300)])
def test_a_mixture_without_end_is_refused(tmp_path: Path, weights: tuple[float, float]) -> None:
    settings = SourceSettings(path=str(lines(tmp_path / "a.jsonl", [{"question": "q", "answer": "a"}] * 3)))
    reason = (
        r"mixture: (3,000,000,000,003|inf) rows per epoch, expected at most 100,000,000; make .*: custom-1: weight 1e-"
    )
    with pytest.raises(ValueError, match=reason):
        open_mixture([("custom", settings, weight) for weight in weights])


class Rows(torch.utils.data.Dataset[dict[str, str]]):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict[str, str]:
        return LISTED[index]


class Stream(torch.utils.data.IterableDataset[dict[str, str]]):
    def __iter__(self) -> Any:
        return iter(LISTED)


LISTED = [{"image": f"{i}.png", "text": "q", "label": f"a{i}"} for i in range(3)]


@pytest.mark.parametrize(
    "data",
    [
        LISTED,
        TheWorldDataset(LISTED),
        Dataset.from_list(LISTED),
        Dataset.from_list(LISTED).to_iterable_dataset(),
        IterableDataset.from_generator(lambda: iter(LISTED)),
        Rows(),
        Stream(),
        [Example("0", TheWorldDataset(LISTED)[0].messages, images=("0.png",))],  # type: ignore[union-attr]
    ],
)
def test_objects_of_the_users_own(data: Any) -> None:
    source: Any = as_source(data, SourceSettings(num_samples=2))
    read = list(source)
    assert answers(read) == ["a0", "a1"][: len(read)]
    assert read[0].images == ("0.png",)
    assert hasattr(source, "__len__") or hasattr(source, "split_by_process")


def test_half_a_surrogate_pair_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "q", "answer": "a\\ud800"}\n{"question": "q", "answer": "\\ud83d\\ude00"}\n', "utf-8")
    with path.open("a", encoding="utf-8") as file:
        file.write('{"question": "q", "answer": "x", "choices": ["x", "\\ud800"]}\n')
    batch = TheWorldCollator(tiny.tiny_processor())(rows_of(path))
    assert [row.cause for row in batch["skipped"]] == ["special_token"] * 2


def test_objects_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train_dataset of type int: expected a list of dicts"):
        as_source(3)
    with pytest.raises(ValueError, match="no rows"):
        as_source([])
    with pytest.raises(ValueError, match="does not use split='train'"):
        as_source(LISTED, SourceSettings(split="train"))
    with pytest.raises(ValueError, match="img holds images"):
        as_source([{"img": "a.png", "question": "q", "answer": "a"}])


def test_rows_given_are_told_by_their_content() -> None:
    rows = [{"question": f"What is {i}?", "answer": str(i)} for i in range(100)]
    other = [{**row, "answer": "no"} for row in rows]
    said = [(Message("user", row["question"]), Message("assistant", row["answer"])) for row in rows]
    made = [Example(str(i), messages) for i, messages in enumerate(said)]
    prints = [rows_fingerprint(as_source(data)) for data in (rows, other, made, Dataset.from_list(rows))]
    assert prints == [rows_fingerprint(as_source(data)) for data in (rows, other, made, Dataset.from_list(rows))]
    assert prints[0] == prints[3]
    assert len(set(prints)) == 3
    pictures = [{**row, "image": Image.new("RGB", (16, 16), (i, 0, 0))} for i, row in enumerate(rows)]
    assert rows_fingerprint(as_source(pictures)) != prints[0]

    class Drawn(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 100

        def __getitem__(self, index: int) -> Any:
            return {"question": random.choice("abcdefgh") * index, "answer": "x"}

    assert rows_fingerprint(as_source(Drawn())) == ""
