"""Made tables of predictions, each with the verdict that a careful reader would give."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.evaluation.arms import answer_rows, make_items
from theworld.evaluation import score
from theworld.evaluation.ask.arms import ARMS
from theworld.evaluation.score import task_numbers
from theworld.evaluation.stats.significance import compare
from theworld.evaluation.store.predictions import Item, Prediction
from theworld.evaluation.store.refusals import ArmRun
from theworld.evaluation.verdict import Verdict, correct, decide, decisive_arms, p_text

KINDS = ("predictive", "static")
DECISIVE = decisive_arms(2, learns=True)
EVERY = ("world", *DECISIVE, "world_0", "noise", "zeroed", "random_projection", "no_image")
ITEMS = make_items(480, 2, families=("predictive/drop", "predictive/drop", "static/colour", "static/colour"))
Shares = Mapping[str, float | tuple[float, float]]


@pytest.fixture(scope="module", autouse=True)
def compared_once() -> Iterator[None]:
    """Equal comparisons are computed once: most tables differ from `WON` in one arm."""
    known: dict[Any, dict[str, Any]] = {}

    def compare_once(*arguments: Any) -> dict[str, Any]:
        key = tuple((array.shape, array.tobytes()) for array in arguments)
        if key not in known:
            known[key] = compare(*arguments)
        return dict(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score, "compare", compare_once)
        yield


def answers(items: Sequence[Item], name: str, predictive: float, static: float, seed: int) -> list[Prediction]:
    """Rows of an arm that is right at random on these shares of the predictive and of the static items."""
    luck = np.random.default_rng([seed, *name.encode()]).random(len(items))
    shares = np.array([static if item.family.startswith("static") else predictive for item in items])
    return answer_rows(items, name, (luck < shares).tolist())


def made(
    shares: Shares, items: Sequence[Item] = ITEMS, steps: int = 2, seeds: Mapping[str, int] | None = None
) -> dict[str, list[ArmRun]]:
    """Arms that are right on a share of all items, or on one share of the predictive and one of the static ones."""
    manifest = {"identity": {"num_world_steps": steps}}
    pairs = {name: share if isinstance(share, tuple) else (share, share) for name, share in shares.items()}
    return {
        name: [ArmRun(name, manifest, answers(items, name, *pair, seed)) for seed in range((seeds or {}).get(name, 1))]
        for name, pair in pairs.items()
    }


def numbers(arms: Mapping[str, Sequence[ArmRun]], kinds: Sequence[str] = KINDS, **more: Any) -> dict[str, Any]:
    return task_numbers(arms, kinds=kinds, learns=True, **more)


def verdicts(arms: Mapping[str, Sequence[ArmRun]], kinds: Sequence[str] = KINDS, **more: Any) -> dict[str, Verdict]:
    found = correct({"balls": numbers(arms, kinds, **more)})["balls"]["verdicts"]
    return {kind: Verdict(**verdict) for kind, verdict in found.items()}


WON: dict[str, float | tuple[float, float]] = {"world": (0.9, 0.8), **dict.fromkeys(EVERY[1:], (0.5, 0.8))}
"""The rollout wins the predictive questions, and changes nothing about the static ones."""

HELPS, HARMS, NONE, NOT_RUN = "helps", "harms", "no difference shown", "not run"


def without(*names: str) -> Shares:
    return {name: share for name, share in WON.items() if name not in names}


TABLES: dict[str, tuple[Shares, int, tuple[str, str], str]] = {
    # name: shares, steps, outcome of predictive and static questions, what the predictive sentence says
    "every control beaten": (WON, 2, (HELPS, NONE), "beats all 13 rival arms"),
    # The five that an earlier rule called "helps"
    "own present as good": ({**WON, "world_0": 0.9}, 2, (NONE, NONE), "(world_0)"),
    "another future as good": ({**WON, "other_future": 0.9}, 2, (NONE, NONE), "(other_future)"),
    "a source that is no world as good": ({**WON, "other_source": 0.9}, 2, (NONE, NONE), "(other_source)"),
    "noise as good": ({**WON, "noise": 0.9}, 2, (NONE, NONE), "(noise)"),
    "zeroed tokens as good": ({**WON, "zeroed": 0.9}, 2, (NONE, NONE), "(zeroed)"),
    # Each other arm that lacks this item's future
    "own present better": ({**WON, "world_0": 1.0}, 2, (NONE, NONE), "worse than World, current frame (world_0)"),
    "current frame, trained alike, better": (
        *({**WON, "current_frame": 1.0}, 2, (NONE, NONE)),
        f"worse than {ARMS['current_frame'].label} (current_frame) -",
    ),
    "static learner better": ({**WON, "static_learner": 1.0}, 2, (NONE, NONE), "worse than Best static learner"),
    "tuned Gemma as good": (
        {**WON, "gemma_tuned": 0.9},
        2,
        (NONE, NONE),
        "not shown to be better than Gemma 3 wi",
    ),
    "random encoder as good": ({**WON, "random_encoder": 0.9}, 2, (NONE, NONE), "(random_encoder)"),
    "another image as good": ({**WON, "other_image": 0.9}, 2, (NONE, NONE), "(other_image)"),
    "no image as good": ({**WON, "no_image": 0.9}, 2, (NONE, NONE), "(no_image)"),
    "untrained projector as good": ({**WON, "random_projection": 0.9}, 2, (NONE, NONE), "(random_projection)"),
    # Arms that the full model need not beat
    "true future better": ({**WON, "true_future": 0.99}, 2, (HELPS, NONE), "beats all 13 rival arms"),
    "fewer steps better": ({**WON, "world_1": 0.99}, 2, (HELPS, NONE), "beats all 13 rival arms"),
    # Kinds are decided apart
    "static loss, predictive gain": (
        *({**WON, "world": (0.9, 0.911), "gemma": (0.5, 0.985)}, 2, (HELPS, HARMS)),
        "The world helps",
    ),
    "loss against Gemma only": (
        *({**WON, "world": (0.6, 0.8), "gemma": (0.9, 0.8)}, 2, (HARMS, NONE)),
        "a loss against Plain Gemma 3 (gemma) -",
    ),
    "harm needs no other arm": ({"world": 0.6, "gemma": 0.9}, 2, (HARMS, HARMS), "beyond the margin of 1 point"),
    # A model with K = 0 is its own full model
    "no steps": (without("current_frame", "other_future", "world_0"), 0, (HELPS, NONE), "beats all 10 rival arms"),
    "no steps, another image as good": (
        *({**without("current_frame", "other_future", "world_0"), "other_image": 0.9}, 0, (NONE, NONE)),
        "(other_image)",
    ),
    # Arms that were not run
    **{
        f"without {name}": (without(name), 2, (NOT_RUN, NOT_RUN), f"{ARMS[name].label} ({name}). Use --arms all")
        for name in DECISIVE
    },
    "other controls need not be run": (
        *(without("world_0", "noise", "zeroed", "random_projection", "no_image"), 2, (HELPS, NONE)),
        "beats all 8 rival arms",
    ),
    "no full model": (without("world"), 2, (NOT_RUN, NOT_RUN), "the full model (world)"),
    "all right everywhere": (dict.fromkeys(EVERY, 1.0), 2, (NONE, NONE), "+0.0 points [-"),
    "all wrong everywhere": (dict.fromkeys(EVERY, 0.0), 2, (NONE, NONE), "+0.0 points [-"),
}


@pytest.mark.parametrize("name", list(TABLES))
def test_made_tables(name: str) -> None:
    shares, steps, outcomes, said = TABLES[name]
    found = verdicts(made(shares, steps=steps))
    assert tuple(found[kind].outcome for kind in KINDS) == outcomes
    assert said in found["predictive"].text
    assert all(verdict.text.endswith(".") for verdict in found.values())


def test_a_control_that_has_to_be_trained_says_how_it_is_given() -> None:
    trained = verdicts(made(without("current_frame")))["static"].text
    assert (
        "(current_frame). Use --arms all, and --control NAME=PATH for each control of a model other than nano."
        in trained
    )
    assert verdicts(made(without("gemma")))["static"].text.endswith("Plain Gemma 3 (gemma). Use --arms all.")


def test_the_strongest_rivals_are_named_and_the_others_counted() -> None:
    as_good = {"noise": 0.9, "world_0": 0.9, "zeroed": 0.87, "no_image": 0.91, "random_projection": 0.9}
    text = verdicts(made({**WON, **as_good}))["predictive"].text
    compared = numbers(made({**WON, **as_good}))["comparisons"]["predictive"]
    named = sorted(as_good, key=lambda name: compared[name]["difference"])[:3]
    places = [text.index(f"({name})") for name in named]
    assert places == sorted(places)
    assert "; and 2 more arms (" in text
    assert not any(f"({name})" in text for name in as_good if name not in named)


@pytest.mark.parametrize("unknown", ["difference", "low", "p_holm"])
def test_what_is_not_a_number_is_not_beaten(unknown: str) -> None:
    row = {"difference": 0.5, "low": 0.4, "high": 0.6, "p_holm": 0.001, "smallest_difference": 0.02}
    assert decide(dict.fromkeys(DECISIVE, row), DECISIVE, 0.01).outcome == HELPS
    told = dict.fromkeys(DECISIVE, row) | {"gemma": {**row, unknown: float("nan")}}
    assert decide(told, DECISIVE, 0.01).outcome == NONE


@pytest.mark.parametrize("only", [(), ("true_future", "futures")])
def test_without_rivals_there_is_no_verdict(only: Sequence[str]) -> None:
    row = {"difference": 0.5, "low": 0.4, "high": 0.6, "p_holm": 0.001, "smallest_difference": 0.02}
    assert decide(dict.fromkeys(only, row), [], 0.01).outcome == NOT_RUN


def test_a_tiny_set_shows_nothing() -> None:
    shares = {name: 1.0 if name == "world" else 0.0 for name in EVERY}
    found = verdicts(made(shares, ITEMS[:4]))["predictive"]
    assert found.outcome == NONE
    assert "this set is too small to show any difference" in found.text


def test_a_comparison_without_power_does_not_hide_that_of_the_others() -> None:
    row = {"difference": 0.0, "low": -0.01, "high": 0.01, "p_holm": 1.0, "smallest_difference": 0.02}
    told = {**dict.fromkeys(DECISIVE, row), "gemma": {**row, "smallest_difference": 1.0}}
    text = decide(told, DECISIVE, 0.01).text
    assert "can show differences of at least 2.0 points; against Plain Gemma 3 (gemma) it can show none)" in text
    told["current_frame"] = {**row, "smallest_difference": 0.034}
    text = decide(told, DECISIVE, 0.01).text
    assert "differences of at least 2.0 to 3.4 points; against Plain Gemma 3 (gemma) it can show none)" in text


def test_clusters_that_carry_the_whole_difference_are_no_evidence() -> None:
    """40 items of two images make the gain: McNemar's test, which counts items, would call it sure."""
    items = [
        replace(item, family="drop", cluster="a" if n < 20 else "b" if n < 40 else "") for n, item in enumerate(ITEMS)
    ]
    runs = {
        name: [
            ArmRun(
                name,
                {"identity": {}},
                answer_rows(items, name, [name == "world" or n >= 40 for n in range(len(items))]),
            )
        ]
        for name in EVERY
    }
    metrics = correct({"balls": numbers(runs, ())})["balls"]
    assert metrics["comparisons"]["all"]["gemma"]["b"] == 40
    assert metrics["verdicts"]["all"]["outcome"] == NONE


def test_a_task_without_kinds_has_one_verdict() -> None:
    shares = {name: 0.9 if name == "world" else 0.5 for name in EVERY}
    assert {kind: found.outcome for kind, found in verdicts(made(shares), ()).items()} == {"all": HELPS}


def test_a_task_without_learners_does_not_wait_for_them() -> None:
    found = correct({"balls": task_numbers(made(without("static_learner")), kinds=KINDS)})["balls"]["verdicts"]
    assert found["predictive"]["outcome"] == HELPS


def test_a_learner_is_no_rival_where_it_answers_nothing() -> None:
    """Items that no learner reads are failed rows of its arm: neither right nor wrong."""
    arms = made({**WON, **dict.fromkeys(EVERY[1:], (0.5, 0.5)), "world": 0.9})
    rows = arms["static_learner"][0].predictions
    unread = [replace(row, failed="no learner") if row.family.startswith("static") else row for row in rows]
    arms["static_learner"] = [replace(arms["static_learner"][0], predictions=unread)]
    found = verdicts(arms)
    assert {kind: verdict.outcome for kind, verdict in found.items()} == {"predictive": HELPS, "static": HELPS}
    assert "beats all 13 rival arms" in found["predictive"].text
    assert "beats all 12 rival arms" in found["static"].text


def test_families_with_one_answer_decide_nothing() -> None:
    """Gemma says "no", the model "yes", and "yes" is always right."""
    items = [replace(item, answer="yes") if item.family.startswith("predictive") else item for item in ITEMS]
    found = verdicts(made(WON, items))
    assert found["predictive"].outcome == NOT_RUN
    assert "one right answer for all its items" in found["predictive"].text
    assert found["static"].outcome == NONE


def test_a_loss_within_the_margin_of_its_kind_is_no_harm() -> None:
    arms = made({**WON, "world": (0.9, 0.85), "gemma": (0.5, 0.96)})
    assert verdicts(arms)["static"].outcome == HARMS
    allowed = verdicts(arms, margins={"static": 0.2})["static"]
    assert allowed.outcome == NONE
    assert "worse than Plain Gemma 3 (gemma) -" in allowed.text


def test_holm_is_over_every_kind_and_task() -> None:
    one = numbers(made({"world": 0.9, "gemma": 0.5}))
    alone = correct({"a": one})["a"]
    assert alone["holm_family"] == {"comparisons": 3, "tasks": ["a"]}
    both = correct({"a": one, "b": numbers(made({"world": 0.5, "gemma": 0.5, "noise": 0.5}))})
    assert both["a"]["holm_family"] == {"comparisons": 9, "tasks": ["a", "b"]}
    raw = [numbers["p"] for numbers in (one["comparisons"][kind]["gemma"] for kind in (*KINDS, "all"))]
    least = min(range(3), key=raw.__getitem__)
    kind = (*KINDS, "all")[least]
    assert alone["comparisons"][kind]["gemma"]["p_holm"] == pytest.approx(3 * raw[least])
    assert both["a"]["comparisons"][kind]["gemma"]["p_holm"] == pytest.approx(9 * raw[least])


def test_a_second_task_can_undo_a_verdict() -> None:
    def comparison(p: float) -> dict[str, Any]:
        return {"difference": 0.1, "low": 0.05, "high": 0.15, "p": p, "smallest_difference": 0.03}

    def task(p: float) -> dict[str, Any]:
        about = {
            "full": "world",
            "kinds": ["all"],
            "margins": {"all": 0.01},
            "counted": {"all": 100},
            "decides": DECISIVE,
        }
        return {"arms": {"world": {}}, **about, "comparisons": {"all": {name: comparison(p) for name in DECISIVE}}}

    assert correct({"a": task(0.005)})["a"]["verdicts"]["all"]["outcome"] == HELPS
    assert correct({"a": task(0.005), "b": task(0.5)})["a"]["verdicts"]["all"]["outcome"] == NONE


def test_seeds_are_drawn_with_the_items() -> None:
    """Two of four training runs win and two lose: the mean of the four is a gain that another run may not show."""
    arms = made({"world": WON["world"], **dict.fromkeys(DECISIVE, 0.5)})
    good, bad = (made({"world": share}, seeds={"world": 2})["world"] for share in (0.9, 0.3))
    assert verdicts(arms)["predictive"].outcome == HELPS
    assert verdicts({**arms, "world": [*good, *bad]})["predictive"].outcome == NONE
    assert verdicts({**arms, "world": made({"world": 0.9}, seeds={"world": 4})["world"]})["predictive"].outcome == HELPS


def test_of_several_evaluations_that_of_the_full_model_decides() -> None:
    arms = made(WON)
    own = {f"ours/{name}": runs for name, runs in arms.items()}
    rival = {"theirs/gemma": made({"gemma": 0.95})["gemma"]}
    assert verdicts({**own, **rival}, full="ours/world")["predictive"].outcome == HELPS
    elsewhere = {("ours/" if name == "world" else "theirs/") + name: runs for name, runs in arms.items()}
    assert verdicts(elsewhere, full="ours/world")["predictive"].outcome == NOT_RUN
    assert verdicts(own, full="ours/world_0")["predictive"].outcome == NOT_RUN


def test_which_arms_decide() -> None:
    assert set(decisive_arms(2, learns=True)) - set(decisive_arms(0, learns=False)) == {
        *("current_frame", "other_future", "static_learner")
    }
    assert decisive_arms(None, learns=False) == decisive_arms(2, learns=False)


@pytest.mark.parametrize(
    ("changed", "outcome"),
    [
        ({}, HELPS),
        ({"p_holm": 0.05}, NONE),
        ({"low": 0.0}, NONE),
        ({"low": -0.01}, NONE),
        ({"difference": -0.1, "low": -0.15, "high": -0.05}, HARMS),
        ({"difference": -0.1, "low": -0.25, "high": 0.05}, NONE),
        ({"difference": -0.1, "low": -0.15, "high": -0.05, "p_holm": 0.05}, NONE),
        ({"difference": -0.01, "low": -0.015, "high": -0.005}, NONE),  # the margin itself
    ],
)
def test_ends_of_the_rule(changed: dict[str, float], outcome: str) -> None:
    won = {"difference": 0.1, "low": 0.05, "high": 0.15, "p_holm": 0.001, "smallest_difference": 0.03}
    table = dict.fromkeys(DECISIVE, won)
    assert decide({**table, "gemma": {**won, **changed}}, DECISIVE, 0.01).outcome == outcome


def test_p_as_papers_write_it() -> None:
    assert p_text(0.00009) == "p < 0.0001"
    assert p_text(0.0499) == "p = 0.0499"
