"""Predictions to numbers, against counts made by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.evaluation.arms import answer_rows, identity, make_items, make_task, write_arm, write_arms
from theworld.evaluation.score import describe, read_metrics, rescore, task_numbers, write_metrics
from theworld.evaluation.stats.comparison import compare
from theworld.evaluation.store.predictions import Prediction, PredictionFile, items_digest, read_predictions
from theworld.evaluation.store.refusals import ArmRun
from theworld.evaluation.tasks.base import Score
from theworld.evaluation.verdict import DECISIVE, correct

ITEMS = make_items(40, per_picture=2)
EVERY = {
    "world": [n % 10 != 0 for n in range(40)],  # 36 right
    "gemma": [n % 2 == 1 for n in range(40)],  # 20 right, none of which the world gets wrong
    "other_image": [n < 20 for n in range(40)],
}


def arm_of(right: list[bool], name: str = "world", **fields: object) -> ArmRun:
    return ArmRun(name, {"identity": {}}, answer_rows(ITEMS, name, right, **fields))


def test_metrics_of_a_task_are_those_that_were_written(tmp_path: Path) -> None:
    write_arms(tmp_path, ITEMS, EVERY)
    metrics = write_metrics(tmp_path, make_task(ITEMS), ITEMS)
    assert (
        metrics
        == json.loads((tmp_path / "balls" / "metrics.json").read_text(encoding="utf-8"))
        == read_metrics(tmp_path)["balls"]
    )
    world = metrics["arms"]["world"]
    assert world["accuracy"]["estimate"] == pytest.approx(0.9)
    assert world["accuracy"]["n"] == 40
    assert world["accuracy"]["n_clusters"] == 20
    assert world["accuracy"]["low"] < 0.9 < world["accuracy"]["high"]
    assert world["families"]["drop"]["accuracy"]["estimate"] == pytest.approx(0.8)
    assert world["families"]["roll"]["accuracy"]["estimate"] == pytest.approx(1.0)
    assert metrics["floors"] == {"always_yes": 26 / 40}
    assert set(metrics["comparisons"]) == {"gemma", "other_image"}
    assert metrics["verdict"]["text"].startswith("not shown: not run: Gemma trained equally")


def test_how_answers_are_spread() -> None:
    rows = answer_rows(ITEMS, "world", EVERY["world"])
    rows[0] = replace(rows[0], parsed=None, output="maybe")
    rows[1] = replace(rows[1], parsed=None, output="", failed="missing: a.png", score=0.0)
    told = describe([ArmRun("world", {"identity": {}}, rows)], lambda rows: {"rows": float(len(rows))})
    assert (told["unparsed"], told["failed"], told["distinct_answers"]) == (1, 1, 2)
    assert sum(told["answers"].values()) == 38
    assert told["right_answers"] == {"yes": 26, "no": 14}
    assert told["measures"] == {"rows": 40.0}
    assert told["world_tokens"] == 16


def test_figures_are_means_over_the_answers_that_have_them() -> None:
    rows = answer_rows(ITEMS, "world", EVERY["world"])
    rows[0], rows[1] = replace(rows[0], figures={"error": 1.0}), replace(rows[1], figures={"error": 3.0})
    assert describe([ArmRun("world", {"identity": {}}, rows)])["figures"] == {"error": {"mean": 2.0, "n": 2}}


def test_items_without_a_family_make_none() -> None:
    rows = [replace(row, family="all") for row in answer_rows(ITEMS, "world", EVERY["world"])]
    assert describe([ArmRun("world", {"identity": {}}, rows)])["families"] == {}


def test_a_comparison_counted_by_hand() -> None:
    numbers = compare([arm_of(EVERY["world"])], [arm_of(EVERY["gemma"], "gemma")])
    assert (numbers["b"], numbers["c"]) == (16, 0)
    assert numbers["difference"] == pytest.approx(0.4)
    assert numbers["p"] == pytest.approx(2 * 0.5**16)
    assert numbers["discordance"] == pytest.approx(0.4)
    assert numbers["low"] < 0.4 < numbers["high"]
    turned = compare([arm_of(EVERY["gemma"], "gemma")], [arm_of(EVERY["world"])])
    assert (turned["b"], turned["c"], turned["difference"]) == (0, 16, pytest.approx(-0.4))


def test_relative_depth_of_the_benchmarks_paper() -> None:
    """GPT-4o against GPT-4V on BLINK Relative_Depth: b 38, c 20 of 124, +14.5 points, p .025."""
    ours = [True] * 38 + [False] * 20 + [True] * 66
    theirs = [False] * 38 + [True] * 20 + [True] * 66
    items = make_items(124)
    runs = [ArmRun(name, {}, answer_rows(items, name, right)) for name, right in (("world", ours), ("gemma", theirs))]
    numbers = compare([runs[0]], [runs[1]])
    assert (numbers["b"], numbers["c"]) == (38, 20)
    assert numbers["difference"] == pytest.approx(0.145, abs=5e-4)
    assert numbers["p"] == pytest.approx(0.025, abs=1e-3)


def test_figures_are_compared_where_both_arms_have_them() -> None:
    ours, theirs = (answer_rows(ITEMS, name, EVERY["world"]) for name in ("world", "gemma"))
    ours = [replace(row, figures={"error": 1.0 + n % 2}) for n, row in enumerate(ours)]
    theirs = [replace(row, figures={"error": 3.0} if n < 30 else {}) for n, row in enumerate(theirs)]
    numbers = compare([ArmRun("world", {}, ours)], [ArmRun("gemma", {}, theirs)])["figures"]["error"]
    assert numbers["n"] == 30
    assert numbers["difference"] == pytest.approx(-1.5)
    assert numbers["low"] <= -1.5 <= numbers["high"] < 0


def test_repeated_pictures_show_less() -> None:
    """The two items of a picture are right together: they are worth one."""
    right = [n % 4 < 2 for n in range(40)]
    alone = [replace(row, cluster="") for row in answer_rows(ITEMS, "world", right)]
    tied = describe([arm_of(right)])["smallest_difference"]
    assert tied > describe([ArmRun("world", {}, alone)])["smallest_difference"]


def test_one_picture_tells_nothing() -> None:
    ours, theirs = arm_of(EVERY["world"], cluster="a"), arm_of(EVERY["gemma"], "gemma", cluster="a")
    numbers = compare([ours], [theirs])
    assert (numbers["low"], numbers["high"], numbers["smallest_difference"]) == (-1.0, 1.0, 1.0)
    arms = {name: [arm_of([False] * 40, name, cluster="a")] for name in DECISIVE}
    metrics = correct({"balls": task_numbers({"world": [arm_of([True] * 40, cluster="a")], **arms})})["balls"]
    assert metrics["comparisons"]["gemma"]["p_holm"] < 1e-6
    assert not metrics["verdict"]["helps"]


def test_seeds_are_averaged_and_their_spread_is_kept_apart() -> None:
    seeds = [arm_of(EVERY["world"]), arm_of([n % 5 != 0 for n in range(40)])]  # 0.9 and 0.8
    told = describe(seeds)
    assert told["accuracy"]["estimate"] == pytest.approx(0.85)
    assert told["between_seed_sd"] == pytest.approx(0.0707, abs=1e-4)
    assert told["seeds"] == 2
    numbers = compare(seeds, [arm_of(EVERY["gemma"], "gemma")])
    assert numbers["b"] is None
    assert numbers["difference"] == pytest.approx(0.35)
    assert numbers["p"] < 0.01
    assert compare(seeds, seeds)["p"] == 1.0
    assert describe(seeds[:1])["between_seed_sd"] is None


def test_seeds_may_disagree_on_the_only_item_of_a_family() -> None:
    items = [replace(item, family="rare" if item.id == "q0" else "drop") for item in ITEMS]
    seeds = [ArmRun("world", {}, answer_rows(items, "world", [first, *[True] * 39])) for first in (True, False)]
    rare = describe(seeds)["families"]["rare"]["accuracy"]
    assert (rare["estimate"], rare["n"]) == (0.5, 1)
    assert 0 <= rare["low"] < 0.5 < rare["high"] <= 1


def test_without_the_full_model_there_is_nothing_to_compare() -> None:
    metrics = correct({"balls": task_numbers({"gemma": [arm_of(EVERY["gemma"], "gemma")]})})["balls"]
    assert metrics["comparisons"] is None
    assert metrics["verdict"] == {"helps": False, "text": "not shown: the full model (world) was not run"}


def test_a_second_task_widens_the_family_of_the_first(tmp_path: Path) -> None:
    write_arms(tmp_path, ITEMS, EVERY)
    before = write_metrics(tmp_path, make_task(ITEMS), ITEMS)
    write_arms(tmp_path, ITEMS, EVERY, task="cubes")
    write_metrics(tmp_path, make_task(ITEMS, "cubes"), ITEMS)
    after = read_metrics(tmp_path)["balls"]
    assert after["holm_family"] == {"comparisons": 4, "tasks": ["balls", "cubes"]}
    least = before["comparisons"]["gemma"]
    assert least["p_holm"] == pytest.approx(2 * least["p"])
    assert after["comparisons"]["gemma"]["p_holm"] == pytest.approx(4 * least["p"])


def test_rescoring_reads_the_outputs_again(tmp_path: Path) -> None:
    rows = answer_rows(ITEMS, "world", EVERY["world"])
    said = [replace(row, output=f"I say {row.output}", parsed=None, score=0.0) for row in rows]
    write_arm(tmp_path, ITEMS, "world", said)
    task = make_task(ITEMS)

    def last_word(item, output: str) -> Score:
        return task.score(item, output.split()[-1])

    arms = rescore(tmp_path / "balls", replace(task, score=last_word), ITEMS)
    assert sum(row.score for row in arms["world"].predictions) == 36
    stored = read_predictions(tmp_path / "balls" / "world")[1]
    assert stored == arms["world"].predictions
    assert [row.output for row in stored] == [row.output for row in said]


def test_scores_that_were_edited_do_not_count(tmp_path: Path) -> None:
    rows = [replace(row, score=1.0) for row in answer_rows(ITEMS, "world", [False] * 40)]
    write_arm(tmp_path, ITEMS, "world", rows)
    metrics = write_metrics(tmp_path, make_task(ITEMS), ITEMS)
    assert metrics["arms"]["world"]["accuracy"]["estimate"] == 0.0


def test_rows_that_never_were_an_item_stay_failed(tmp_path: Path) -> None:
    gone = Prediction("gone", "", "", "", failed="missing: b.png")
    more = {**identity(ITEMS, "world"), "items": {"count": 41, "digest": items_digest(ITEMS)}}
    rows = [*answer_rows(ITEMS, "world", EVERY["world"]), gone]
    PredictionFile(tmp_path / "balls" / "world", more).append(rows)
    metrics = write_metrics(tmp_path, make_task(ITEMS), ITEMS)
    assert metrics["arms"]["world"]["accuracy"]["n"] == 41
    assert metrics["arms"]["world"]["failed"] == 1
    assert set(metrics["arms"]["world"]["families"]) == {"drop", "roll"}


def test_scoring_by_other_items_is_refused(tmp_path: Path) -> None:
    write_arms(tmp_path, ITEMS, EVERY)
    others = [replace(item, answer="yes") for item in ITEMS]
    with pytest.raises(ValueError, match="was asked other items"):
        rescore(tmp_path / "balls", make_task(others), others)
