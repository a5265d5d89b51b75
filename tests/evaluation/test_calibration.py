"""Brier scores, calibration curves, and accuracy over the share of rollouts."""

import math
from typing import Any

import pytest

from theworld.evaluation.stats.calibration import brier, calibration, on_demand
from theworld.evaluation.store.predictions import Prediction


def row(right: float, **shares: float) -> Prediction:
    logprobs = {choice: math.log(share) for choice, share in shares.items()}
    made: dict[str, Any] = {"id": "", "prompt": "", "output": ""}
    made |= {"answer": "a", "choice_logprobs": logprobs or None, "score": right}
    return Prediction(**made)


def test_brier_scores() -> None:
    assert brier({"a": 0.0, "b": -math.inf}, "a") == 0
    assert brier({"a": -math.inf, "b": 0.0}, "a") == 2
    assert brier({"a": -1.0, "b": -1.0}, "a") == pytest.approx(0.5)  # only their ratio counts


def test_a_calibrated_model_has_no_error() -> None:
    rows = [row(float(place < 6), a=0.6, b=0.4) for place in range(10)]
    found = calibration(rows)
    assert found is not None
    assert found["error"] == pytest.approx(0)
    assert found["bins"] == [{"confidence": pytest.approx(0.6), "accuracy": pytest.approx(0.6), "n": 10}]
    sure = calibration([row(float(place < 6), a=1.0) for place in range(10)])
    assert sure is not None
    assert sure["error"] == pytest.approx(0.4)
    assert calibration([row(1.0)]) is None


def test_rollouts_go_to_the_least_sure_answers_first() -> None:
    """Without a world, sure answers are right and unsure ones are wrong; with it, the other way round."""
    without = [row(0.0, a=0.5, b=0.5), row(0.0, a=0.55, b=0.45), row(1.0, a=0.9, b=0.1), row(1.0, a=0.99, b=0.01)]
    world = [row(1.0), row(1.0), row(0.0), row(0.0)]
    found = on_demand(without, world, least=0.85)
    assert found is not None
    assert [found["curve"][place]["accuracy"] for place in (0, 5, 10)] == [0.5, 1.0, 0.5]
    assert found["best"] == {"rollouts": 0.5, "accuracy": 1.0, "margin": pytest.approx(0.8)}
    assert found["at_margin"] == {"rollouts": 0.75, "accuracy": 0.75, "margin": 0.85}


def test_answers_that_are_equally_sure_are_rolled_out_together() -> None:
    without = [row(score, a=0.7, b=0.3) for score in (0.0, 1.0)]
    found = on_demand(without, [row(1.0), row(0.0)], least=0.5)
    assert found is not None
    assert {point["rollouts"] for point in found["curve"]} == {0.0, 1.0}
    assert on_demand([row(1.0)], [row(1.0)], least=0.5) is None
