"""Predictions survive a kill, are resumed where they stopped, and show accidents."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from theworld.data.schema import Example, Message
from theworld.evaluation.store.predictions import (
    FORMAT,
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
    assert manifest == {"format": FORMAT, "identity": IDENTITY, "versions": {"torch": "2"}}
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
    assert list(again.done.values()) == ROWS[:done]
    again.append(ROWS[max(done - 1, 0) :])  # what is there already is not written again
    assert list(again.done.values()) == ROWS
    assert file.read_bytes() == whole


def test_a_run_killed_before_its_first_row_starts(tmp_path: Path) -> None:
    PredictionFile(tmp_path, IDENTITY)
    assert read_predictions(tmp_path) == ({"format": FORMAT, "identity": IDENTITY}, [])
    assert PredictionFile(tmp_path, IDENTITY).done == {}


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
    with pytest.raises(ValueError, match=rf"made with other {named}: choose another output folder"):
        PredictionFile(tmp_path, {**IDENTITY, **identity})
    assert (tmp_path / PREDICTIONS).read_bytes() == before


CHANGED = {
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
    "digest removed": lambda rows: [{key: value for key, value in rows[0].items() if key != "digest"}, *rows[1:]],
    "no prediction": lambda rows: [{"id": "item0"}, *rows[1:]],
}


@pytest.mark.parametrize("how", CHANGED)
def test_rows_that_were_changed_are_refused(tmp_path: Path, how: str) -> None:
    edit(written(tmp_path), CHANGED[how])
    for read in (read_predictions, lambda folder: PredictionFile(folder, IDENTITY)):
        with pytest.raises(ValueError, match=r"predictions\.jsonl, line \d: .*evaluate again"):
            read(tmp_path)


@pytest.mark.parametrize(
    "scored", [{"score": "1.0"}, {"score": float("inf")}, {"figures": []}, {"figures": {"error": "0"}}, {"parsed": 1}]
)
def test_scores_of_another_type_are_refused(tmp_path: Path, scored: dict[str, Any]) -> None:
    edit(written(tmp_path), lambda rows: [*rows[:2], {**rows[2], **scored}, *rows[3:]])
    with pytest.raises(ValueError, match=r"predictions\.jsonl, line 3: not a prediction"):
        read_predictions(tmp_path)


def test_rows_of_another_arm_are_refused(tmp_path: Path) -> None:
    ours, theirs = written(tmp_path / "world"), written(tmp_path / "gemma", arm="gemma")
    shutil.copy(theirs, ours)
    with pytest.raises(ValueError, match=r"line 1: item 'item0' does not fit its digest: .* one of another arm"):
        read_predictions(tmp_path / "world")


def test_a_manifest_that_was_edited_is_refused(tmp_path: Path) -> None:
    written(tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_text(encoding="utf-8"))
    manifest["identity"]["arm"] = "gemma"
    (tmp_path / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(ValueError, match="does not fit its digest"):
        read_predictions(tmp_path)
    (tmp_path / MANIFEST).write_text('{"identity": {"arm": "world"}}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"predictions of version 0\.1: evaluate again into another folder"):
        read_predictions(tmp_path)
    (tmp_path / MANIFEST).write_text('{"versions": {}}', encoding="utf-8")
    with pytest.raises(ValueError, match="expected a JSON object with the objects identity; evaluate again"):
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
    assert list(PredictionFile(tmp_path, IDENTITY).done.values()) == rescored


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
    with pytest.raises(ValueError, match="differ from the stored ones"):
        rewrite_scores(tmp_path, rows)
    assert (tmp_path / PREDICTIONS).read_bytes() == before


def test_processes_add_to_files_of_their_own_which_become_one(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole").read_bytes()
    folder, ids = tmp_path / "shared", [row.id for row in ROWS]
    first, second = (PredictionFile(folder, IDENTITY, {"versions": {"torch": "2"}}, rank) for rank in (0, 1))
    first.append(ROWS[:2])
    second.append(ROWS[2:4])
    assert len(list(folder.glob("*.jsonl"))) == 2
    with pytest.raises(ValueError, match=r"2 of 6 items are missing, such as 'item4'; run the same command again"):
        first.merge(ids)
    resumed = PredictionFile(folder, IDENTITY, rank=2)  # by another number of processes
    assert set(resumed.done) == set(ids[:4])
    resumed.append(ROWS)
    PredictionFile(folder, IDENTITY).merge(ids)
    assert (folder / PREDICTIONS).read_bytes() == whole
    assert [path.name for path in folder.glob("*.jsonl")] == [PREDICTIONS]


@pytest.mark.parametrize(
    "accident",
    [
        lambda rows: rows[::-1],
        lambda rows: [*rows[:2], *rows[3:]],
        lambda rows: rows[1:],
        lambda rows: [*rows, rows[0]],
    ],
    ids=["reversed", "one lost", "the first lost", "one twice"],
)
def test_the_same_command_repairs_lost_and_misplaced_rows(tmp_path: Path, accident: Any) -> None:
    file = written(tmp_path)
    whole = file.read_bytes()
    edit(file, accident)
    again = PredictionFile(tmp_path, IDENTITY)
    again.append(ROWS)
    again.merge([row.id for row in ROWS])
    assert [json.loads(line) for line in file.read_bytes().splitlines()] == [
        json.loads(line) for line in whole.splitlines()
    ]


def test_half_a_surrogate_pair_survives_new_scores(tmp_path: Path) -> None:
    rows = [replace(ROWS[0], output="\ud83d"), *ROWS[1:]]
    written(tmp_path, rows)
    rewrite_scores(tmp_path, rows)
    assert read_predictions(tmp_path)[1] == rows


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
