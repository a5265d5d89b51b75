"""Questions about scenes of the nano world: what is there in a frame (static), and what will happen (predictive).

A question is asked only where its answer is plain to see: spatial ones need `MARGIN` pixels.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .foreign import FOREIGN_ANSWER, FOREIGN_QUESTIONS
from .phrasings import (
    BALLS,
    BINS,
    BLOCKS,
    CONVERSATIONAL,
    EIGHTHS,
    EXERCISES,
    NUMBERS,
    ORDINALS,
    PHRASINGS,
    PREDICTIVE,
    WALLS,
    WORDS,
)
from .physics import DIVIDER_XS, LANE_WALL_X, SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

MARGIN = 1.5
"""Pixels by which a spatial answer must hold."""

FAMILIES: dict[str, str] = {
    family: "predictive" if family in PREDICTIVE else "conversational" if family in CONVERSATIONAL else "static"
    for family in PHRASINGS
}
"""Every family of questions: it asks for what is (`static`) or what will be (`predictive`), or is asked as people ask
(`conversational`: yes/no forms, and open questions that a sentence answers)."""

UNUSUAL_CASE = 0.06
"""Share of questions in capitals, and as many in lower case."""


@dataclass(frozen=True)
class Question:
    """A question and its answer, a word or a sentence; `choices` are the answers that the family allows here, in order."""

    family: str
    kind: str
    text: str
    answer: str
    choices: tuple[str, ...]


def static_questions(record: dict[str, Any], frame: int, rng: np.random.Generator) -> list[Question]:
    """Every question about this frame (0 to F-1) whose answer is plain, one phrasing drawn for each."""
    return _ABOUT[record["kind"]](record, frame, rng)


def predictive_questions(record: dict[str, Any], rng: np.random.Generator) -> list[Question]:
    """The questions about how the scene ends, to be asked of its first frame."""
    scene, questions = record["scene"], []
    choices = {
        "bin": tuple(sorted(scene["bins"])),
        "touch": ("no", "yes"),
        "race": tuple(sorted(ball["colour"] for ball in scene["balls"])),
        "topple": ("left", "no", "right"),
        "peg_bin": tuple(sorted(scene["bins"])),
        "peg_touch": ("no", "yes"),
        "wall": tuple(sorted(scene["walls"])),
        "bumper_touch": ("no", "yes"),
    }
    for family, answer in record["outcomes"].items():
        words = _words(record, rng)
        questions.append(_question(rng, family, answer, choices[family], **words))
    return questions


def conversational_questions(record: dict[str, Any], rng: np.random.Generator) -> list[Question]:
    """What people ask of a scene's first frame: what happens next, and a guess of theirs to be answered yes or no."""
    scene, outcomes, yes_no = record["scene"], record["outcomes"], ("no", "yes")
    words = _words(record, rng)
    for family, check in (("bin", "bin_check"), ("peg_bin", "bin_check"), ("wall", "wall_check")):
        if family in outcomes:
            ends = scene["walls"] or scene["bins"]
            truth = outcomes[family]
            guess = truth if rng.random() < 0.5 else str(rng.choice([end for end in ends if end != truth]))
            where = "reaches the {} wall." if scene["walls"] else "lands in the {} bin."
            told = {end: f"The {words['ball']} ball {where.format(end)}" for end in ends}
            return [
                _question(rng, "what_next", told[truth], tuple(told[end] for end in sorted(ends)), **words),
                _question(rng, check, yes_no[guess == truth], yes_no, **words, bin=guess),
            ]
    if "race" in outcomes:
        first = outcomes["race"]
        told = {ball: f"The {ball} ball lands first." for ball in (words["a"], words["b"])}
        last = words["b"] if words["a"] == first else words["a"]
        both = tuple(sorted(told))
        return [
            _question(rng, "what_next", told[first], tuple(told[ball] for ball in both), **words),
            _question(rng, "race_check", yes_no[words["a"] == first], yes_no, **words),
            _question(rng, "race_last", last, both, **words),
        ]
    if "topple" in outcomes:
        side = outcomes["topple"]
        told = {"left": "The stack falls to the left.", "no": "The stack stays up.", "right": "The stack falls to the right."}
        return [
            _question(rng, "what_next", told[side], tuple(told.values())),
            _question(rng, "topple_check", yes_no[side != "no"], yes_no),
        ]
    return []


def _words(record: dict[str, Any], rng: np.random.Generator) -> dict[str, str]:
    """The words for the balls of a scene: one is `ball`, two are `a` and `b` in random order."""
    colours = [ball["colour"] for ball in record["scene"]["balls"]]
    if len(colours) == 2:
        first, second = rng.permutation(sorted(colours))
        return {"a": str(first), "b": str(second)}
    return {"ball": colours[0]} if colours else {}


def describe(record: dict[str, Any], rng: np.random.Generator) -> Question:
    """An open question about a frame, whose answer is a sentence; the choices differ in colours or numbers."""
    scene, kind = record["scene"], record["kind"]
    if kind == "stack":
        said = {number: f"A stack of {number} blocks." for number in NUMBERS[1:]}
        return _question(rng, "describe", said[NUMBERS[len(scene["blocks"]) - 1]], tuple(said.values()))
    if kind == "race":
        one, other = sorted(ball["colour"] for ball in scene["balls"])
        said = {(a, b): f"A {a} ball and a {b} ball in two lanes." for a in sorted(BALLS) for b in sorted(BALLS) if a < b}
        return _question(rng, "describe", said[one, other], tuple(said.values()))
    where = {"drop": "ramps and bins", "pegs": "pegs, ramps and bins", "bumpers": "bumpers and walls"}[kind]
    told = {colour: f"A {colour} ball with {where}." for colour in sorted(BALLS)}
    return _question(rng, "describe", told[scene["balls"][0]["colour"]], tuple(told.values()))


def choose_balanced(
    questions: Iterable[tuple[int, int, Question]], per_family: int, rng: np.random.Generator
) -> list[tuple[int, int, Question]]:
    """Draw up to `per_family` questions of every family, its answers equally often as far as they go.

    `questions` are (scene index, frame, question). A family short of one answer comes out smaller, not skewed.
    """
    by_answer: dict[str, dict[str, list[tuple[int, int, Question]]]] = defaultdict(lambda: defaultdict(list))
    for item in questions:
        by_answer[item[2].family][item[2].answer].append(item)
    chosen: list[tuple[int, int, Question]] = []
    for family in FAMILIES:
        answers = by_answer.get(family, {})
        if not answers:
            continue
        share = min(-(-per_family // len(answers)), *(len(items) for items in answers.values()), per_family)
        drawn = [items[i] for items in answers.values() for i in rng.permutation(len(items))[:share]]
        chosen += [drawn[i] for i in rng.permutation(len(drawn))[:per_family]]
    return chosen


def all_texts() -> list[str]:
    """Every phrasing filled with every word it can hold, and every answer: what a tokenizer is trained on."""
    texts: dict[str, None] = {}
    for phrasings in (*PHRASINGS.values(), *EXERCISES.values()):
        for phrasing in phrasings:
            slots = [slot for slot in WORDS if f"{{{slot}}}" in phrasing]
            filled = [phrasing]
            for slot in slots:
                filled = [text.replace(f"{{{slot}}}", word) for text in filled for word in WORDS[slot]]
            texts.update(dict.fromkeys(filled))
    answers = (*BALLS, *BINS, *BLOCKS, *EIGHTHS, "yes", "no", "left", "right", "above", "below", "nearer", "farther")
    sentences = (
        "The ball reaches the wall.",
        "The ball lands in the bin.",
        "The ball lands first.",
        "The stack falls to the left.",
        "The stack falls to the right.",
        "The stack stays up.",
        "A stack of blocks.",
        "A ball and a ball in two lanes.",
        "A ball with pegs, ramps and bins.",
        "A ball with bumpers and walls.",
        FOREIGN_ANSWER,
    )
    texts.update(dict.fromkeys((*answers, *sentences, *FOREIGN_QUESTIONS)))
    texts.update(dict.fromkeys([text.upper() for text in texts]))
    return list(texts)


def _question(rng: np.random.Generator, family: str, answer: str, choices: tuple[str, ...], **words: str) -> Question:
    phrasings = PHRASINGS[family]
    text = phrasings[int(rng.integers(len(phrasings)))].format(**words)
    case = rng.random()
    text = text.upper() if case < UNUSUAL_CASE else text.lower() if case < 2 * UNUSUAL_CASE else text
    return Question(family, FAMILIES[family], text, answer, choices)


def _about_drop(record: dict[str, Any], frame: int, rng: np.random.Generator) -> list[Question]:
    ramps = record["scene"]["ramps"]
    questions = _about_ball_and_bins(record, frame, rng)
    questions += [_question(rng, "ramp_count", NUMBERS[len(ramps) - 1], NUMBERS[:3]), describe(record, rng)]
    has_red, lit = any(ramp["red"] for ramp in ramps), record["ramp_lit"][frame]
    if not lit:  # a lit ramp is no longer red to the eye
        questions.append(_question(rng, "red_ramp", "yes" if has_red else "no", ("no", "yes")))
    if has_red:
        questions.append(_question(rng, "lit_ramp", "yes" if lit else "no", ("no", "yes")))
    return questions


def _about_ball_and_bins(record: dict[str, Any], frame: int, rng: np.random.Generator) -> list[Question]:
    scene = record["scene"]
    ball, bins = scene["balls"][0]["colour"], scene["bins"]
    x = record["ball_xy"][frame][0][0]
    place = int(rng.integers(len(bins)))
    from_left, any_bin = rng.random() < 0.5, tuple(sorted(bins))
    number = place if from_left else len(bins) - 1 - place
    last = number == len(bins) - 1 and rng.random() < 0.5
    ordinal, side = "last" if last else ORDINALS[number], "left" if from_left else "right"
    questions = [
        _question(rng, "ball_colour", ball, BALLS),
        _question(rng, "bin_colour", bins[place], any_bin, ordinal=ordinal, side=side),
    ]
    if min(abs(x - edge) for edge in DIVIDER_XS) >= MARGIN:
        column = int(x // (SIZE / len(bins)))
        questions.append(_question(rng, "bin_below", bins[column], any_bin, ball=ball))
        questions.append(_question(rng, "column", NUMBERS[column], NUMBERS, ball=ball))
    return questions


def _about_race(record: dict[str, Any], frame: int, rng: np.random.Generator) -> list[Question]:
    colours = [ball["colour"] for ball in record["scene"]["balls"]]
    first = int(rng.integers(2))
    second, side = 1 - first, int(rng.integers(2))
    (xa, ya), (xb, yb) = record["ball_xy"][frame][first], record["ball_xy"][frame][second]
    pair = {"a": colours[first], "b": colours[second]}
    both = tuple(sorted(colours))
    left_lit, right_lit = record["pad_lit"][frame]
    lit = "left" if left_lit else "right" if right_lit else "no"
    questions = [
        _question(rng, "left_right", ("left", "right")[first], ("left", "right"), **pair),
        _question(rng, "lane_colour", colours[side], both, side=("left", "right")[side]),
        _question(rng, "lit_pad", lit, ("left", "no", "right")),
    ]
    questions.append(describe(record, rng))
    if abs(ya - yb) >= MARGIN:
        questions.append(_question(rng, "above_below", "above" if ya < yb else "below", ("above", "below"), **pair))
        higher = colours[first] if ya < yb else colours[second]
        questions.append(_question(rng, "higher", higher, both, **pair))
    nearer = abs(xb - LANE_WALL_X) - abs(xa - LANE_WALL_X)
    if abs(nearer) >= MARGIN:
        answer = "nearer" if nearer > 0 else "farther"
        questions.append(_question(rng, "nearer_wall", answer, ("farther", "nearer"), **pair))
    return questions


def _about_stack(record: dict[str, Any], frame: int, rng: np.random.Generator) -> list[Question]:
    blocks = record["scene"]["blocks"]
    poses: NDArray[np.float64] = np.array(record["block_pose"][frame])
    questions = [_question(rng, "block_count", NUMBERS[len(blocks) - 1], NUMBERS[1:])]
    if frame == 0:
        questions.append(describe(record, rng))
    order = np.argsort(poses[:, 1])
    heights = poses[order, 1]
    for family, index, gap in (
        ("top_block", order[0], heights[1] - heights[0]),
        ("bottom_block", order[-1], heights[-1] - heights[-2]),
    ):
        if gap >= MARGIN:
            choices = tuple(sorted(block["colour"] for block in blocks))
            questions.append(_question(rng, family, blocks[index]["colour"], choices))
    still = frame == len(record["block_pose"]) - 1 and "topple" in record["outcomes"]
    if frame == 0 or still:  # while it falls, a stack is neither
        answer = record["outcomes"]["topple"] if frame else "no"
        questions.append(_question(rng, "fallen", answer, ("left", "no", "right")))
    return questions


def _about_pegs(record: dict[str, Any], frame: int, rng: np.random.Generator) -> list[Question]:
    scene, lit = record["scene"], record["ramp_lit"][frame]
    ball = scene["balls"][0]["colour"]
    pegs = _question(rng, "peg_count", NUMBERS[len(scene["pegs"]) - 1], NUMBERS)
    return [
        *_about_ball_and_bins(record, frame, rng),
        pegs,
        _question(rng, "lit_thing", "yes" if lit else "no", ("no", "yes"), ball=ball),
        describe(record, rng),
    ]


def _about_bumpers(record: dict[str, Any], frame: int, rng: np.random.Generator) -> list[Question]:
    scene, lit = record["scene"], record["ramp_lit"][frame]
    ball, walls = scene["balls"][0]["colour"], scene["walls"]
    place = int(rng.integers(len(walls)))
    questions = [
        _question(rng, "ball_colour", ball, BALLS),
        _question(rng, "wall_colour", walls[place], tuple(sorted(walls)), wall=WALLS[place]),
        _question(rng, "bumper_count", EIGHTHS[len(scene["ramps"]) - 1], EIGHTHS[2:]),
        _question(rng, "lit_thing", "yes" if lit else "no", ("no", "yes"), ball=ball),
        describe(record, rng),
    ]
    if frame == 0 or (frame == len(record["ramp_lit"]) - 1 and record["outcomes"]):  # on its way, it may be close to one
        questions.append(_question(rng, "at_wall", "yes" if frame else "no", ("no", "yes"), ball=ball))
    return questions


_ABOUT = {
    "drop": _about_drop,
    "race": _about_race,
    "stack": _about_stack,
    "pegs": _about_pegs,
    "bumpers": _about_bumpers,
}
