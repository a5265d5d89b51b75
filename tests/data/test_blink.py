"""BLINK in every form that people have it in: the official prompt, one to four pictures, a letter for an answer."""

import json
import os
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from theworld.data.images import open_image
from theworld.data.open_source import open_source
from theworld.data.schema import Example, Message, Skipped, SourceSettings

DEPTH = "Which point is closer to the camera?\nSelect from the following choices.\n(A) A is closer\n(B) B is closer"
MATCH = (
    "Which of A, B, C, D?\nSelect from the following choices.\n\n(A) Point A\n(B) Point B\n(C) Point C\n(D) Point D\n"
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def png(colour: str) -> bytes:
    file = BytesIO()
    Image.new("RGB", (40, 30), colour).save(file, "PNG")
    return file.getvalue()


def depth_row(number: int = 1, answer: str = "(B)", **changes: Any) -> dict[str, Any]:
    return {
        "idx": f"val_Relative_Depth_{number}",
        "question": "Which point is closer to the camera?",
        "sub_task": "Relative_Depth",
        "image_1": {"bytes": png("red"), "path": None},
        "image_2": None,
        "image_3": None,
        "image_4": None,
        "choices": ["A is closer", "B is closer"],
        "answer": answer,
        "prompt": DEPTH,
        "explanation": "",
        **changes,
    }


def match_row(answer: str = "(C)") -> dict[str, Any]:
    more = {f"image_{n}": {"bytes": png(colour), "path": None} for n, colour in enumerate(("red", "lime", "blue"), 1)}
    choices = [f"Point {letter}" for letter in "ABCD"]
    given = {"sub_task": "Visual_Correspondence", "prompt": MATCH, "choices": choices}
    return depth_row(7, answer, **given, **more) | {"idx": "val_Visual_Correspondence_7"}


def table(*rows: dict[str, Any]) -> datasets.Dataset:
    pictures = {f"image_{number}": datasets.Image() for number in range(1, 5)}
    texts = {
        name: datasets.Value("string") for name in ("idx", "question", "sub_task", "answer", "prompt", "explanation")
    }
    features = datasets.Features({**texts, **pictures, "choices": datasets.List(datasets.Value("string"))})
    return datasets.Dataset.from_list(list(rows), features=features)


def supervised(example: Example | Skipped) -> list[str]:
    assert isinstance(example, Example), example
    return [message.content for message in example.messages if message.role == "assistant"]


def load(path: Path, **changes: Any) -> Any:
    return open_source("blink", SourceSettings(**{"path": str(path), **changes}))


@pytest.mark.parametrize("form", ["parquet", "saved", "saved_splits", "folder", "configs", "task_of_folder"])
def test_tables(tmp_path: Path, form: str) -> None:
    rows = [depth_row(1, "(B)"), depth_row(2, "(A)"), match_row("(C)")]
    path = tmp_path / "blink"
    path.mkdir()
    if form == "parquet":
        path = path / "rows.parquet"
        table(*rows).to_parquet(path)
    elif form == "saved":
        table(*rows).save_to_disk(path)
    elif form == "saved_splits":
        hidden = table(depth_row(1, "hidden"))
        datasets.DatasetDict({"val": table(*rows), "test": hidden}).save_to_disk(path)
    elif form == "folder":
        table(*rows).to_parquet(path / "val-00000-of-00001.parquet")
        table(depth_row(1, "hidden")).to_parquet(path / "test-00000-of-00001.parquet")
    else:
        write_repository(path, rows)
        if form == "task_of_folder":
            path, rows = path / "Relative_Depth", rows[:2]
    source = open_source("blink", SourceSettings(path=str(path)))
    assert [supervised(source[i]) for i in range(len(source))] == [[row["answer"].strip("()")] for row in rows]
    example = source[0]
    assert example.id == "val_Relative_Depth_1"
    assert example.messages[0] == Message("user", DEPTH)
    assert example.choices == ("A", "B")
    assert len(example.images) == 1
    assert open_image(example.images[0]).getpixel((0, 0)) == (255, 0, 0)
    assert example.metadata["answer"] == "(B)"
    assert example.metadata["sub_task"] == "Relative_Depth"


def write_repository(folder: Path, rows: list[dict[str, Any]]) -> None:
    """As on the Hub: a folder a sub-task, each with both splits, listed at the head of the README."""
    configs = ""
    for task in dict.fromkeys(row["sub_task"] for row in rows):
        (folder / task).mkdir()
        table(*[row for row in rows if row["sub_task"] == task]).to_parquet(
            folder / task / "val-00000-of-00001.parquet"
        )
        table(depth_row(1, "hidden")).to_parquet(folder / task / "test-00000-of-00001.parquet")
        configs += f"- config_name: {task}\n  data_files:\n"
        configs += "".join(f"  - split: {split}\n    path: {task}/{split}-*\n" for split in ("val", "test"))
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n", encoding="utf-8")


def test_several_pictures_in_order(tmp_path: Path) -> None:
    table(match_row()).to_parquet(tmp_path / "rows.parquet")
    example = load(tmp_path / "rows.parquet")[0]
    assert example.choices == ("A", "B", "C", "D")
    colours = [open_image(picture).getpixel((0, 0)) for picture in example.images]
    assert colours == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def write_request(folder: Path, name: str, answer: str, pictures: int = 1) -> None:
    (folder / name).mkdir(parents=True)
    names = [f"image{number}.jpg" for number in range(1, pictures + 1)]
    for picture in names:
        (folder / name / picture).write_bytes(png("red"))
    named = [f"../tasks/blink_depth/processed/{name}/{picture}" for picture in names]
    query = " ".join(f"<img src='{picture}'>" for picture in named) + f" {DEPTH}\n"
    (folder / name / "request.json").write_text(
        json.dumps({"query": query, "images": named, "answer": answer}), encoding="utf-8"
    )


def test_folders_of_requests(tmp_path: Path) -> None:
    answers = {"val_Relative_Depth_1": "(B)", "val_Relative_Depth_2": "(A)", "val_Relative_Depth_10": "(B)"}
    for name, answer in answers.items():
        write_request(tmp_path, name, answer, pictures=2)
    source = load(tmp_path)
    assert [source[i].id for i in range(len(source))] == list(answers)
    assert [supervised(source[i]) for i in range(3)] == [["B"], ["A"], ["B"]]
    assert source[0].messages[0].content == DEPTH
    assert source[0].images == tuple(tmp_path / "val_Relative_Depth_1" / f"image{n}.jpg" for n in (1, 2))
    assert len(load(tmp_path, num_samples=2)) == 2


def test_json_lines_with_pictures_beside_them(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(png("red"))
    rows = [
        {"idx": "val_Relative_Depth_1", "image_1": "a.jpg", "prompt": DEPTH, "answer": "(B)"},
        {"idx": "val_Relative_Depth_2", "image_1": "../secret.jpg", "prompt": DEPTH, "answer": "(A)"},
    ]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    source = load(tmp_path / "items.jsonl")
    assert supervised(source[0]) == ["B"]
    assert source[0].choices == ("A", "B")
    assert source[0].images == (tmp_path / "a.jpg",)
    assert source[1].cause == "outside_folder"
    assert load(tmp_path)[0] == source[0]
    assert load(tmp_path / "items.jsonl", image_folder=tmp_path)[0].images == ("a.jpg",)
    asked = load(tmp_path / "items.jsonl", question_template="{prompt}\nOnly the letter.")[0].messages[0].content
    assert asked == DEPTH + "\nOnly the letter."


def test_hidden_answers_are_refused(tmp_path: Path) -> None:
    table(depth_row(1, "hidden")).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=r"hidden.*use split 'val'"):
        load(tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=r"hidden.*use split 'val'"):
        load(tmp_path / "rows.parquet", split="test")
    table(depth_row(1, "hidden")).to_parquet(tmp_path / "test-00000-of-00001.parquet")
    (tmp_path / "rows.parquet").unlink()
    with pytest.raises(ValueError, match=r"hidden.*use split 'val'"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"answer": "(C)"}, "bad_row"),
        ({"answer": ""}, "bad_row"),
        ({"answer": "hidden"}, "hidden_answer"),
        ({"image_1": None}, "bad_row"),
        ({"choices": [], "prompt": "Which?"}, "bad_row"),
    ],
    ids=str,
)
def test_rows_that_cannot_be_used(tmp_path: Path, changes: dict[str, Any], cause: str) -> None:
    table(depth_row(), depth_row(**changes)).to_parquet(tmp_path / "rows.parquet")
    skipped = load(tmp_path / "rows.parquet")[1]
    assert isinstance(skipped, Skipped)
    assert skipped.cause == cause


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train_dataset_path"):
        open_source("blink", SourceSettings())
    with pytest.raises(ValueError, match="streaming"):
        load(tmp_path, streaming=True)
    with pytest.raises(FileNotFoundError, match=r"nosuch\.parquet: no such file"):
        load(tmp_path / "nosuch.parquet")
    table(depth_row()).to_parquet(tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="no split 'dev', it has train"):
        load(tmp_path, split="dev")
    write_request(tmp_path / "requests", "val_1", "(A)")
    (tmp_path / "requests" / "val_1" / "request.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="expected query, images and answer"):
        load(tmp_path / "requests")


@pytest.mark.parametrize("changes", [{"choices": 4}, {"choices": "abcd"}, {"prompt": None}, {"image_1": ""}])
def test_rows_of_other_types_are_skipped(tmp_path: Path, changes: dict[str, Any]) -> None:
    row = {"prompt": "p\n(A) x\n(B) y", "choices": ["x", "y"], "answer": "(A)", "image_1": "a.png", **changes}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    read: Any = open_source("blink", SourceSettings(path=str(path)))[0]  # type: ignore[index]
    assert read.cause == "bad_row"


def test_a_pipe_in_place_of_a_request_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    os.mkfifo(tmp_path / "v" / "request.json")
    with pytest.raises(ValueError, match=r"request\.json: expected a regular file"):
        open_source("blink", SourceSettings(path=str(tmp_path)))
