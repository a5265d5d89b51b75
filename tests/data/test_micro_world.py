"""The micro-world's questions and clips, as the command writes them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from theworld.cli.main import main
from theworld.data.images import open_image
from theworld.data.open_source import open_source
from theworld.data.schema import Example, SourceSettings
from theworld.nano.scenes import load as load_scenes
from theworld.utils.io import read_jsonl


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "train"
    assert main(["nano", "scenes", str(folder), "--drop=6", "--race=6", "--stack=6", "--workers=1"]) == 0
    return folder


def questions(folder: Path, **settings: Any) -> list[Example]:
    source = open_source("micro_world", SourceSettings(path=str(folder), **settings))
    return [source[i] for i in range(len(source))]


def test_a_question_shows_its_frame_alone(folder: Path) -> None:
    scenes = load_scenes(folder)
    rows = questions(folder)
    assert len({row.id for row in rows}) == len(rows) > 40
    for row in rows:
        clip, frame = row.metadata["clip"], row.metadata["frame"]
        (shown,) = row.images
        assert np.array_equal(shown, scenes.frames[clip, frame])
        assert np.array_equal(np.stack(row.clip), scenes.frames[clip])
        question, answer = row.messages
        assert (question.role, answer.role) == ("user", "assistant")
        assert "<image>" not in question.content
        assert answer.content in row.choices
        if row.metadata["kind"] == "predictive":
            assert frame == 0
            assert answer.content == scenes.records[clip]["outcomes"][row.metadata["family"]]
    assert {row.metadata["kind"] for row in rows} == {"static", "predictive", "conversational"}
    assert {row.metadata["frame"] for row in rows} > {0, 12}
    assert open_image(rows[0].images[0]).size == (32, 32)


def test_clips_need_no_questions(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "frames.npy").symlink_to(folder / "frames.npy")
    assert len(open_source("micro_world", SourceSettings(path=str(tmp_path), clip_frames=5))) == 18
    with pytest.raises(FileNotFoundError, match=r"questions\.jsonl"):
        open_source("micro_world", SourceSettings(path=str(tmp_path)))


def test_answers_of_a_family_are_balanced(folder: Path) -> None:
    rows = questions(folder)
    for family in {row.metadata["family"] for row in rows}:
        counts = Counter(row.messages[1].content for row in rows if row.metadata["family"] == family)
        assert len(set(counts.values())) == 1, family


def test_the_same_scenes_have_the_same_questions(folder: Path, tmp_path: Path) -> None:
    main(["nano", "scenes", str(tmp_path / "again"), "--drop=6", "--race=6", "--stack=6", "--workers=2"])
    assert (tmp_path / "again" / "questions.jsonl").read_bytes() == (folder / "questions.jsonl").read_bytes()


def test_some_rows_are_of_every_kind_of_scene(folder: Path) -> None:
    first = questions(folder, num_samples=30)
    assert {row.id.partition("-")[0] for row in first} == {"drop", "race", "stack"}
    assert [row.id for row in questions(folder.parent, split="train", num_samples=30)] == [row.id for row in first]


def test_a_template_takes_the_fields_of_a_question(folder: Path) -> None:
    plain, asked = questions(folder)[0], questions(folder, question_template="{question} ({kind})")[0]
    assert asked.messages[0].content == f"{plain.messages[0].content} ({plain.metadata['kind']})"
    with pytest.raises(ValueError, match="no column 'caption'"):
        questions(folder, question_template="{caption}")


@pytest.mark.parametrize("count", [1, 5, 9])
def test_alignment_gets_every_scene_once(folder: Path, count: int) -> None:
    scenes = load_scenes(folder)
    rows = questions(folder, clip_frames=count)
    assert [row.id for row in rows] == [f"scene-{i}" for i in range(18)]
    for i, row in enumerate(rows):
        assert row.messages == ()
        assert np.array_equal(np.stack(row.clip), scenes.frames[i, :count])
        assert np.array_equal(row.images[0], scenes.frames[i, 0])
    assert len(questions(folder, clip_frames=count, num_samples=3)) == 3


def test_workers_read_it_too(folder: Path) -> None:
    source: Any = open_source("micro_world", SourceSettings(path=str(folder), num_samples=8))
    loader: DataLoader[Any] = DataLoader(
        source, batch_size=4, num_workers=1, collate_fn=list, multiprocessing_context="fork"
    )
    assert [row.id for batch in loader for row in batch] == [
        row["id"] for row in read_jsonl(folder / "questions.jsonl")
    ][:8]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"clip_frames": 17}, "clip_frames=17: the scenes in .* have 13 frames"),
        ({"clip_frames": 4}, "clip_frames=4"),
        ({"clip_frames": 9, "question_template": "?"}, "question_template"),
        ({"streaming": True}, "streaming"),
    ],
)
def test_settings_that_cannot_be_are_refused(folder: Path, settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        questions(folder, **settings)


def test_who_has_no_scenes_is_told_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="theworld nano scenes"):
        open_source("micro_world", SourceSettings())
    with pytest.raises(FileNotFoundError, match=r"frames\.npy.*theworld nano scenes"):
        questions(tmp_path)


def test_the_folder_is_plain_files(folder: Path) -> None:
    row = json.loads((folder / "questions.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert list(row) == ["id", "clip", "frame", "family", "kind", "question", "answer", "choices"]
