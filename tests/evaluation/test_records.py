"""Predictions survive a kill, go on where they stopped, and show when somebody laid hands on them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from theworld.data.schema import Example, Message
from theworld.evaluation.store.predictions import (
    MANIFEST,
    PREDICTIONS,
    Item,
    Prediction,
    PredictionFile,
    items_digest,
    read_predictions,
    rewrite_scores,
)

IDENTITY = {"task": "blink", "arm": "world", "scorer": "choices", "items": {"digest": "abc"}}
ROWS = [
    Prediction(f"item{n}", f"<bos>question {n}", "AB"[n % 2], "A", "depth", f"{n}.jpg", "A", 1.0 - n % 2)
    for n in range(6)
]
ROWS[2] = replace(ROWS[2], choice_logprobs={"A": -0.1, "B": -2.5}, world_tokens=16, figures={"relative_error": 0.5})
ROWS[3] = replace(ROWS[3], output="", parsed=None, failed="missing: 3.jpg")


def written(folder: Path, rows: list[Prediction] = ROWS, **identity: Any) -> Path:
    PredictionFile(folder, {**IDENTITY, **identity}, {"versions": {"torch": "2"}}).append(rows)
    return folder / PREDICTIONS


def edit(file: Path, change: Any) -> None:
    """Let `change` have its way with the rows, as somebody with an editor would."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in change(rows)), encoding="utf-8")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written(tmp_path)
    manifest, rows = read_predictions(tmp_path)
    assert manifest == {"identity": IDENTITY, "versions": {"torch": "2"}}
    assert rows == ROWS


@pytest.mark.parametrize("done", range(7))
def test_a_killed_run_goes_on_to_the_same_file(tmp_path: Path, done: int) -> None:
    whole = written(tmp_path / "undisturbed").read_bytes()
    killed = tmp_path / "killed"
    file = written(killed, ROWS[:done])
    if done < 6:  # in the middle of the next line
        start = len(file.read_bytes())
        file.write_bytes(whole[: start + 40])
    again = PredictionFile(killed, IDENTITY)
    assert again.done == ROWS[:done]
    again.append(ROWS[done:])
    assert again.done == ROWS
    assert file.read_bytes() == whole


def test_a_run_killed_before_its_first_row_starts(tmp_path: Path) -> None:
    PredictionFile(tmp_path, IDENTITY)
    assert read_predictions(tmp_path) == ({"identity": IDENTITY}, [])
    assert PredictionFile(tmp_path, IDENTITY).done == []


def test_going_on_keeps_the_manifest(tmp_path: Path) -> None:
    written(tmp_path)
    before = (tmp_path / MANIFEST).read_bytes()
    PredictionFile(tmp_path, IDENTITY, {"versions": {"torch": "3"}})
    assert (tmp_path / MANIFEST).read_bytes() == before


@pytest.mark.parametrize(
    ("identity", "named"),
    [
        ({"arm": "gemma"}, "arm"),
        ({"items": {"digest": "abd"}}, "items"),
        ({"arm": "gemma", "seed": 1}, "arm, seed"),
    ],
)
def test_another_identity_is_refused_by_name(tmp_path: Path, identity: dict[str, Any], named: str) -> None:
    before = written(tmp_path).read_bytes()
    with pytest.raises(ValueError, match=rf"made with other {named}: choose another folder"):
        PredictionFile(tmp_path, {**IDENTITY, **identity})
    assert (tmp_path / PREDICTIONS).read_bytes() == before


TAMPERED = {
    "shuffled": lambda rows: [rows[1], rows[0], *rows[2:]],
    "reversed": lambda rows: rows[::-1],
    "one dropped": lambda rows: [*rows[:2], *rows[3:]],
    "the first dropped": lambda rows: rows[1:],
    "one twice": lambda rows: [*rows[:2], *rows[1:]],
    "output changed": lambda rows: [*rows[:4], {**rows[4], "output": "B"}, rows[5]],
    "answer changed": lambda rows: [{**rows[0], "answer": "B"}, *rows[1:]],
    "prompt changed": lambda rows: [{**rows[0], "prompt": "other"}, *rows[1:]],
    "family changed": lambda rows: [{**rows[0], "family": "other"}, *rows[1:]],
    "cluster changed": lambda rows: [{**rows[0], "cluster": "other"}, *rows[1:]],
    "failure hidden": lambda rows: [*rows[:3], {**rows[3], "failed": None}, *rows[4:]],
    "world tokens claimed": lambda rows: [{**rows[0], "world_tokens": 16}, *rows[1:]],
    "log-probability changed": lambda rows: [
        *rows[:2],
        {**rows[2], "choice_logprobs": {"A": -2.5, "B": -0.1}},
        *rows[3:],
    ],
    "seal removed": lambda rows: [{key: value for key, value in rows[0].items() if key != "seal"}, *rows[1:]],
    "no prediction": lambda rows: [{"id": "item0"}, *rows[1:]],
}


@pytest.mark.parametrize("how", TAMPERED)
def test_rows_that_were_tampered_with_are_refused(tmp_path: Path, how: str) -> None:
    edit(written(tmp_path), TAMPERED[how])
    for read in (read_predictions, lambda folder: PredictionFile(folder, IDENTITY)):
        with pytest.raises(ValueError, match=r"predictions\.jsonl, line \d: .*evaluate again"):
            read(tmp_path)


@pytest.mark.parametrize(
    "scored", [{"score": "1.0"}, {"score": float("inf")}, {"figures": []}, {"figures": {"error": "0"}}, {"parsed": 1}]
)
def test_scores_of_another_type_are_refused(tmp_path: Path, scored: dict[str, Any]) -> None:
    edit(written(tmp_path), lambda rows: [*rows[:2], {**rows[2], **scored}, *rows[3:]])
    with pytest.raises(ValueError, match=r"predictions\.jsonl, line 3: no prediction"):
        read_predictions(tmp_path)


def test_rows_of_another_arm_are_refused(tmp_path: Path) -> None:
    ours, theirs = written(tmp_path / "world"), written(tmp_path / "gemma", arm="gemma")
    shutil.copy(theirs, ours)
    with pytest.raises(ValueError, match=r"line 1: item 'item0' does not fit its seal: .* copied from another arm"):
        read_predictions(tmp_path / "world")


def test_a_manifest_that_was_edited_is_refused(tmp_path: Path) -> None:
    written(tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_text(encoding="utf-8"))
    manifest["identity"]["arm"] = "gemma"
    (tmp_path / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(ValueError, match="does not fit its seal"):
        read_predictions(tmp_path)
    (tmp_path / MANIFEST).write_text('{"versions": {}}', encoding="utf-8")
    with pytest.raises(ValueError, match="no manifest of an evaluation"):
        read_predictions(tmp_path)
    (tmp_path / MANIFEST).write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="not JSON"):
        read_predictions(tmp_path)


def test_scores_are_written_anew_without_touching_the_evidence(tmp_path: Path) -> None:
    file = written(tmp_path)
    before = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    rescored = [replace(row, parsed="B", score=0.5, figures={"error": 2.0}) for row in ROWS]
    rewrite_scores(tmp_path, rescored)
    assert read_predictions(tmp_path)[1] == rescored
    after = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    scores = {"parsed": "B", "score": 0.5, "figures": {"error": 2.0}}
    assert after == [{**row, **scores} for row in before]
    assert PredictionFile(tmp_path, IDENTITY).done == rescored


@pytest.mark.parametrize(
    "rows",
    [
        [replace(ROWS[0], output="B"), *ROWS[1:]],
        [replace(ROWS[0], family="other"), *ROWS[1:]],
        ROWS[:-1],
        [*ROWS, ROWS[-1]],
        ROWS[::-1],
    ],
)
def test_scores_of_other_predictions_are_not_written(tmp_path: Path, rows: list[Prediction]) -> None:
    before = written(tmp_path).read_bytes()
    with pytest.raises(ValueError, match="not those that are there"):
        rewrite_scores(tmp_path, rows)
    assert (tmp_path / PREDICTIONS).read_bytes() == before


def test_nothing_to_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"manifest\.json: no such file; `theworld evaluate` writes it"):
        read_predictions(tmp_path)


def test_items_are_told_by_prompt_answer_and_order() -> None:
    items = [Item(str(n), (Message("user", f"question {n}"),), (), "A", ("A", "B")) for n in range(3)]
    digest = items_digest(items)
    assert items_digest(list(items)) == digest
    changed = [
        items[::-1],
        items[:2],
        [replace(items[0], id="x"), *items[1:]],
        [replace(items[0], answer="B"), *items[1:]],
        [replace(items[0], choices=("A",)), *items[1:]],
        [replace(items[0], messages=(Message("user", "other"),)), *items[1:]],
    ]
    assert digest not in [items_digest(other) for other in changed]
    assert items_digest([replace(items[0], family="other", images=("a.png",)), *items[1:]]) == digest


def test_the_answer_of_an_example_is_not_in_its_prompt() -> None:
    turns = (Message("user", "one?"), Message("assistant", "1"), Message("user", "two?"), Message("assistant", "2"))
    example = Example("x", turns, ("a.png",), choices=("1", "2"), metadata={"unit": "m"})
    item = Item.from_example(example, family="numbers")
    assert item == Item("x", turns[:3], ("a.png",), "2", ("1", "2"), "numbers", metadata={"unit": "m"})
    assert item.metadata is not example.metadata
