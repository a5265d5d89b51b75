"""LLaVA's pre-training file: conversations, and a validation split that training never sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from theworld.data.open_source import open_source
from theworld.data.schema import Example, Message, SourceSettings

COUNT = 250


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [
        {
            "id": f"GCC_{i:09}",
            "image": f"00{i % 7}/{i}.jpg",
            "conversations": [
                {"from": "human", "value": "Describe the image concisely.\n<image>"},
                {"from": "gpt", "value": f"caption {i}"},
            ],
        }
        for i in range(COUNT)
    ]
    (tmp_path / "chat.json").write_text(json.dumps(rows), encoding="utf-8")
    return tmp_path


def ids(path: Path, **settings: Any) -> list[str]:
    source = open_source("llava_pretrain", SourceSettings(path=str(path), **settings))
    return [source[i].id for i in range(len(source))]


def test_a_row_keeps_its_conversation(folder: Path) -> None:
    source = open_source("llava_pretrain", SourceSettings(path=str(folder), image_folder=folder))
    assert len(source) == COUNT
    row = source[3]
    assert row == Example(
        "GCC_000000003",
        (Message("user", "Describe the image concisely.\n<image>"), Message("assistant", "caption 3")),
        images=("003/3.jpg",),
    )
    beside = open_source("llava_pretrain", SourceSettings(path=str(folder / "chat.json")))[3]
    assert isinstance(beside, Example)
    assert beside.images == (folder / "003" / "3.jpg",)


def test_splits_are_disjoint_complete_and_seeded(folder: Path) -> None:
    train, validation = ids(folder, split="train"), ids(folder, split="validation")
    assert len(validation) == 2
    assert not set(train) & set(validation)
    assert set(train) | set(validation) == set(ids(folder))
    assert ids(folder, split="validation") == validation
    assert ids(folder, split="validation", seed=1) != validation
    assert ids(folder, split="train", num_samples=5) == train[:5]


def test_what_cannot_be_is_said(folder: Path, tmp_path: Path) -> None:
    for settings, reason in (
        ({"split": "test"}, "no split 'test': expected train, validation"),
        ({"streaming": True}, "does not use streaming=True"),
        ({"question_template": "{text}"}, "question_template"),
    ):
        with pytest.raises(ValueError, match=reason):
            ids(folder, **settings)
    other = tmp_path / "other.json"
    other.write_text('[{"question": "q"}]', encoding="utf-8")
    with pytest.raises(ValueError, match="no column 'conversations' in the data, which has question"):
        ids(other)
    with pytest.raises(FileNotFoundError, match=r"chat\.json"):
        ids(tmp_path / "chat.json" / ".." / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"expected one of chat\.json"):
        ids(tmp_path / "empty")
