"""The micro-world's questions as a benchmark: families apart, items of one scene together."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from theworld.cli.main import main
from theworld.data.schema import SourceSettings
from theworld.evaluation import learners, tracing
from theworld.evaluation.store.predictions import Item
from theworld.evaluation.tasks import TASKS, micro_world
from theworld.evaluation.tasks.base import MARGIN, kind_of
from theworld.model import TheWorld
from theworld.nano import scenes
from theworld.nano.scenes import load as load_scenes
from theworld.utils.hub import NANO_WEIGHTS
from theworld.utils.io import read_jsonl

TASK = TASKS["micro_world"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "test"
    assert (
        main(["nano", "scenes", str(folder), "--split=test", "--drop=3", "--race=3", "--stack=3", "--workers=1"]) == 0
    )
    return folder


@pytest.fixture(scope="module")
def items(folder: Path) -> tuple[Item, ...]:
    return TASK.load(SourceSettings(path=str(folder))).items


def test_items(folder: Path, items: tuple[Item, ...]) -> None:
    rows = list(read_jsonl(folder / "questions.jsonl"))
    assert [item.id for item in items] == [row["id"] for row in rows]
    assert [item.messages[0].content for item in items] == [row["question"] for row in rows]
    assert [item.family for item in items] == [f"{row['kind']}/{row['family']}" for row in rows]
    assert [item.cluster for item in items] == [f"scene-{row['clip']}" for row in rows]
    assert all(item.answer in item.choices for item in items)
    for item in items:  # as the scorer that compares them says them
        assert [TASK.score(item, choice).parsed for choice in item.choices] == list(item.choices)
    frames = np.load(folder / "frames.npy")
    for item, row in zip(items, rows, strict=True):
        (picture,) = item.images
        assert np.array_equal(picture, frames[row["clip"], row["frame"]])
        assert picture.base is None  # keeps no clip alive
        assert np.array_equal(item.clip, frames[row["clip"]])
        assert item.frame == row["frame"]
    assert {kind_of(item.family, TASK.kinds) for item in items} == {"predictive", "static", "conversational"}
    assert {TASK.margins.get(kind, MARGIN) for kind in TASK.kinds} == {0.01}


def test_outcomes_have_a_place(folder: Path, items: tuple[Item, ...]) -> None:
    records = load_scenes(folder).records
    for item in items:
        outcomes = records[item.metadata["clip"]]["outcomes"]
        assert {family: words[place] for family, (words, place) in item.metadata["places"].items()} == outcomes
        kind, _, family = item.family.partition("/")
        if kind == "predictive":
            words, place = item.metadata["places"][family]
            assert words[place] == item.answer
            assert sorted(words) == sorted(item.choices)


def test_scenes_without_records_are_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("frames.npy", "questions.jsonl"):
        (tmp_path / name).symlink_to(folder / name)
    with pytest.raises(FileNotFoundError, match=r"records\.jsonl.*theworld nano scenes"):
        TASK.load(SourceSettings(path=str(tmp_path)))


def test_scores(items: tuple[Item, ...]) -> None:
    item = items[0]
    wrong = next(choice for choice in item.choices if choice != item.answer)
    outputs = (item.answer, f"{item.answer.capitalize()}.", wrong, "", f"{item.answer} or {wrong}", "perhaps")
    scores = [TASK.score(item, output) for output in outputs]
    assert [(score.parsed, score.right) for score in scores] == [
        *[(item.answer, 1.0)] * 2, (wrong, 0.0), *[(None, 0.0)] * 3,
    ]  # fmt: skip


def test_baselines(items: tuple[Item, ...]) -> None:
    most = 0
    for family in {item.family for item in items}:
        most += Counter(item.answer for item in items if item.family == family).most_common(1)[0][1]
    baselines = TASK.baselines(items)
    assert 0 < baselines["majority_answer"] < most / len(items)  # counted on other items than those that are scored
    assert baselines["chance"] == pytest.approx(np.mean([1 / len(item.choices) for item in items]))
    assert 0.2 < baselines["chance"] < 0.5


def test_clips_are_no_questions(folder: Path) -> None:
    with pytest.raises(ValueError, match="does not use clip_frames=9"):
        TASK.load(SourceSettings(path=str(folder), clip_frames=9))


def test_learners_answer_in_the_words_of_the_question(
    items: tuple[Item, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learners, "LEARNERS", learners.LEARNERS[:2])  # the kernels
    kinds = ("drop", "race", "stack")  # those of the items
    few = {split: {kind: counts[kind] // 60 for kind in kinds} for split, counts in scenes.SIZES.items()}
    monkeypatch.setattr(scenes, "SIZES", few)
    source = SourceSettings(path=str(tmp_path / "test"))
    learned = micro_world.learn(items, source, tmp_path, 0)
    made = [f"{split}-{sum(few[split].values())}" for split in ("fusion", "validation")]
    assert sorted(path.name for path in (tmp_path / "scenes").iterdir()) == made
    predictive = [item for item in items if item.family.startswith("predictive/")]
    assert learned.answers.keys() == {item.id for item in predictive}
    assert all(learned.answers[item.id] in item.choices for item in predictive)
    of_bin = [row for row in learned.table if row["family"] == "bin"]
    assert [(row["learner"], row["features"], row["labels"]) for row in of_bin] == [
        ("kernel ridge", "pixels", few["fusion"]["drop"]),
        ("kernel ridge", "brightness", few["fusion"]["drop"]),
    ]
    # Scenes that are there already are used: those in the folder, and first those beside the questions
    micro_world.learn(items, source, tmp_path, 0)
    for split in ("fusion", "validation"):
        shutil.move(next((tmp_path / "scenes").glob(f"{split}-*")), tmp_path / split)
    again = micro_world.learn(items, source, tmp_path / "elsewhere", 0)
    assert again == learned
    assert not (tmp_path / "elsewhere").exists()


def test_a_mirrored_scene_has_the_mirrored_outcome(folder: Path) -> None:
    from theworld.nano.kinds import KINDS
    from theworld.nano.places import MIRRORED, answers_by_place, outcome_place
    from theworld.nano.scenes import scene_of

    for record in load_scenes(folder).records:
        mirrored, kind = scene_of(record).mirrored(), KINDS[record["kind"]]
        ends = kind.outcomes(mirrored, kind.simulate(mirrored))
        found = {**record, "scene": dataclasses.asdict(mirrored), "outcomes": ends}
        for family in record["outcomes"]:
            place = outcome_place(record, family)
            assert place is not None
            assert outcome_place(found, family) == MIRRORED[family][place], family
            if family == "bin":
                assert answers_by_place(found, family) == answers_by_place(record, family)[::-1]


def test_errors_are_traced_by_place(items: tuple[Item, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro_world, "MIN_READ", 3)
    monkeypatch.setattr(tracing, "STEPS", 40)

    def true_latents(asked: tuple[Item, ...]) -> torch.Tensor:
        return micro_world.latents_of(np.stack([item.clip for item in asked]), NANO_WEIGHTS / "cosmos")

    answers = {item.id: item.answer for item in items}
    traced = micro_world.trace(items, true_latents, answers)
    assert {"predictive/race", "predictive/topple"} <= traced.keys()
    race = traced["predictive/race"]
    assert race["scenes"] == 3
    assert race["n"] == sum(item.family == "predictive/race" for item in items)
    assert race["answer_right"]["estimate"] == 1.0
    assert race["answer_is_imagined"]["estimate"] == race["imagined_right"]["estimate"]
    assert micro_world.trace(items, lambda asked: 2 + true_latents(asked), answers) == {}  # another encoder's
    assert micro_world.trace(items, lambda asked: true_latents(asked)[:, :, :2], answers) == {}  # ends too early


def test_the_reader_sees_the_latents_that_the_shipped_model_makes(items: tuple[Item, ...]) -> None:
    model = TheWorld.from_pretrained("nano", dtype=torch.float32)
    encoder = model.model.world_encoder
    pixels = model.processor.world_pixels([items[0].clip[0]])
    assert torch.allclose(
        encoder.encode(pixels, 0),
        micro_world.latents_of(np.stack([items[0].clip]), NANO_WEIGHTS / "cosmos")[:, :, :1],
        atol=1e-4,
    )
