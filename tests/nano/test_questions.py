"""Questions about the nano world: true, plain to see, and balanced."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from theworld.nano.families import Question
from theworld.nano.physics import FRAMES
from theworld.nano.questions import (
    all_texts,
    choose_balanced,
    conversational_questions,
    families,
    predictive_questions,
    static_questions,
)
from theworld.nano.scenes import make_clip
from theworld.nano.words import ANSWERS

SCENES = {"drop": 30, "race": 40, "stack": 40, "pegs": 20, "bumpers": 20}
FAMILIES = families()


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    return [make_clip(seed, kind)[2] for kind, count in SCENES.items() for seed in range(count)]


@pytest.fixture(scope="module")
def questions(records: list[dict[str, Any]]) -> list[tuple[int, int, Question]]:
    rng = np.random.default_rng(0)
    asked = [
        (i, frame, q) for i, r in enumerate(records) for frame in range(FRAMES) for q in static_questions(r, frame, rng)
    ]
    for ask in (predictive_questions, conversational_questions):
        asked += [(i, 0, q) for i, r in enumerate(records) for q in ask(r, rng)]
    return asked


def test_every_family_is_asked_in_many_ways(questions: list[tuple[int, int, Question]]):
    assert {q.family for _, _, q in questions} == set(FAMILIES)
    assert all(len(set(family.phrasings)) >= 6 for family in FAMILIES.values())
    sorts = [family.asks for family in FAMILIES.values()]
    assert {sort: sorts.count(sort) for sort in sorts} == {"static": 22, "predictive": 8, "conversational": 7}


def test_answers_are_among_the_choices_and_one_word_except_to_open_questions(
    questions: list[tuple[int, int, Question]],
):
    known = set(all_texts())
    words = {word for text in known for word in text.split()}
    for _, _, q in questions:
        assert q.answer in q.choices
        assert "{" not in q.text
        assert q.text.upper() in known  # also those in lower case
        assert q.kind == FAMILIES[q.family].asks
        if q.family in ("what_next", "describe"):
            assert q.answer.endswith(".")
            assert set(q.answer.split()) <= words
        else:
            assert q.answer in ANSWERS
            assert q.answer.isalpha()
            assert q.answer.islower()


def test_no_text_belongs_to_two_families():
    every = [text for name, family in FAMILIES.items() if name != "peg_bin" for text in family.phrasings]
    assert len(every) == len(set(every))
    assert FAMILIES["peg_bin"].phrasings == FAMILIES["bin"].phrasings  # the same question, about other scenes


def test_predictive_texts_are_future_and_static_ones_are_not():
    future = ("will", "going to")
    for family in FAMILIES.values():
        if family.asks != "conversational":  # people ask what comes next in other words as well
            for text in family.phrasings:
                assert any(word in text.lower() for word in future) == (family.asks == "predictive"), text


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
        elif q.family == "peg_count":
            assert ("one", "two", "three", "four").index(q.answer) + 1 == len(scene["pegs"])
        elif q.family == "wall_colour":
            sides = ("left", "right", "upper", "lower")
            asked = next(place for place, side in enumerate(sides) if side in q.text.lower())
            assert q.answer == scene["walls"][asked]
        elif q.family == "lit_thing":
            assert (q.answer == "yes") == records[i]["ramp_lit"][frame]
        elif q.family == "block_count":
            assert ("one", "two", "three", "four").index(q.answer) + 1 == len(scene["blocks"])
        elif q.family == "top_block" and frame == 0:
            assert q.answer == scene["blocks"][-1]["colour"]
        else:
            continue
        checked[q.family] += 1
    assert len(checked) == 8


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
        text = q.text.lower()
        named = sorted(spots, key=text.find)
        subject, other = named[::-1] if text.startswith(("compared", "seen")) else named
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
