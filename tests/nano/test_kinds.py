"""Kinds of scenes: what holds for each of them, and a new one in a few lines."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, astuple
from typing import TYPE_CHECKING

import numpy as np
import pytest

from theworld.nano.families import BALL_COLOUR, WHAT_NEXT, Ending, predictive
from theworld.nano.foreign import foreign_image
from theworld.nano.kinds import KINDS, Kind, sample_disputed, sample_scene
from theworld.nano.kinds.base import SIDEWAYS
from theworld.nano.physics import FLOOR_Y, FRAMES, SIZE, TILTED, USUAL, Ball, Ramp, Scene
from theworld.nano.places import MIRRORED, answers_by_place, outcome_place
from theworld.nano.questions import (
    all_texts,
    choose_balanced,
    conversational_questions,
    families,
    predictive_questions,
    static_questions,
)
from theworld.nano.render import BALL_COLOURS, box
from theworld.nano.scenes import generate, make_clip
from theworld.nano.words import BALLS

if TYPE_CHECKING:
    from pathlib import Path

    from theworld.nano.families import Question
    from theworld.nano.kinds.base import Record
    from theworld.nano.physics import Trajectory
    from theworld.nano.render import Canvas
    from theworld.nano.space import Space

# A kind: a ball on a ramp rolls to one side.
SIDES = ("left", "right")
ROLL = predictive("roll", "To which side will the ball roll?", "Will the {ball} ball roll left or right?")


def draw(seed: int, rng: np.random.Generator, _level: int) -> Scene:
    rise = rng.uniform(-4, 4)
    ball = Ball(str(rng.choice(list(BALL_COLOURS))), 16, 6)
    return Scene("slide", seed, (ball,), (Ramp(10, 16 - rise, 22, 16 + rise),))


def fill(space: Space, scene: Scene, jitter: tuple[float, float]) -> None:
    space.add_sides()
    space.add_floor(elasticity=0.1, friction=0.8)
    space.add_ramps(scene.ramps)
    space.add_balls(scene.balls, jitter)


def paint_floor(canvas: Canvas, _scene: Scene, _trajectory: Trajectory) -> None:
    canvas.paint("wall", box(0, FLOOR_Y, SIZE, SIZE))


def outcomes(_scene: Scene, trajectory: Trajectory) -> dict[str, str] | None:
    moved = trajectory.ball_xy[-1, 0, 0] - 16
    return None if abs(moved) < 4 else {"roll": SIDES[int(moved > 0)]}


def static(record: Record, _frame: int, rng: np.random.Generator) -> list[Question]:
    return [BALL_COLOUR.ask(rng, record["scene"]["balls"][0]["colour"], BALLS)]


def what_next(record: Record, words: dict[str, str], rng: np.random.Generator) -> list[Question]:
    told = {side: f"The ball rolls to the {side}." for side in SIDES}
    return [WHAT_NEXT.ask(rng, told[record["outcomes"]["roll"]], tuple(told.values()), **words)]


SLIDE = Kind(
    name="slide",
    description="a ball falls onto a ramp and rolls to one side",
    draw=draw,
    fill=fill,
    paint_room=paint_floor,
    outcomes=outcomes,
    endings=(Ending(ROLL, lambda _scene: SIDES, (1, 0)),),
    static=static,
    conversational=what_next,
    families=(BALL_COLOUR, WHAT_NEXT),
    sentences=("The ball rolls to the left.", "The ball rolls to the right."),
)


def test_a_new_kind_is_one_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "slide", SLIDE)
    # 1. Drawn, simulated and rendered, on disk and alone
    scenes = generate(tmp_path / "scenes", "validation", {"slide": 8}, workers=1)
    assert scenes.frames.shape == (8, FRAMES, SIZE, SIZE, 3)
    assert {record["outcomes"]["roll"] for record in scenes.records} == set(SIDES)
    assert not np.array_equal(scenes.frames[0, 0], scenes.frames[0, -1])
    assert make_clip(0, "slide", labelled=False)[2]["kind"] == "slide"
    scene, usual, tilted = sample_disputed(0, "slide", TILTED)
    assert outcomes(scene, usual) == {"roll": "left"}
    assert outcomes(scene, tilted) == {"roll": "right"}
    # 2. Asked about, with every word known to a tokenizer
    assert families()["roll"] is ROLL
    words = {word for text in all_texts() for word in text.split()}
    rng = np.random.default_rng(0)
    asked: list[tuple[int, int, Question]] = []
    for record in scenes.records:
        for ask in (predictive_questions, conversational_questions):
            asked += [(0, 0, question) for question in ask(record, rng)]
        asked += [(0, 0, question) for question in static_questions(record, 0, rng)]
    assert {question.family for _, _, question in choose_balanced(asked, 2, rng)} == {
        "roll",
        "what_next",
        "ball_colour",
    }
    assert {word for _, _, one in asked for word in f"{one.text} {one.answer}".split() if word.islower()} <= words
    # 3. Answered by place, in the mirror too
    record = scenes.records[0]
    place = outcome_place(record, "roll")
    assert place is not None
    assert answers_by_place(record, "roll")[place] == record["outcomes"]["roll"]
    mirrored = sample_scene(record["seed"], "slide")[0].mirrored()
    assert outcomes(mirrored, SLIDE.simulate(mirrored)) == {"roll": SIDES[SLIDE.endings[0].mirrored[place]]}


def test_kinds_and_their_questions_need_no_simulator() -> None:
    code = "import sys; sys.modules['pymunk'] = None; import theworld.nano.places, theworld.nano.questions"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_says_everything_about_itself(kind: str) -> None:
    one = KINDS[kind]
    assert one.name == kind
    assert one.description.islower()
    own = {family.name: family.asks for family in (*one.families, *(ending.family for ending in one.endings))}
    assert own == {name: families()[name].asks for name in own}  # one family has one name
    records = [make_clip(seed, kind)[2] for seed in range(3)]
    rng = np.random.default_rng(0)
    asked: list[Question] = []
    for record in records:
        asked += predictive_questions(record, rng) + conversational_questions(record, rng)
        asked += [found for frame in range(FRAMES) for found in static_questions(record, frame, rng)]
    assert {question.family for question in asked} == own.keys()
    for ending in one.endings:
        assert MIRRORED[ending.family.name] == ending.mirrored
        assert [ending.mirrored[place] for place in ending.mirrored] == list(range(len(ending.mirrored)))


@pytest.mark.parametrize("kind", KINDS)
def test_levels_outside_the_range_are_refused(kind: str) -> None:
    levels = KINDS[kind].levels
    for level in (-1, levels):
        with pytest.raises(ValueError, match=f"level={level} of {kind}: expected 0 to {levels - 1}"):
            sample_scene(0, kind, level)


@pytest.mark.parametrize("kind", ["pegs", "bumpers"])
def test_levels_differ_in_what_a_scene_holds(kind: str) -> None:
    scenes = [sample_scene(0, kind, level)[0] for level in range(KINDS[kind].levels)]
    assert [scene.level for scene in scenes] == [0, 1, 2]
    assert [len(scene.ramps) + len(scene.pegs) for scene in scenes] == {"pegs": [2, 4, 6], "bumpers": [3, 5, 8]}[kind]
    assert astuple(sample_scene(0, kind)[0]) == astuple(scenes[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_mirrored_scene_ends_at_the_mirrored_place(kind: str) -> None:
    one = KINDS[kind]
    for seed in range(4):
        scene, trajectory = sample_scene(seed, kind)
        mirrored = scene.mirrored()
        again, drawn = asdict(mirrored.mirrored()), asdict(scene)
        for things in ("balls", "ramps", "pegs", "blocks"):
            for thing, original in zip(again.pop(things), drawn.pop(things), strict=True):
                assert thing == pytest.approx(original)
        assert again == drawn
        usual, found = one.outcomes(scene, trajectory), one.outcomes(mirrored, one.simulate(mirrored))
        assert usual is not None
        assert found is not None
        places = one.places(asdict(scene), usual)
        expected = {family: MIRRORED[family][place] for family, place in places.items()}
        assert one.places(asdict(mirrored), found) == expected


@pytest.mark.parametrize("kind", ["pegs", "bumpers"])
def test_disputed_scenes_end_elsewhere_under_the_tilted_law_beyond_doubt(kind: str) -> None:
    one = KINDS[kind]
    family = one.endings[0].family.name
    for seed in range(3):
        scene, *ends = sample_disputed(seed, kind, TILTED)
        found = [one.outcomes(scene, end) for end in ends]
        assert found[0] is not None
        assert found[1] is not None
        assert found[0][family] != found[1][family]
        for law, expected in zip((USUAL, TILTED), found, strict=True):
            for jitter in SIDEWAYS:
                assert one.outcomes(scene, one.simulate(scene, jitter=jitter, law=law)) == expected
        record = make_clip(seed, kind, law="tilted")[2]
        assert (record["usual_outcomes"], record["outcomes"], record["law"]) == (*found, "tilted")


@pytest.mark.parametrize("kind", ["pegs", "bumpers"])
def test_answers_of_labelled_scenes_are_balanced(kind: str) -> None:
    records = [make_clip(seed, kind, 0)[2] for seed in range(48)]
    for ending in KINDS[kind].endings:
        answers = [outcome_place(record, ending.family.name) for record in records]
        count = len(ending.mirrored)
        assert all(0.5 < answers.count(place) * count / len(answers) < 1.5 for place in range(count))


@pytest.mark.parametrize("held_out", [False, True])
def test_foreign_images_differ(held_out: bool) -> None:
    images = [foreign_image(seed, held_out=held_out) for seed in range(12)]
    assert all(image.dtype == np.uint8 and image.shape == (32, 32, 3) for image in images)
    assert len({image.tobytes() for image in images}) == len(images)
    assert np.array_equal(images[3], foreign_image(3, held_out=held_out))
    assert not np.array_equal(images[3], foreign_image(3, held_out=not held_out))
