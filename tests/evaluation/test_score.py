"""Predictions to numbers, against counts made by hand."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.arms import answer_rows, identity, make_items, make_task, write_arm, write_arms
from theworld.evaluation.score import each_once, identical_arms, read_metrics, rescore, task_numbers, write_metrics
from theworld.evaluation.store.predictions import Prediction, PredictionFile, items_digest, read_predictions
from theworld.evaluation.store.refusals import ArmRun
from theworld.evaluation.tasks.base import Score
from theworld.evaluation.verdict import correct
from theworld.model import TheWorldConfig

ITEMS = make_items(40, per_picture=2)
EVERY = {
    "world": [n % 10 != 0 for n in range(40)],  # 36 right
    "gemma": [n % 2 == 1 for n in range(40)],  # 20 right, none of which the world gets wrong
    "other_image": [n < 20 for n in range(40)],
}


def arm_of(right: list[bool], name: str = "world", **fields: object) -> ArmRun:
    return ArmRun(name, {"identity": {}}, answer_rows(ITEMS, name, right, **fields))


def told_of(*runs: ArmRun, **more: Any) -> dict[str, Any]:
    """What the metrics say of an arm with these runs."""
    return task_numbers({"world": list(runs)}, **more)["arms"]["world"]


def compared(ours: Sequence[ArmRun], theirs: Sequence[ArmRun]) -> dict[str, Any]:
    """The comparison of the full model with another arm over all items."""
    return task_numbers({"world": ours, "gemma": theirs})["comparisons"]["all"]["gemma"]


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
    assert world["families"]["drop"]["estimate"] == pytest.approx(0.8)
    assert world["families"]["roll"]["estimate"] == pytest.approx(1.0)
    assert metrics["baselines"] == {"always_yes": 26 / 40}
    assert world["kinds"]["all"] == world["accuracy"]
    assert world["label"] == "World, rollout (full model)"
    assert (metrics["task"], metrics["n"], metrics["kinds"], metrics["skipped"]) == ("balls", 40, ["all"], 0)
    assert set(metrics["comparisons"]["all"]) == {"gemma", "other_image"}
    assert metrics["verdicts"]["all"]["outcome"] == "not run"
    assert metrics["learners"] is metrics["tracing"] is None


def test_how_answers_are_spread() -> None:
    rows = answer_rows(ITEMS, "world", EVERY["world"])
    rows[0] = replace(rows[0], parsed=None, output="maybe")
    rows[1] = replace(rows[1], parsed=None, output="", failed="missing: a.png", score=0.0)
    run = ArmRun("world", {"identity": {}}, rows)
    told = told_of(run)
    assert (told["unparsed"], told["failed"], len(told["answers"])) == (1, 1, 2)
    assert sum(told["answers"].values()) == 38
    assert told["world_tokens"] == 16


def test_measures_of_a_task_have_n_and_an_interval() -> None:
    told = told_of(arm_of(EVERY["world"]), measures=lambda rows: {"yes": sum(row.parsed == "yes" for row in rows) / 40})
    share = told["measures"]["yes"]
    assert share["n"] == 40
    assert share["low"] < share["estimate"] < share["high"]


def test_figures_are_means_over_the_answers_that_have_them() -> None:
    rows = answer_rows(ITEMS, "world", EVERY["world"])
    rows[0], rows[1] = replace(rows[0], figures={"error": 1.0}), replace(rows[1], figures={"error": 3.0})
    assert told_of(ArmRun("world", {"identity": {}}, rows))["figures"] == {"error": {"mean": 2.0, "n": 2}}


def test_items_without_a_family_make_none() -> None:
    rows = [replace(row, family="all") for row in answer_rows(ITEMS, "world", EVERY["world"])]
    assert told_of(ArmRun("world", {"identity": {}}, rows))["families"] == {}


def test_a_comparison_counted_by_hand() -> None:
    items = make_items(40)
    ours, theirs = (
        [ArmRun(name, {"identity": {}}, answer_rows(items, name, EVERY[name]))] for name in ("world", "gemma")
    )
    numbers = compared(ours, theirs)
    assert (numbers["b"], numbers["c"]) == (16, 0)
    assert numbers["difference"] == pytest.approx(0.4)
    assert numbers["p"] == pytest.approx(2 * 0.5**16)
    assert numbers["low"] < 0.4 < numbers["high"]
    turned = compared(theirs, ours)
    assert (turned["b"], turned["c"], turned["difference"]) == (0, 16, pytest.approx(-0.4))


def test_figures_are_compared_where_both_arms_have_them() -> None:
    ours, theirs = (answer_rows(ITEMS, name, EVERY["world"]) for name in ("world", "gemma"))
    ours = [replace(row, figures={"error": 1.0 + n % 2}) for n, row in enumerate(ours)]
    theirs = [replace(row, figures={"error": 2.5 + n % 4} if n < 30 else {}) for n, row in enumerate(theirs)]
    runs = ([ArmRun(name, {"identity": {}}, rows)] for name, rows in (("world", ours), ("gemma", theirs)))
    numbers = compared(*runs)["figures"]["error"]
    assert numbers["n"] == 30
    assert numbers["difference"] == pytest.approx(1.5 - 3.9, abs=0.1)
    assert numbers["low"] <= numbers["difference"] <= numbers["high"] < 0


def test_repeated_images_show_less() -> None:
    """The two items of an image are right together: they are worth one."""
    right = [n % 4 < 2 for n in range(40)]
    alone = [replace(row, cluster="") for row in answer_rows(ITEMS, "world", right)]
    tied = told_of(arm_of(right))["accuracy"]["smallest_difference"]
    assert tied > told_of(ArmRun("world", {"identity": {}}, alone))["accuracy"]["smallest_difference"]


def test_one_image_tells_nothing() -> None:
    ours, theirs = arm_of([True] * 40, cluster="a"), arm_of([False] * 40, "gemma", cluster="a")
    numbers = compared([ours], [theirs])
    assert (numbers["low"], numbers["high"], numbers["smallest_difference"]) == (-1.0, 1.0, 1.0)
    assert (numbers["b"], numbers["p"]) == (40, 1.0)


def test_families_with_one_right_answer_are_told_apart(tmp_path: Path) -> None:
    items = [replace(item, answer="yes") if item.family == "roll" else item for item in ITEMS]
    write_arms(tmp_path, items, {"world": [n % 4 == 0 for n in range(40)], "gemma": [n % 2 == 1 for n in range(40)]})
    metrics = write_metrics(tmp_path, make_task(items), items)
    world, gemma = metrics["arms"]["world"], metrics["arms"]["gemma"]
    assert (world["accuracy"]["n"], world["accuracy"]["estimate"]) == (20, 0.5)
    assert (gemma["accuracy"]["estimate"], gemma["families"]["roll"]["estimate"]) == (0.0, 1.0)
    assert {family: told["one_answer"] for family, told in world["families"].items()} == {"drop": False, "roll": True}
    assert metrics["comparisons"]["all"]["gemma"]["difference"] == 0.5
    assert metrics["baselines"] == {"always_yes": 13 / 20}


def test_where_no_family_counts_the_accuracy_is_that_of_all() -> None:
    rows = [replace(row, answer="yes") for row in answer_rows(ITEMS, "world", EVERY["world"])]
    metrics = task_numbers(
        {"world": [ArmRun("world", {"identity": {}}, rows)], "gemma": [arm_of(EVERY["gemma"], "gemma")]}
    )
    assert metrics["arms"]["world"]["accuracy"]["estimate"] == 0.9
    assert metrics["comparisons"] == {"all": {}}
    assert correct({"balls": metrics})["balls"]["verdicts"]["all"]["outcome"] == "not run"


def test_seeds_are_averaged_and_their_spread_is_kept_apart() -> None:
    seeds = [arm_of(EVERY["world"]), arm_of([n % 5 != 0 for n in range(40)])]  # 0.9 and 0.8
    told = told_of(*seeds)
    assert told["accuracy"]["estimate"] == pytest.approx(0.85)
    assert told["between_seed_sd"] == pytest.approx(0.0707, abs=1e-4)
    assert told["seeds"] == 2
    numbers = compared(seeds, [arm_of(EVERY["gemma"], "gemma")])
    assert numbers["b"] is None
    assert numbers["difference"] == pytest.approx(0.35)
    assert numbers["p"] < 0.01
    assert compared(seeds, [replace(run, name="gemma") for run in seeds])["p"] == 1.0
    assert told_of(*seeds[:1])["between_seed_sd"] is None


def test_seeds_may_disagree_on_the_only_item_of_a_family() -> None:
    items = [replace(item, family="rare" if item.id == "q0" else "drop") for item in ITEMS]
    seeds = [
        ArmRun("world", {"identity": {}}, answer_rows(items, "world", [first, *[True] * 39])) for first in (True, False)
    ]
    rare = told_of(*seeds)["families"]["rare"]
    assert (rare["estimate"], rare["n"], rare["one_answer"]) == (0.5, 1, False)
    assert 0 <= rare["low"] < 0.5 < rare["high"] <= 1


def run_of(name: str, right: list[bool], weights: str = "w", **more: Any) -> ArmRun:
    return ArmRun(
        name, {"identity": {"arm": name, "weights": weights, "seed": 0, **more}}, arm_of(right, name).predictions
    )


def test_the_same_weights_and_settings_are_shown_once() -> None:
    gemma, world = run_of("gemma", EVERY["gemma"], "base"), run_of("world", EVERY["world"])
    arms = {
        "b/gemma": [gemma],
        "b/world": [run_of("world", EVERY["gemma"], "v")],
        "a/gemma": [gemma],
        "a/world": [world],
    }
    assert list(each_once(arms, "a/world")) == ["b/world", "a/gemma", "a/world"]
    other = run_of("gemma", EVERY["gemma"], "base", seed=1)
    assert {
        name: len(runs) for name, runs in each_once({"a/world": [world, world], "a/gemma": [gemma, other]}).items()
    } == {**{"a/world": 1, "a/gemma": 2}}


def test_a_copied_run_is_no_second_seed() -> None:
    learner = ArmRun("static_learner", {"identity": {}}, arm_of(EVERY["gemma"], "static_learner").predictions)
    assert {name: len(runs) for name, runs in each_once({"a": [learner, learner], "b": [learner]}).items()} == {"a": 1}


def test_a_control_with_the_weights_of_gemma_is_gemma() -> None:
    arms = {name: [run_of(name, EVERY["gemma"], "base")] for name in ("gemma", "gemma_tuned", "zeroed", "noise")}
    assert list(each_once(arms)) == ["gemma", "zeroed", "noise"]


def test_identical_answers_of_other_weights_are_reported() -> None:
    arms = {
        "world": [run_of("world", EVERY["world"])],
        "gemma": [run_of("gemma", EVERY["gemma"], "base")],
        "noise": [run_of("noise", EVERY["world"])],
        "zeroed": [run_of("zeroed", EVERY["world"])],
    }
    expected = [["world", "noise"], ["world", "zeroed"], ["noise", "zeroed"]]
    assert identical_arms(arms) == task_numbers(arms)["identical"] == expected
    assert correct({"balls": task_numbers(arms)})["balls"]["comparisons"]["all"]["noise"]["low"] < 0


def test_what_learners_and_tracing_found_is_part_of_the_metrics(tmp_path: Path) -> None:
    write_arms(tmp_path, ITEMS, EVERY)
    (tmp_path / "balls" / "learners.json").write_text('[{"family": "drop", "learner": "cnn"}]', encoding="utf-8")
    (tmp_path / "balls" / "tracing.json").write_text('{"drop": {"n": 3}}', encoding="utf-8")
    metrics = write_metrics(tmp_path, make_task(ITEMS), ITEMS)
    assert metrics["learners"] == [{"family": "drop", "learner": "cnn"}]
    assert metrics["tracing"] == {"drop": {"n": 3}}


def test_metrics_of_an_older_version_are_left_out(tmp_path: Path) -> None:
    write_arms(tmp_path, ITEMS, EVERY)
    for task in ("balls", "cubes"):
        (tmp_path / task).mkdir(exist_ok=True)
        (tmp_path / task / "metrics.json").write_text('{"task": "balls", "verdict": {}}', encoding="utf-8")
    assert read_metrics(tmp_path) == {}
    write_metrics(tmp_path, make_task(ITEMS), ITEMS)
    assert list(read_metrics(tmp_path)) == ["balls"]


def test_without_the_full_model_there_is_nothing_to_compare() -> None:
    metrics = correct({"balls": task_numbers({"gemma": [arm_of(EVERY["gemma"], "gemma")]})})["balls"]
    assert metrics["comparisons"] == {"all": {}}
    assert metrics["verdicts"]["all"] == {
        "outcome": "not run",
        "text": "Not decided, because an arm was not run: the full model (world).",
    }


def test_a_second_task_widens_the_family_of_the_first(tmp_path: Path) -> None:
    write_arms(tmp_path, ITEMS, EVERY)
    before = write_metrics(tmp_path, make_task(ITEMS), ITEMS)
    write_arms(tmp_path, ITEMS, EVERY, task="cubes")
    write_metrics(tmp_path, make_task(ITEMS, "cubes"), ITEMS)
    after = read_metrics(tmp_path)["balls"]
    assert after["holm_family"] == {"comparisons": 4, "tasks": ["balls", "cubes"]}
    least = before["comparisons"]["all"]["gemma"]
    assert least["p_holm"] == pytest.approx(2 * least["p"])
    assert after["comparisons"]["all"]["gemma"]["p_holm"] == pytest.approx(4 * least["p"])


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


def test_a_score_that_is_neither_right_nor_wrong_is_refused(tmp_path: Path) -> None:
    write_arms(tmp_path, ITEMS, EVERY)
    halves = replace(make_task(ITEMS), score=lambda item, output: Score(output, 0.5))
    with pytest.raises(ValueError, match=r"item 'q0' has the score 0.5: expected 1.0 \(right\) or 0.0"):
        write_metrics(tmp_path, halves, ITEMS)


def sure(run: ArmRun, weights: str = "", **shares: float) -> ArmRun:
    """The same answers, each with the log-probabilities of two choices."""
    logprobs = {name: math.log(share) for name, share in (shares or {"yes": 0.8, "no": 0.2}).items()}
    rows = [replace(row, choice_logprobs=logprobs) for row in run.predictions]
    return ArmRun(run.name, {"identity": {"weights": weights}}, rows)


def test_families_of_one_answer_are_no_part_of_calibration_and_of_rollouts_on_demand() -> None:
    """The curve ends at the accuracies that the table shows."""
    right = {"world": [n % 2 == 0 or n % 3 == 0 for n in range(40)], "world_off": [n % 2 == 1 for n in range(40)]}
    arms = {name: [sure(arm_of(own, name))] for name, own in right.items()}
    for runs in arms.values():
        runs[0].predictions[:] = [
            replace(row, answer="yes") if row.family == "roll" else row for row in runs[0].predictions
        ]
    metrics = task_numbers(arms)
    accuracy = {name: told["accuracy"] for name, told in metrics["arms"].items()}
    assert [metrics["arms"][name]["calibration"]["n"] for name in arms] == [20, 20]
    curve = metrics["on_demand"]["curve"]
    assert accuracy["world"]["n"] == 20
    assert curve[0]["accuracy"] == pytest.approx(accuracy["world_off"]["estimate"])
    assert curve[-1]["accuracy"] == pytest.approx(accuracy["world"]["estimate"])


def test_rollouts_on_demand_are_of_one_training_seed() -> None:
    """Only the second seed was asked without a world."""
    right, wrong = [True] * 40, [False] * 40
    worlds = [sure(arm_of(wrong), "first"), sure(arm_of(right), "second")]
    off = sure(arm_of(wrong, "world_off"), "second")
    on_demand = task_numbers({"world": worlds, "world_off": [off]})["on_demand"]
    assert on_demand["curve"][-1]["accuracy"] == 1
    other = sure(arm_of(wrong, "world_off"), "third")
    assert task_numbers({"world": worlds, "world_off": [other]})["on_demand"] is None


def test_predictions_that_do_not_tell_their_margin_have_the_default_one() -> None:
    arms = {name: [sure(arm_of([True] * 40, name))] for name in ("world", "world_off")}
    assert task_numbers(arms)["on_demand"]["at_margin"]["margin"] == TheWorldConfig().auto_world_margin
