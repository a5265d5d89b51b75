"""Questions about scenes of the nano world: what is there in a frame (static), and what will happen (predictive).

A question is asked only where its answer is plain to see: spatial ones need `MARGIN` pixels.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .phrasings import BALLS, BINS, BLOCKS, EIGHTHS, EXERCISES, NUMBERS, ORDINALS, PHRASINGS, PREDICTIVE, WORDS
from .physics import DIVIDER_XS, LANE_WALL_X, SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

MARGIN = 1.5
"""Pixels by which a spatial answer must hold."""

FAMILIES: dict[str, str] = {family: "predictive" if family in PREDICTIVE else "static" for family in PHRASINGS}
"""Every family of questions, and whether it asks for what is (`static`) or what will be (`predictive`)."""


@dataclass(frozen=True)
class Question:
    """A question and its one-word answer; `choices` are the answers that the family allows here, in a fixed order."""

    family: str
    kind: str
    text: str
    answer: str
    choices: tuple[str, ...]


def static_questions(record: dict[str, Any], frame: int, rng: np.random.Generator) -> list[Question]:
    """Every question about this frame (0 to F-1) whose answer is plain, one phrasing drawn for each."""
    ask = {"drop": _about_drop, "race": _about_race, "stack": _about_stack}[record["kind"]]
    return ask(record, frame, rng)


def predictive_questions(record: dict[str, Any], rng: np.random.Generator) -> list[Question]:
    """The questions about how the scene ends, to be asked of its first frame."""
    scene, questions = record["scene"], []
    choices = {
        "bin": tuple(sorted(scene["bins"])),
        "touch": ("no", "yes"),
        "race": tuple(sorted(ball["colour"] for ball in scene["balls"])),
        "topple": ("left", "no", "right"),
    }
    for family, answer in record["outcomes"].items():
        colours = {"ball": scene["balls"][0]["colour"]} if family in ("bin", "touch") else {}
        if family == "race":
            first, second = rng.permutation(choices["race"])
            colours = {"a": str(first), "b": str(second)}
        questions.append(_question(rng, family, answer, choices[family], **colours))
    return questions


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
    texts.update(dict.fromkeys(answers))
    return list(texts)


def _question(rng: np.random.Generator, family: str, answer: str, choices: tuple[str, ...], **words: str) -> Question:
    phrasings = PHRASINGS[family]
    text = phrasings[int(rng.integers(len(phrasings)))].format(**words)
    return Question(family, FAMILIES[family], text, answer, choices)


def _about_drop(record: dict[str, Any], frame: int, rng: np.random.Generator) -> list[Question]:
    scene = record["scene"]
    ball, bins, ramps = scene["balls"][0]["colour"], scene["bins"], scene["ramps"]
    x = record["ball_xy"][frame][0][0]
    place = int(rng.integers(len(bins)))
    from_left = rng.random() < 0.5
    ordinal = ORDINALS[place if from_left else len(bins) - 1 - place]
    side = "left" if from_left else "right"
    any_bin = tuple(sorted(bins))
    questions = [
        _question(rng, "ball_colour", ball, BALLS),
        _question(rng, "bin_colour", bins[place], any_bin, ordinal=ordinal, side=side),
        _question(rng, "ramp_count", NUMBERS[len(ramps) - 1], NUMBERS[:3]),
    ]
    if min(abs(x - edge) for edge in DIVIDER_XS) >= MARGIN:
        column = int(x // (SIZE / len(bins)))
        questions.append(_question(rng, "bin_below", bins[column], any_bin, ball=ball))
        questions.append(_question(rng, "column", NUMBERS[column], NUMBERS, ball=ball))
    has_red, lit = any(ramp["red"] for ramp in ramps), record["ramp_lit"][frame]
    if not lit:  # a lit ramp is no longer red to the eye
        questions.append(_question(rng, "red_ramp", "yes" if has_red else "no", ("no", "yes")))
    if has_red:
        questions.append(_question(rng, "lit_ramp", "yes" if lit else "no", ("no", "yes")))
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
    order = np.argsort(poses[:, 1])
    heights = poses[order, 1]
    for family, index, gap in (
        ("top_block", order[0], heights[1] - heights[0]),
        ("bottom_block", order[-1], heights[-1] - heights[-2]),
    ):
        if gap >= MARGIN:
            choices = tuple(sorted(block["colour"] for block in blocks))
            questions.append(_question(rng, family, blocks[index]["colour"], choices))
    if frame in (0, len(record["block_pose"]) - 1):  # while it falls, a stack is neither
        answer = record["outcomes"]["topple"] if frame else "no"
        questions.append(_question(rng, "fallen", answer, ("left", "no", "right")))
    return questions
