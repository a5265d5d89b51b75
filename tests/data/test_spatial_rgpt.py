"""Conversations about regions: text, answers and drawn labels agree, whatever file the rows come in."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from theworld.data import schema
from theworld.data.open_source import open_source
from theworld.data.open_spatial import index_open_spatial
from theworld.data.regions import draw_regions
from theworld.data.schema import Example, Message, Skipped, SourceSettings
from theworld.data.sources import spatial_rgpt

BOXES = [[10.0, 20.0, 110.0, 220.0], [300.0, 40.0, 420.0, 260.0], [10.0, 20.0, 110.0, 220.0]]
RLES = [{"size": [300, 500], "counts": [0, 300 * (100 + 50 * n), 300 * (400 - 50 * n)]} for n in (0, 1, 0)]


def train_row(number: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "filename": f"da0f505346a22fa{number}",
        "conversations": [
            {"from": "human", "value": "<image>\nDoes <mask> <depth> have a greater width compared to <mask> <depth>?"},
            {"from": "gpt", "value": "In fact, Region [0] might be narrower than Region [1]."},
            {"from": "human", "value": "How tall is <mask> <depth>?"},
            {"from": "gpt", "value": f"Region [0] is {number}.5 meters tall."},
        ],
        "bbox": BOXES,
        "rle": RLES,
        **changes,
    }


def bench_row(**changes: Any) -> dict[str, Any]:
    return {
        "id": "quantitative_rckw4smnkX",
        "image_info": {"file_path": "kitti/000003.png", "height": 300, "width": 500},
        "text_q": "Estimate the vertical distance between Region [0] and Region [1].",
        "qa_info": {"type": "quantitative", "category": "vertical_distance_data"},
        "conversations": [
            {"from": "human", "value": "Estimate the vertical distance between <mask> and <mask>."},
            {"from": "gpt", "value": "A vertical distance of 3.93 feet exists between Region [0] and Region [1]."},
        ],
        "bbox": BOXES[:2],
        "rle": RLES[:2],
        **changes,
    }


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def write(path: Path, *rows: Any) -> Path:
    lines = [json.dumps(row) for row in rows]
    path.write_text(
        "".join(line + "\n" for line in lines) if path.suffix == ".jsonl" else f"[{','.join(lines)}]", encoding="utf-8"
    )
    return path


def load(path: Path, **changes: Any) -> Any:
    return open_source("spatial_rgpt", SourceSettings(**{"path": str(path), "image_folder": path.parent, **changes}))


def supervised(example: Example | Skipped) -> list[str]:
    assert isinstance(example, Example), example
    return [message.content for message in example.messages if message.role == "assistant"]


@pytest.mark.parametrize("form", ["json", "jsonl", "indexed"])
def test_training_rows(tmp_path: Path, form: str) -> None:
    rows = [train_row(number) for number in range(5)]
    path = write(tmp_path / ("rows.jsonl" if form == "jsonl" else "rows.json"), *rows)
    if form == "indexed":
        index_open_spatial(path, tmp_path / "index")
        path = tmp_path / "index"
    source = open_source("spatial_rgpt", SourceSettings(path=str(path), image_folder=tmp_path))
    assert len(source) == 5
    assert [supervised(source[n]) for n in range(5)] == [
        ["In fact, Region [0] might be narrower than Region [1].", f"Region [0] is {n}.5 meters tall."]
        for n in range(5)
    ]
    example = source[3]
    assert example.images == ("da0f505346a22fa3.jpg",)
    assert example.messages[0] == Message("user", "Does Region [0] have a greater width compared to Region [1]?")
    assert example.messages[2] == Message("user", "How tall is Region [0]?")  # the third box is the first again
    assert [region["box"] for region in example.metadata["regions"]] == BOXES[:2]
    assert example.metadata["draw_regions"] is True
    assert len({source[n].id for n in range(5)}) == 5
    assert len(load(path, num_samples=3)) == 3


def test_answers_are_renumbered_with_the_questions(tmp_path: Path) -> None:
    turns = [
        {"from": "human", "value": "Is <mask> left of <mask>?"},
        {"from": "gpt", "value": "Yes, Region [0] is left of Region [1]."},
        {"from": "human", "value": "How tall is <mask>?"},
        {"from": "gpt", "value": "Region [0] is 2 feet tall."},
    ]
    boxes = [[0, 0, 9, 9], [20, 20, 50, 50], [70, 70, 90, 90]]
    example = load(write(tmp_path / "a.jsonl", train_row(conversations=turns, bbox=boxes, rle=[])))[0]
    assert example.messages[2].content == "How tall is Region [2]?"
    assert supervised(example) == ["Yes, Region [0] is left of Region [1].", "Region [2] is 2 feet tall."]


@pytest.mark.parametrize("form", ["json", "parquet", "python_text"])
def test_rows_of_the_benchmark(tmp_path: Path, form: str) -> None:
    row: dict[str, Any] = bench_row()
    if form == "python_text":
        row |= {name: repr(row[name]) for name in ("conversations", "bbox", "rle", "image_info", "qa_info")}
    path = tmp_path / "bench"
    if form == "json":
        path = write(tmp_path / "bench.json", row)
    elif form == "parquet":
        datasets.Dataset.from_list([row]).to_parquet(tmp_path / "bench.parquet")
        path = tmp_path / "bench.parquet"
    else:
        path.mkdir()  # one split, by whatever name
        datasets.Dataset.from_list([row]).to_parquet(path / "val-00000-of-00001.parquet")
    example = load(path)[0]
    assert supervised(example) == [row["conversations"][1]["value"] if form != "python_text" else TRUTH]
    assert example.id == "quantitative_rckw4smnkX"
    assert example.images == ("kitti/000003.png",)
    assert example.messages[0].content == bench_row()["text_q"]
    assert example.metadata["qa_type"] == "quantitative"
    assert example.metadata["qa_category"] == "vertical_distance_data"
    assert example.metadata["ground_truth"] == TRUTH
    assert [(region["box"], region["size"]) for region in example.metadata["regions"]] == [
        (box, [300, 500]) for box in BOXES[:2]
    ]
    drawn = draw_regions(Image.new("RGB", (500, 300)), example.metadata["regions"])
    assert drawn.getbbox() is not None


TRUTH = bench_row()["conversations"][1]["value"]


def test_pictures_within_the_rows(tmp_path: Path) -> None:
    Image.new("RGB", (500, 300), "red").save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    row = bench_row(image={"bytes": data, "path": None})
    table = datasets.Dataset.from_list([row]).cast_column("image", datasets.Image())
    table.to_parquet(tmp_path / "bench.parquet")
    picture = load(tmp_path / "bench.parquet", image_folder=None)[0].images[0]
    assert picture["bytes"] == data


def test_drawing_can_be_turned_off(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", train_row())
    on, off = load(path)[0], load(path, draw_bboxes=False)[0]
    assert off.metadata["draw_regions"] is False
    assert on.messages == off.messages


def test_a_template_rephrases_every_question(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", train_row())
    example = load(path, question_template="{question} ({filename}) Be brief.")[0]
    assert example.messages[2].content == "How tall is Region [0]? (da0f505346a22fa0) Be brief."
    assert supervised(example) == supervised(load(path)[0])
    with pytest.raises(ValueError, match=r"'prompt'.*question, filename"):
        load(path, question_template="{prompt}")


def test_the_array_that_was_not_indexed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "result_10_depth_convs.json", train_row())
    monkeypatch.setattr(spatial_rgpt, "MAX_ARRAY_BYTES", 100)
    with pytest.raises(ValueError, match=r"python scripts/convert_open_spatial.py \S+convs.json \S+convs"):
        load(path)


TURNS = train_row()["conversations"]


@pytest.mark.parametrize(
    "row",
    [
        train_row(bbox=BOXES[:2], rle=[]),
        train_row(bbox=BOXES, rle=RLES[:1]),
        train_row(bbox="[[1, 2", rle=[]),
        train_row(bbox="__import__('os').system('true')"),
        train_row(bbox={"a": 1}),
        train_row(bbox=[1, 2, 3], rle=[]),
        train_row(rle=["a", "b", "c"]),
        train_row(conversations=TURNS[:3]),
        train_row(conversations=TURNS[1:]),
        train_row(conversations=None),
        train_row(conversations=[{"from": "system", "value": "x"}, *TURNS[1:]]),
        train_row(filename=None),
        train_row(image_info="[1]"),
        "not a row",
        None,
    ],
    ids=lambda row: str(row)[-60:],
)
def test_rows_that_cannot_be_used(tmp_path: Path, row: Any) -> None:
    source = load(write(tmp_path / "a.jsonl", train_row(), row))
    assert isinstance(source[1], Skipped), source[1]
    assert source[1].cause == "bad_row"


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", train_row())
    with pytest.raises(ValueError, match="image_folder"):
        load(path, image_folder=None)
    with pytest.raises(ValueError, match="streaming"):
        load(path, streaming=True)
    with pytest.raises(ValueError, match="train_dataset_path"):
        open_source("spatial_rgpt", SourceSettings())
    with pytest.raises(FileNotFoundError, match="nosuch"):
        load(tmp_path / "nosuch.json")
    for name, text in (
        ("e.jsonl", ""),
        ("e.json", "[]"),
        ("d.json", "{}"),
        ("x.json", "[1"),
        ("o.jsonl", '{"a": 1}\n'),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=name):
            load(tmp_path / name)


def test_no_marker_of_a_picture_is_left_in_the_text(tmp_path: Path) -> None:
    turns = [{**turn, "value": f"<image>\n{turn['value']}"} for turn in TURNS]
    example = load(write(tmp_path / "a.jsonl", train_row(conversations=turns)))[0]
    assert not any(schema.IMAGE_MARKER in message.content for message in example.messages)


def test_qa_info_that_is_no_object_is_skipped(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    row = {"image": "a.png", "conversations": turns, "qa_info": [1]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row), encoding="utf-8")
    read: Any = open_source("spatial_rgpt", SourceSettings(path=str(tmp_path / "a.jsonl"), image_folder=tmp_path))[0]  # type: ignore[index]
    assert (read.cause, read.detail) == ("bad_row", "qa_info [1]: expected an object")
