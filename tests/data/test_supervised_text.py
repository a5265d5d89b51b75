"""From the file of every dataset to the tokens that are learned: they say what the file says is the answer."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from tests import tiny
from tests.data.test_collator import supervised
from theworld.data.collator import TheWorldCollator
from theworld.data.download import ImageStore
from theworld.data.open_source import open_source
from theworld.data.schema import Example, SourceSettings
from theworld.data.sources import SOURCES

END = "<end_of_turn>"


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def blink(folder: Path) -> tuple[Path, list[str]]:
    prompt = "Which is closer?\nSelect from the following choices.\n(A) A is closer\n(B) B is closer"
    row = {"idx": "val_1", "prompt": prompt, "question": "Which is closer?", "choices": ["A", "B"], "answer": "(B)"}
    return lines(folder / "val.jsonl", {**row, "sub_task": "Relative_Depth", "image_1": "a.png"}), ["B"]


def custom(folder: Path) -> tuple[Path, list[str]]:
    row = {"image": "a.png", "question": "What is it?", "answer": "A ball, red."}
    return lines(folder / "rows.jsonl", row), ["A ball, red."]


def datacomp(folder: Path) -> tuple[Path, list[str]]:
    row = {"uid": "1", "url": "https://example.com/a.png", "text": "  a red ball\n", "sha256": "0" * 64}
    Dataset.from_list([row]).to_parquet(folder / "metadata.parquet")
    return folder / "metadata.parquet", ["a red ball"]


def llava_pretrain(folder: Path) -> tuple[Path, list[str]]:
    turns = [{"from": "human", "value": "Describe it.\n<image>"}, {"from": "gpt", "value": "a red ball"}]
    (folder / "chat.json").write_text(
        json.dumps([{"id": "1", "image": "a.png", "conversations": turns}]), encoding="utf-8"
    )
    return folder / "chat.json", ["a red ball"]


def micro_world(folder: Path) -> tuple[Path, list[str]]:
    np.save(folder / "frames.npy", np.zeros((1, 2, 32, 32, 3), dtype=np.uint8))
    row = {"id": "1", "clip": 0, "frame": 1, "question": "Which bin?", "answer": "left", "choices": ["left", "right"]}
    lines(folder / "questions.jsonl", {**row, "family": "drop", "kind": "static"})
    return folder, ["left"]


def spatial_rgpt(folder: Path) -> tuple[Path, list[str]]:
    turns = [
        {"from": "human", "value": "<image>\nIs <mask> <depth> wider than <mask> <depth>?"},
        {"from": "gpt", "value": "No, Region [0] is narrower than Region [1]."},
        {"from": "human", "value": "How tall is <mask> <depth>?"},
        {"from": "gpt", "value": "Region [0] is 0.5 meters tall."},
    ]
    boxes = [[2.0, 2.0, 12.0, 20.0], [20.0, 4.0, 30.0, 20.0], [20.0, 4.0, 30.0, 20.0]]
    path = lines(folder / "rows.jsonl", {"filename": "a", "conversations": turns, "bbox": boxes})
    return path, ["No, Region [0] is narrower than Region [1].", "Region [1] is 0.5 meters tall."]


def vsr(folder: Path) -> tuple[Path, list[str]]:
    row = {"image": "a.png", "caption": "The ball is in the bin.", "label": 1, "relation": "in"}
    return lines(folder / "train.jsonl", row), ["1"]


def webdataset(folder: Path) -> tuple[Path, list[str]]:
    row = {"question": "What is it?", "answer": "A ball, red."}
    with tarfile.open(folder / "a.tar", "w") as tar:
        tar.add(folder / "a.png", "a.png")
        tar.add(lines(folder / "a.json", row), "a.json")
    return folder / "a.tar", ["A ball, red."]


WRITERS: dict[str, Callable[[Path], tuple[Path, list[str]]]] = {
    "blink": blink,
    "custom": custom,
    "datacomp": datacomp,
    "llava_pretrain": llava_pretrain,
    "micro_world": micro_world,
    "spatial_rgpt": spatial_rgpt,
    "vsr": vsr,
    "webdataset": webdataset,
}


def test_every_dataset_with_answers_is_here() -> None:
    assert set(WRITERS) == set(SOURCES) - {"video"}


@pytest.mark.parametrize("name", WRITERS)
def test_supervised_text_of_every_dataset(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("png", "jpg"):
        Image.new("RGB", (48, 32), "red").save(tmp_path / f"a.{kind}")
    monkeypatch.setattr(ImageStore, "fetch", lambda *_, **__: tmp_path / "a.png")
    path, answers = WRITERS[name](tmp_path)
    folder = None if name in ("micro_world", "webdataset") else tmp_path
    (row,) = open_source(name, SourceSettings(path=str(path), image_folder=folder))
    assert isinstance(row, Example), row
    collator = TheWorldCollator(tiny.tiny_processor(), image_folder=tmp_path)
    batch = collator([row])
    assert batch["skipped"] == []
    assert supervised(collator, batch) == ["".join(answer + END for answer in answers)]
    assert len(batch["pixel_values"]) == 1
