"""Every refusal, made to happen on files."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.evaluation.arms import answer_rows, make_items, make_task, write_arm, write_arms
from theworld.evaluation.report import write_report
from theworld.evaluation.score import write_metrics
from theworld.evaluation.store.predictions import PREDICTIONS, Prediction, read_predictions
from theworld.evaluation.store.refusals import ArmRun, check_together, read_arms, warnings_of

ITEMS = make_items(12)
RIGHT = {"gemma": [n % 2 == 0 for n in range(12)], "world": [n % 3 != 0 for n in range(12)]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_arms(tmp_path, ITEMS, RIGHT)
    return tmp_path / "balls"


def change(path: Path, edit: Callable[[list[str]], list[str]]) -> None:
    file = path / PREDICTIONS
    file.write_text(
        "".join(f"{line}\n" for line in edit(file.read_text(encoding="utf-8").splitlines())), encoding="utf-8"
    )


def test_whole_arms_are_read_in_the_order_of_a_table(folder: Path) -> None:
    arms = read_arms(folder)
    assert list(arms) == ["world", "gemma"]
    assert len(arms["world"].predictions) == 12


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no predictions of any arm"):
        read_arms(tmp_path)


def edit_output(lines: list[str]) -> list[str]:
    row = json.loads(lines[4])
    return [*lines[:4], json.dumps({**row, "output": "maybe"}), *lines[5:]]


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda lines: lines[::-1], "were asked other items"),
        (lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]], "were asked other items"),
        (lambda lines: [*lines[:3], *lines[4:]], "only 11 of 12 items were asked; run the same command again"),
        (edit_output, "does not fit its digest"),
        (lambda lines: [*lines, lines[0]], "item 'q0' occurs more than once"),
    ],
    ids=["reversed", "two rows exchanged", "one row out of the middle", "an output edited", "a row twice"],
)
def test_accidents(folder: Path, edit: Callable[[list[str]], list[str]], reason: str) -> None:
    change(folder / "world", edit)
    with pytest.raises(ValueError, match=reason):
        read_arms(folder)


def test_rows_of_another_arm(folder: Path) -> None:
    shutil.copy(folder / "gemma" / PREDICTIONS, folder / "world" / PREDICTIONS)
    with pytest.raises(ValueError, match="does not fit its digest"):
        read_arms(folder)


def test_a_whole_folder_of_another_arm(folder: Path) -> None:
    shutil.copytree(folder / "gemma", folder / "zeroed")
    with pytest.raises(ValueError, match="'zeroed' is refused: holds predictions of arm 'gemma'"):
        read_arms(folder)


@pytest.mark.parametrize("kept", [0, 7])
def test_rows_missing_at_the_end(folder: Path, kept: int) -> None:
    change(folder / "world", lambda lines: lines[:kept])
    with pytest.raises(ValueError, match="7 of 12 items" if kept else "there are no predictions"):
        read_arms(folder)


def test_nothing_was_said(tmp_path: Path) -> None:
    rows = answer_rows(ITEMS, "world", [False] * 12)
    write_arm(tmp_path, ITEMS, "world", [replace(row, output=" ", parsed=None) for row in rows])
    with pytest.raises(ValueError, match="every one of 12 outputs is empty"):
        read_arms(tmp_path / "balls")


def test_everything_failed(tmp_path: Path) -> None:
    rows = answer_rows(ITEMS, "world", [False] * 12, failed="missing: a.png")
    write_arm(tmp_path, ITEMS, "world", [replace(row, output="", parsed=None) for row in rows])
    with pytest.raises(ValueError, match=r"outputs is empty \(missing: a.png\)"):
        read_arms(tmp_path / "balls")


def test_a_world_that_no_token_came_from(tmp_path: Path) -> None:
    write_arm(tmp_path, ITEMS, "world", answer_rows(ITEMS, "world", RIGHT["world"], world_tokens=0))
    with pytest.raises(ValueError, match="'world' is refused: consumed no world tokens"):
        read_arms(tmp_path / "balls")


def test_a_baseline_that_saw_the_world(tmp_path: Path) -> None:
    write_arm(tmp_path, ITEMS, "gemma", answer_rows(ITEMS, "gemma", RIGHT["gemma"], world_tokens=16))
    with pytest.raises(ValueError, match="consumed 192 world tokens"):
        read_arms(tmp_path / "balls")


@pytest.mark.parametrize("secret", ["hidden", ""])
def test_hidden_answers(tmp_path: Path, secret: str) -> None:
    items = [replace(item, answer=secret) for item in ITEMS]
    write_arm(tmp_path, items, "world", answer_rows(items, "world", [False] * 12))
    with pytest.raises(ValueError, match="the answers of this split are hidden"):
        read_arms(tmp_path / "balls")


@pytest.mark.parametrize("with_logprobs", [True, False])
def test_identical_answers_are_no_refusal(tmp_path: Path, with_logprobs: bool) -> None:
    logprobs = {"yes": -0.1, "no": -2.0} if with_logprobs else None
    for arm in ("world", "gemma"):
        write_arm(tmp_path, ITEMS, arm, answer_rows(ITEMS, arm, RIGHT["world"], choice_logprobs=logprobs))
    assert set(read_arms(tmp_path / "balls")) == {"world", "gemma"}


def test_two_models_that_share_a_control_and_a_rerun_are_compared(tmp_path: Path) -> None:
    for run, weights in (("first", "a"), ("second", "b"), ("again", "a")):
        write_arms(tmp_path / run, ITEMS, {"world": RIGHT["world"]}, weights=weights)
        write_arms(tmp_path / run, ITEMS, {"gemma_tuned": RIGHT["gemma"]}, weights="c")
    runs = {run: read_arms(tmp_path / run / "balls") for run in ("first", "second", "again")}
    check_together({f"{run}/{name}": arm for run, arms in runs.items() for name, arm in arms.items()})
    assert runs["first"]["gemma_tuned"].identity == runs["second"]["gemma_tuned"].identity
    assert runs["first"]["world"].identity == runs["again"]["world"].identity
    assert runs["first"]["world"].identity != runs["second"]["world"].identity


def test_arms_of_other_items(tmp_path: Path) -> None:
    write_arms(tmp_path, ITEMS, {"world": RIGHT["world"]})
    write_arms(tmp_path, make_items(10), {"gemma": RIGHT["gemma"][:10]})
    with pytest.raises(ValueError, match="were asked other items"):
        read_arms(tmp_path / "balls")


def test_arms_whose_rows_are_in_another_order(tmp_path: Path) -> None:
    write_arms(tmp_path, ITEMS, {"world": RIGHT["world"]})
    write_arm(tmp_path, ITEMS, "gemma", answer_rows(ITEMS, "gemma", RIGHT["gemma"])[::-1])
    with pytest.raises(ValueError, match="were asked other items"):
        read_arms(tmp_path / "balls")


@pytest.mark.parametrize(
    ("first", "second", "differing"),
    [
        ("world", "gemma", {"scorer": ("auto", "generate")}),
        ("world", "gemma", {"dtype": ("float32", "bfloat16")}),
        ("world", "other_image", {"weights": ("a", "b")}),
        ("world", "world_0", {"weights": ("a", "b")}),
        ("world", "other_image", {"num_world_steps": (4, 2)}),
        ("world", "random_encoder", {"num_world_steps": (4, 2)}),
    ],
)
def test_arms_of_two_evaluations_in_one_folder(
    tmp_path: Path, first: str, second: str, differing: dict[str, tuple[object, object]]
) -> None:
    for arm, place in ((first, 0), (second, 1)):
        more = {name: values[place] for name, values in differing.items()}
        write_arm(tmp_path, ITEMS, arm, answer_rows(ITEMS, arm, RIGHT["gemma"]), **more)
    with pytest.raises(ValueError, match=f"{first!r} and {second!r} were made with other {next(iter(differing))}: "):
        read_arms(tmp_path / "balls")


def test_arms_that_differ_in_what_they_are(tmp_path: Path) -> None:
    for arm, weights, steps in [
        ("world", "a", 4),
        ("world_0", "a", 0),
        ("gemma", "b", None),
        ("random_encoder", "c", 4),
    ]:
        rows = answer_rows(ITEMS, arm, RIGHT["gemma"])
        write_arm(tmp_path, ITEMS, arm, rows, weights=weights, num_world_steps=steps)
    assert len(read_arms(tmp_path / "balls")) == 4


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda world, gemma: change(world, lambda lines: lines[::-1]), "were asked other items"),
        (lambda world, gemma: (world / PREDICTIONS).write_text("", encoding="utf-8"), "no predictions"),
        (lambda world, gemma: shutil.copy(gemma / PREDICTIONS, world / PREDICTIONS), "one of another arm"),
        (
            lambda world, gemma: change(
                world, lambda lines: [line.replace('"score": 0.0', '"score": 1.0') for line in lines]
            ),
            "predictions of world have changed since .*metrics.json was written",
        ),
        (lambda world, gemma: shutil.rmtree(gemma), "predictions of gemma have changed since"),
    ],
    ids=["shuffled", "emptied", "copied", "scores edited", "an arm removed"],
)
def test_the_report_refuses_what_was_changed_behind_its_numbers(
    tmp_path: Path, harm: Callable[[Path, Path], object], reason: str
) -> None:
    write_arms(tmp_path, ITEMS, RIGHT)
    write_metrics(tmp_path, make_task(ITEMS), ITEMS)
    harm(tmp_path / "balls" / "world", tmp_path / "balls" / "gemma")
    with pytest.raises(ValueError, match=reason):
        write_report(tmp_path)


def rows_of(outputs: list[str], answers: list[str], **fields: int) -> ArmRun:
    rows = [
        Prediction(
            f"{n}",
            "?",
            answer,
            output,
            parsed=output if output in ("yes", "no") else None,
            **{"world_tokens": 4, **fields},
        )
        for n, (output, answer) in enumerate(zip(outputs, answers, strict=True))
    ]
    return ArmRun("world", {"identity": {}}, rows)


BALANCED = ["yes", "no"] * 10


def test_sound_answers_warn_of_nothing() -> None:
    assert warnings_of(rows_of(BALANCED, BALANCED)) == []
    assert warnings_of(rows_of([*BALANCED[:16], *["hm"] * 4], BALANCED)) == []  # a fifth is allowed


def test_warnings_of_answers_that_cannot_be_read() -> None:
    assert "5 of 20 answers could not be parsed" in warnings_of(rows_of([*BALANCED[:15], *["hm"] * 5], BALANCED))


def test_warnings_of_one_answer_to_everything() -> None:
    assert "19 of 20 answers are 'yes'" in warnings_of(rows_of(["yes"] * 19 + ["no"], BALANCED))


def test_warnings_of_failures_and_of_items_without_a_world() -> None:
    arm = rows_of(BALANCED, BALANCED)
    rows = [replace(arm.predictions[0], failed="missing: a.png", output="", parsed=None), *arm.predictions[1:]]
    assert warnings_of(replace(arm, predictions=rows)) == ["1 of 20 items failed and count as wrong"]
    rows = [replace(arm.predictions[0], world_tokens=0), *arm.predictions[1:]]
    assert warnings_of(replace(arm, predictions=rows)) == ["1 of 20 items consumed no world tokens"]


def test_the_manifest_alone_is_no_arm(folder: Path) -> None:
    (folder / "world" / PREDICTIONS).unlink()
    assert read_predictions(folder / "world")[1] == []
    with pytest.raises(ValueError, match="there are no predictions"):
        read_arms(folder)
