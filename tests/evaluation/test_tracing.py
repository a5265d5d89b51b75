"""Error tracing: what an answer follows where the imagined end is wrong, and readers that know no scene by heart."""

from __future__ import annotations

import pytest
import torch

from theworld.evaluation import tracing
from theworld.evaluation.tracing import follow, read_ends, share_of


def test_answers_that_follow_the_imagination() -> None:
    truth = ["left"] * 6 + ["right"] * 4
    imagined = ["left"] * 5 + ["right"] * 5  # one is wrong
    found = follow(truth, imagined, imagined)
    assert (found["n"], found["wrong"]) == (10, 1)
    assert found["imagined_right"]["estimate"] == found["answer_right"]["estimate"] == 0.9
    assert found["answer_is_imagined"]["estimate"] == 1.0
    assert found["wrong_follows_imagined"]["estimate"] == 1.0
    assert found["wrong_follows_truth"]["estimate"] == 0.0
    assert found["wrong_follows_truth"]["n"] == 1


def test_answers_that_follow_the_truth_and_one_that_is_none() -> None:
    found = follow(["a", "a", "b"], ["b", "b", "b"], ["a", None, "b"])
    assert found["wrong"] == 2
    assert found["wrong_follows_truth"]["estimate"] == 0.5
    assert found["wrong_follows_imagined"]["estimate"] == 0.0
    assert found["answer_right"]["estimate"] == pytest.approx(2 / 3)


def test_shares_have_wilson_intervals() -> None:
    assert share_of([]) is None
    share = share_of([True] * 19 + [False] * 7)
    assert share is not None
    assert share["n"] == 26
    assert (share["low"], share["high"]) == pytest.approx((0.539, 0.863), abs=0.002)


def test_a_reader_reads_what_it_has_not_learned_by_heart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "STEPS", 150)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (200,), generator=generator)
    noise = torch.randn(200, 2, 2, 2, generator=generator)
    told = noise.clone()
    told[:, 0] += 4.0 * labels.view(-1, 1, 1)
    seen, read = read_ends(told, labels, (told, labels), told[[5, 5, 7]], [5, 5, 7])
    assert (seen == labels).float().mean() > 0.97
    assert read.tolist() == seen[[5, 5, 7]].tolist()  # a scene's imagined end is read by the reader of its true end
    blind, _ = read_ends(noise, labels, (noise, labels), noise[:1], [0])
    assert 0.3 < (blind == labels).float().mean() < 0.7
