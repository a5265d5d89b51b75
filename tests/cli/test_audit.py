import json
from pathlib import Path

import pytest

from theworld.cli.main import main


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    train, evaluation = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    train.write_text(
        '{"image": "1.jpg", "caption": "The cat is on the mat.", "label": 0, "relation": "on"}\n', encoding="utf-8"
    )
    evaluation.write_text(
        '{"image": "2.jpg", "caption": "The cat is on the mat.", "label": 1, "relation": "on"}\n'
        '{"image": "1.jpg", "caption": "The dog is on the mat.", "label": 0, "relation": "on"}\n',
        encoding="utf-8",
    )
    return ["audit", "--train", str(train), "--eval", str(evaluation)]


def test_prints_overlaps_and_baselines(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(files) == 0
    printed = capsys.readouterr().out
    assert "2 evaluation rows with 2 images, 1 training rows" in printed
    assert "statements in training 1 rows (50.0%), such as 'the cat on the mat'" in printed
    assert "images in training     1 rows (50.0%): 1 by name" in printed
    assert "opposite of training   50.0% (1 of 1 decidable rows, yes elsewhere)" in printed
    assert "more frequent answer of the relation 50.0%" in printed


def test_json(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*files, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["overlap"]["statements"] == ["the cat on the mat"]
    assert found["shortcuts"]["always_yes"] == 0.5


def test_a_missing_file_is_one_line(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*files, "--eval", "nowhere.jsonl"]) == 2
    error = capsys.readouterr().err
    assert error == "theworld: error: nowhere.jsonl: no such file; expected a .jsonl file or a .json array\n"
