"""Questions about the nano world: true, plain to see, and balanced."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from theworld.nano.phrasings import PHRASINGS
from theworld.nano.questions import (
    FAMILIES,
    Question,
    all_texts,
    choose_balanced,
    predictive_questions,
    static_questions,
)
from theworld.nano.scenes import make_clip

KIND_OF = {"drop": 30, "race": 40, "stack": 40}


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    return [make_clip(seed, kind)[2] for kind, count in KIND_OF.items() for seed in range(count)]


@pytest.fixture(scope="module")
def questions(records: list[dict[str, Any]]) -> list[tuple[int, int, Question]]:
    rng = np.random.default_rng(0)
    asked = [
        (i, frame, q) for i, r in enumerate(records) for frame in range(9) for q in static_questions(r, frame, rng)
    ]
    return asked + [(i, 0, q) for i, r in enumerate(records) for q in predictive_questions(r, rng)]


def test_every_family_is_asked_in_many_ways(questions: list[tuple[int, int, Question]]):
    assert {q.family for _, _, q in questions} == set(FAMILIES)
    assert all(len(set(phrasings)) >= 6 for phrasings in PHRASINGS.values())
    assert list(FAMILIES.values()).count("predictive") == 4
    assert list(FAMILIES.values()).count("static") >= 9


def test_answers_are_one_lower_case_word_among_the_choices(questions: list[tuple[int, int, Question]]):
    known = set(all_texts())
    for _, _, q in questions:
        assert q.answer in q.choices
        assert q.answer.isalpha()
        assert q.answer.islower()
        assert q.text.endswith("?")
        assert "{" not in q.text
        assert q.text in known
        assert q.answer in known
        assert q.kind == FAMILIES[q.family]


def test_no_text_belongs_to_two_families():
    every = [text for phrasings in PHRASINGS.values() for text in phrasings]
    assert len(every) == len(set(every))


def test_predictive_texts_are_future_and_static_ones_are_not():
    future = ("will", "going to")
    for family, phrasings in PHRASINGS.items():
        for text in phrasings:
            assert any(word in text.lower().split() or word in text.lower() for word in future) == (
                FAMILIES[family] == "predictive"
            ), text


def test_static_answers_follow_the_frame(records: list[dict[str, Any]], questions: list[tuple[int, int, Question]]):
    checked = Counter[str]()
    for i, frame, q in questions:
        scene = records[i]["scene"]
        if q.family == "column":
            x = records[i]["ball_xy"][frame][0][0]
            assert q.answer == ("one", "two", "three", "four")[int(x // 8)]
            assert min(abs(x - edge) for edge in (8, 16, 24)) >= 1.5
        elif q.family == "higher":
            ys = {ball["colour"]: xy[1] for ball, xy in zip(scene["balls"], records[i]["ball_xy"][frame], strict=True)}
            assert q.answer == min(ys, key=lambda colour: ys[colour])
            assert abs(np.subtract(*ys.values())) >= 1.5
        elif q.family == "red_ramp":
            assert (q.answer == "yes") == any(ramp["red"] for ramp in scene["ramps"])
            assert not records[i]["ramp_lit"][frame]
        elif q.family == "block_count":
            assert ("one", "two", "three", "four").index(q.answer) + 1 == len(scene["blocks"])
        elif q.family == "top_block" and frame == 0:
            assert q.answer == scene["blocks"][-1]["colour"]
        else:
            continue
        checked[q.family] += 1
    assert len(checked) == 5


def test_spatial_questions_name_the_right_ball(
    records: list[dict[str, Any]], questions: list[tuple[int, int, Question]]
):
    asked = 0
    for i, frame, q in questions:
        if q.family not in ("above_below", "nearer_wall"):
            continue
        spots = {
            b["colour"]: xy for b, xy in zip(records[i]["scene"]["balls"], records[i]["ball_xy"][frame], strict=True)
        }
        named = sorted(spots, key=q.text.find)
        subject, other = named[::-1] if q.text.startswith(("Compared", "Seen")) else named
        (xa, ya), (xb, yb) = spots[subject], spots[other]
        if q.family == "above_below":
            assert q.answer == ("above" if ya < yb else "below"), q.text
        else:
            assert q.answer == ("nearer" if abs(xa - 16) < abs(xb - 16) else "farther"), q.text
        asked += 1
    assert asked > 100


def test_a_balanced_draw_has_each_answer_equally_often(questions: list[tuple[int, int, Question]]):
    drawn = choose_balanced(questions, 24, np.random.default_rng(1))
    for family in FAMILIES:
        counts = Counter(q.answer for _, _, q in drawn if q.family == family)
        assert sum(counts.values()) <= 24
        assert max(counts.values()) - min(counts.values()) <= len(counts), family
    assert len({(i, f, q.family, q.text) for i, f, q in drawn}) > 0.9 * len(drawn)
