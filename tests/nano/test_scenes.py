"""The nano world: its two rules, its images, its balance, and clips on disk."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from theworld.nano.kinds import KINDS, sample_scene
from theworld.nano.kinds.bins import column_of
from theworld.nano.physics import FRAME_SECONDS, FRAMES, Ball, Block, Ramp, Scene
from theworld.nano.questions import static_questions
from theworld.nano.render import BALL_COLOURS, CLASSES
from theworld.nano.scenes import SPLITS, generate, load, make_clip, mirror, scene_of
from theworld.utils.errors import TheWorldError

BINS = ("green", "blue", "yellow", "purple")
DROP, RACE, STACK = (KINDS[name] for name in ("drop", "race", "stack"))


def test_a_free_ball_lands_in_the_bin_below():
    scene = Scene("drop", 0, (Ball("white", 20, 3),), bins=BINS)
    trajectory = DROP.simulate(scene)
    assert DROP.outcomes(scene, trajectory) == {"bin": "yellow"}
    fallen = trajectory.ball_xy[2, 0, 1] - 3
    assert fallen == pytest.approx(0.5 * 210 * (2 * FRAME_SECONDS) ** 2, rel=0.05)


@pytest.mark.parametrize(("x", "touch"), [(16, "yes"), (26, "no")])
def test_a_red_ramp_lights_up_once_touched_and_stays_lit(x: float, touch: str):
    scene = Scene("drop", 0, (Ball("white", x, 3),), (Ramp(12, 12, 20, 16, red=True),), BINS)
    trajectory = DROP.simulate(scene)
    found = DROP.outcomes(scene, trajectory)
    assert found is not None
    assert found["touch"] == touch
    assert not trajectory.ramp_lit[0]
    assert trajectory.ramp_lit[-1] == (touch == "yes")
    assert (np.diff(trajectory.ramp_lit.astype(int)) >= 0).all()
    shown = {CLASSES[i] for i in np.unique(DROP.render(scene, trajectory)[1][-1])}
    assert ("lit ramp" in shown) == (touch == "yes")
    assert ("red ramp" in shown) == (touch == "no")


def test_a_lit_ramp_covers_more_than_an_unlit_one():
    scene = Scene("drop", 0, (Ball("white", 16, 3),), (Ramp(12, 12, 20, 16, red=True),), BINS)
    classes = DROP.render(scene, DROP.simulate(scene))[1]
    unlit = (classes[0] == CLASSES.index("red ramp")).sum()
    assert (classes[-1] == CLASSES.index("lit ramp")).sum() > 1.5 * unlit


def test_a_grey_ramp_never_lights_up():
    scene = Scene("drop", 0, (Ball("white", 16, 3),), (Ramp(12, 12, 20, 16),), BINS)
    trajectory = DROP.simulate(scene)
    assert np.isfinite(trajectory.ramp_contact[0])
    assert not trajectory.ramp_lit.any()


def test_only_the_first_pad_lights_up():
    scene = Scene("race", 0, (Ball("white", 8, 3), Ball("pink", 24, 3)), (Ramp(4, 10, 11, 12),))
    trajectory = RACE.simulate(scene)
    assert RACE.outcomes(scene, trajectory) == {"race": "pink"}
    assert trajectory.pad_lit[-1].tolist() == [False, True]


def test_a_counterweight_decides_whether_a_stack_falls():
    base, arm = Block("red", 16, 27, 6, 4), Block("green", 20.2, 23, 8, 4)
    alone = Scene("stack", 0, blocks=(base, arm))
    held = Scene("stack", 0, blocks=(base, arm, Block("blue", 17.2, 18, 7, 6)))
    for scene, side in ((alone, "right"), (held, "no"), (alone.mirrored(), "left")):
        assert STACK.outcomes(scene, STACK.simulate(scene)) == {"topple": side}


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_is_one_scene_and_a_quarter_pixel_changes_nothing(kind: str):
    for seed in range(6):
        scene, trajectory = sample_scene(seed, kind)
        again, _ = sample_scene(seed, kind)
        assert scene == again
        found = KINDS[kind].outcomes(scene, trajectory)
        assert found
        for shift in (-0.25, 0.25):
            assert KINDS[kind].outcomes(scene, KINDS[kind].simulate(scene, jitter=(shift, 0))) == found


@pytest.mark.parametrize("kind", KINDS)
def test_a_mirrored_record_is_that_of_the_mirrored_scene(kind: str):
    """The scene is simulated again from its mirrored start, and questions about both have the same answers."""
    for seed in range(12):
        frames, _, record = make_clip(seed, kind)
        mirrored, scene = mirror(record), scene_of(record).mirrored()
        trajectory = KINDS[kind].simulate(scene)
        assert scene_of(mirrored) == scene
        assert mirrored["outcomes"] == KINDS[kind].outcomes(scene, trajectory)
        assert np.allclose(np.reshape(mirrored["ball_xy"][0], (-1, 2)), trajectory.ball_xy[0], atol=1e-3)
        images, _ = KINDS[kind].render(scene, trajectory)
        assert np.abs(images[0].astype(int) - frames[0, :, ::-1]).mean() < 1
        told = {name: getattr(trajectory, name).tolist() for name in ("ball_xy", "block_pose", "ramp_lit", "pad_lit")}
        again = {**mirrored, **told}
        assert (mirrored["ramp_lit"][-1], mirrored["pad_lit"][-1]) == (told["ramp_lit"][-1], told["pad_lit"][-1])
        asked = [static_questions(one, 0, np.random.default_rng(0)) for one in (mirrored, again)]
        assert asked[0] == asked[1]
        assert mirror(mirrored)["outcomes"] == record["outcomes"]


def test_a_scene_that_is_pulled_sideways_has_no_mirror_image():
    with pytest.raises(TheWorldError, match="'tilted' has no mirror image"):
        mirror(make_clip(0, "pegs", law="tilted")[2])


def test_splits_share_no_seed_and_scenes_differ():
    starts = sorted(SPLITS.values())
    assert all(b - a >= 10_000_000 for a, b in itertools.pairwise(starts))
    scenes = {dataclasses.replace(sample_scene(first + i, "race")[0], seed=0) for first in starts for i in range(3)}
    assert len(scenes) == 3 * len(SPLITS)


def test_obvious_cues_do_not_decide():
    races = [make_clip(seed, "race")[2] for seed in range(120)]
    lower_first = [
        max(r["scene"]["balls"], key=lambda ball: ball["y"])["colour"] == r["outcomes"]["race"] for r in races
    ]
    assert 0.40 < np.mean(lower_first) < 0.68
    stacks = [make_clip(seed, "stack")[2] for seed in range(150)]
    sides = [r["outcomes"]["topple"] for r in stacks]
    assert all(0.2 < sides.count(side) / len(sides) < 0.46 for side in ("left", "right", "no"))


def test_straight_below_is_seldom_the_right_bin():
    ends = [make_clip(seed, "drop")[2]["ball_xy"] for seed in range(40)]
    assert np.mean([column_of(xy[0][0][0]) == column_of(xy[-1][0][0]) for xy in ends]) < 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_the_image_shows_what_the_class_map_says(kind: str):
    frames, classes, record = make_clip(3, kind)
    assert FRAMES == 13
    assert frames.shape == (FRAMES, 32, 32, 3)
    assert classes.shape == (FRAMES, 32, 32)
    assert frames.dtype == classes.dtype == np.uint8
    assert len(CLASSES) <= 32
    for index, ball in enumerate(record["scene"]["balls"]):
        x, y = record["ball_xy"][0][index]
        pixel = (0, int(y), int(x))
        assert CLASSES[classes[pixel]] == f"ball {ball['colour']}"
        assert tuple(frames[pixel].tolist()) == BALL_COLOURS[ball["colour"]]
    for index, block in enumerate(record["scene"]["blocks"]):
        x, y, _ = record["block_pose"][0][index]
        assert CLASSES[classes[0, int(y), int(x)]] == f"block {block['colour']}"


def test_clips_on_disk_are_the_scenes_they_name(tmp_path: Path):
    written = generate(tmp_path / "validation", "validation", dict.fromkeys(KINDS, 1) | {"stack": 2}, workers=1)
    read = load(tmp_path / "validation")
    assert len(read) == 6
    assert read.indices("stack").tolist() == [2, 3]
    assert np.array_equal(written.frames, read.frames)
    for i, record in enumerate(read.records):
        frames, classes, again = make_clip(record["seed"], record["kind"])
        assert np.array_equal(read.frames[i], frames)
        assert np.array_equal(read.classes[i], classes)
        assert json.loads(json.dumps(again)) == record
        scene, kind = scene_of(record), KINDS[record["kind"]]
        assert kind.outcomes(scene, kind.simulate(scene)) == record["outcomes"]
    assert [path.name for path in tmp_path.iterdir()] == ["validation"]


def test_bad_requests_are_named(tmp_path: Path):
    with pytest.raises(ValueError, match="unknown kind of scene 'fall'"):
        sample_scene(0, "fall")
    with pytest.raises(ValueError, match="unknown law 'heavy': expected one of usual, tilted"):
        make_clip(0, "race", law="heavy")
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        generate(tmp_path / "x", "dev", {"race": 1})
    with pytest.raises(ValueError, match="'fall'"):
        generate(tmp_path / "x", "test", {"fall": 1})
    with pytest.raises(ValueError, match="choose another folder, or delete this one if it holds only"):
        generate(tmp_path, "test", {"race": 1})


@pytest.mark.parametrize("damage", ["a line less", "half a line", "cut frames", "no frames"])
def test_damaged_scenes_are_named(damage: str, tmp_path: Path) -> None:
    folder = generate(tmp_path / "scenes", "train", {"drop": 3}, workers=1).folder
    records, frames = folder / "records.jsonl", folder / "frames.npy"
    text = records.read_text(encoding="utf-8")
    if damage == "a line less":
        records.write_text(text[: text.rindex("\n", 0, -1) + 1], encoding="utf-8")
    elif damage == "half a line":
        records.write_text(text[:-9], encoding="utf-8")
    else:
        frames.write_bytes(frames.read_bytes()[: 500 if damage == "cut frames" else 0])
    with pytest.raises(TheWorldError, match=r"scenes: damaged scenes.*; remove the folder, so that they are simulated"):
        load(folder)
