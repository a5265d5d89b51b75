"""VSR: labels, groups of relations, and what can be had without looking; also on the real annotations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.reference import reference_data
from theworld.data.schema import SourceSettings
from theworld.evaluation.store.predictions import Item, Prediction
from theworld.evaluation.tasks import TASKS

VSR = TASKS["vsr"]
TRAIN = [("1.jpg", "The cat is on the sofa.", 1, "on"), ("2.jpg", "The dog is behind the car.", 0, "behind")]
TEST = [
    ("3.jpg", "The cat is on the sofa.", 0, "on"),  # the opposite of what training says
    ("3.jpg", "The dog is behind the car.", 1, "behind"),
    ("4.jpg", "The cup is left of the plate.", 1, "left of"),
    ("5.jpg", "The bird is facing the cat.", 0, "facing"),
    ("5.jpg", "The bird is touching the cat.", 1, "touching"),
]


def write(path: Path, rows: list[tuple[str, str, int, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    keys = ("image", "caption", "label", "relation")
    path.write_text("".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for variant in ("random", "zeroshot"):
        write(tmp_path / variant / "train.jsonl", TRAIN)
        write(tmp_path / variant / "test.jsonl", TEST if variant == "random" else TEST[2:])
        write(tmp_path / variant / "dev.jsonl", TEST[:1])
    return tmp_path


def load(path: Path, **settings: Any) -> tuple[Item, ...]:
    return VSR.load(
        SourceSettings(path=str(path), image_folder=path if path.is_dir() else path.parent, **settings)
    ).items


def predictions(items: tuple[Item, ...], outputs: list[str]) -> list[Prediction]:
    scores = [VSR.score(item, output) for item, output in zip(items, outputs, strict=True)]
    return [
        Prediction(item.id, "", item.answer, output, item.family, item.cluster, score.parsed, score.right)
        for item, output, score in zip(items, outputs, scores, strict=True)
    ]


def test_items(folder: Path) -> None:
    items = load(folder / "random")
    assert [item.answer for item in items] == ["0", "1", "1", "0", "1"]
    assert [item.family for item in items] == ["on", "behind", "left of", "facing", "touching"]
    assert [item.cluster for item in items] == ["3.jpg", "3.jpg", "4.jpg", "5.jpg", "5.jpg"]
    assert {item.choices for item in items} == {("0", "1")}
    for item in items:  # as the scorer that compares them says them
        assert [VSR.score(item, choice).parsed for choice in item.choices] == list(item.choices)
    (message,) = items[0].messages
    assert message.content == "Statement: The cat is on the sofa.\nAnswer (only '0' or '1'):"


def test_which_file_is_read(folder: Path) -> None:
    assert len(load(folder)) == 3  # of zeroshot, the primary variant
    assert len(load(folder / "random")) == 5
    assert len(load(folder / "random", split="dev")) == 1
    assert len(load(folder / "random" / "test.jsonl")) == 5
    with pytest.raises(FileNotFoundError, match=r"val\.jsonl: no such file; splits of 'vsr' are train, dev and test"):
        load(folder / "random", split="val")


def test_words_stand_for_the_label_where_there_is_no_digit(folder: Path) -> None:
    item = load(folder / "random")[1]
    said = ["The statement is true.", "It is not true.", "False", "True or false", "No, 1", "2 cats. True"]
    assert [VSR.score(item, output).parsed for output in said] == ["1", "0", "0", None, None, None]


def test_measures(folder: Path) -> None:
    items = load(folder / "random")
    rows = predictions(items, ["1", "1", "0", "", "1"])
    assert [(row.parsed, row.score) for row in rows] == [("1", 0), ("1", 1), ("0", 0), (None, 0), ("1", 1)]
    rows.append(Prediction("row", "", "", "", failed="bad_row: no picture"))
    assert VSR.measures(rows) == {
        "yes_rate": 3 / 6,
        "orientation_accuracy": 0.0,
        "projective_accuracy": 0.5,
        "topological_accuracy": 0.5,
    }


def test_baselines(folder: Path) -> None:
    assert VSR.baselines(load(folder / "random")) == {
        "majority_answer": 2.5 / 5,  # of the other images: 1, a tie, 1
        "opposite_of_training": 4 / 5,  # two captions by their opposite, true for the others
        "same_as_training": 2 / 5,
        "relation_prior": 2 / 5,
    }
    (folder / "random" / "train.jsonl").unlink()
    assert VSR.baselines(load(folder / "random")) == {"majority_answer": 2.5 / 5}
    assert VSR.baselines(load(folder / "zeroshot", split="train")) == {"majority_answer": 0.0}


SIZES = {("random", "train"): 7680, ("random", "dev"): 1097, ("random", "test"): 2195}
SIZES |= {("zeroshot", "train"): 3489, ("zeroshot", "dev"): 340, ("zeroshot", "test"): 1222}


def test_real_splits() -> None:
    folder = reference_data("vsr")
    sizes = {key: len(load(folder / key[0], split=key[1])) for key in SIZES}
    print(f"VSR: {sizes}")
    assert sizes == SIZES


@pytest.mark.parametrize(("variant", "majority", "blind"), [("random", 1181, 0.731), ("zeroshot", 629, None)])
def test_real_baselines(variant: str, majority: int, blind: float | None) -> None:
    items = load(reference_data("vsr") / variant)
    baselines = VSR.baselines(items)
    print(f"VSR {variant} test: {baselines}")
    assert baselines["majority_answer"] == majority / len(items)
    if blind is not None:
        assert baselines["opposite_of_training"] == max(baselines.values()) == pytest.approx(blind, abs=5e-4)
    else:
        assert max(baselines.values()) < 0.55
    assert len({item.cluster for item in items}) == {"random": 1874, "zeroshot": 715}[variant]
    gold = predictions(items, [item.answer for item in items])
    assert sum(row.score for row in gold) == len(items)
    assert VSR.measures(gold)["yes_rate"] == majority / len(items)
