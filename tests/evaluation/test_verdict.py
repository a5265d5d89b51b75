"""The line follows from the numbers, on every branch of the rule."""

from typing import Any

import pytest

from theworld.evaluation.verdict import DECISIVE, correct, decide, p_text


def comparison(difference: float, p_holm: float, smallest: float = 0.03) -> dict[str, Any]:
    low, high = difference - 0.02, difference + 0.02
    return {"difference": difference, "low": low, "high": high, "p_holm": p_holm, "smallest_difference": smallest}


WON = {arm: comparison(0.1, 0.001) for arm in DECISIVE}


def test_all_four_beaten() -> None:
    verdict = decide(WON)
    assert verdict.helps
    assert verdict.text.startswith("The world helps: the full model beats Gemma alone +10.0 points [+8.0, +12.0], p = ")
    assert verdict.text.count("+10.0 points") == 4


def test_other_arms_decide_nothing() -> None:
    assert decide({**WON, "zeroed": comparison(-0.3, 0.0)}).helps


@pytest.mark.parametrize("arm", list(DECISIVE))
def test_each_of_the_four_can_deny_it(arm: str) -> None:
    for there, reason in [
        (comparison(0.02, 0.3), f"no difference seen to {DECISIVE[arm]} ({arm}): +2.0 points [+0.0, +4.0], p = 0.3000"),
        (comparison(-0.1, 0.001), f"worse than {DECISIVE[arm]} ({arm}): -10.0 points"),
        (comparison(0.1, 0.05), f"no difference seen to {DECISIVE[arm]} ({arm})"),
        (comparison(0.0, 0.001), f"no difference seen to {DECISIVE[arm]} ({arm})"),
        (comparison(0.02, 0.001), f"no difference seen to {DECISIVE[arm]} ({arm}): +2.0 points [+0.0, +4.0]"),
        (comparison(-0.01, 0.001), f"no difference seen to {DECISIVE[arm]} ({arm}): -1.0 points [-3.0, +1.0]"),
    ]:
        verdict = decide({**WON, arm: there})
        assert not verdict.helps
        assert verdict.text.startswith(f"not shown: {reason}")
        assert "helps" not in verdict.text


@pytest.mark.parametrize("arm", list(DECISIVE))
def test_an_arm_that_was_not_run(arm: str) -> None:
    verdict = decide({name: numbers for name, numbers in WON.items() if name != arm})
    assert not verdict.helps
    assert verdict.text == f"not shown: not run: {DECISIVE[arm]} ({arm})"


def test_several_reasons_are_all_named() -> None:
    verdict = decide({"gemma": comparison(0.01, 0.8), "other_image": comparison(-0.2, 0.01)})
    assert "not run: Gemma trained equally without the world (gemma_tuned), a random world encoder" in verdict.text
    assert "no difference seen to Gemma alone (gemma)" in verdict.text
    assert "worse than another image's world tokens (other_image)" in verdict.text


def test_no_full_model() -> None:
    assert decide(None).text == "not shown: the full model (world) was not run"


def test_what_a_set_can_show_is_told_where_nothing_was_seen() -> None:
    assert "3.0 points are the smallest that this set can show" in decide({**WON, "gemma": comparison(0.0, 1.0)}).text
    small = decide({**WON, "gemma": comparison(0.0, 1.0, smallest=1.0)})
    assert "this set is too small to show any" in small.text


def test_p_as_papers_write_it() -> None:
    assert p_text(0.00009) == "p < 0.0001"
    assert p_text(0.0499) == "p = 0.0499"


def metrics_of(p: dict[str, float], full: str = "world") -> dict[str, Any]:
    return {"full": full, "comparisons": {arm: {**comparison(0.1, 1.0), "p": value} for arm, value in p.items()}}


def test_holm_is_over_every_comparison_of_every_task() -> None:
    one = metrics_of(dict.fromkeys(DECISIVE, 0.01))
    alone = correct({"a": one})["a"]
    assert alone["holm_family"] == {"comparisons": 4, "tasks": ["a"]}
    assert alone["comparisons"]["gemma"]["p_holm"] == pytest.approx(0.04)
    assert alone["verdict"]["helps"]
    both = correct({"a": one, "b": metrics_of(dict.fromkeys(DECISIVE, 0.5))})
    assert both["a"]["comparisons"]["gemma"]["p_holm"] == pytest.approx(0.08)
    assert not both["a"]["verdict"]["helps"]


def test_of_several_runs_those_of_the_full_models_own_decide() -> None:
    own = {f"ours/{arm}": 0.0001 for arm in DECISIVE}
    assert correct({"a": metrics_of({**own, "theirs/gemma": 1.0}, "ours/world")})["a"]["verdict"]["helps"]
    elsewhere = {f"theirs/{arm}": 0.0001 for arm in DECISIVE}
    assert not correct({"a": metrics_of(elsewhere, "ours/world")})["a"]["verdict"]["helps"]
    assert not correct({"a": metrics_of(own, "ours/world_0")})["a"]["verdict"]["helps"]
