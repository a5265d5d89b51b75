"""What docs/your-benchmark.md and docs/evaluation.md say is what the code does."""

import json
import re
from dataclasses import fields
from pathlib import Path
from unittest.mock import patch

import pytest

from theworld.cli.main import main
from theworld.evaluation.ask.arms import ARMS, Arm
from theworld.evaluation.ask.worlds import WORLD_SOURCES
from theworld.evaluation.tasks import TASKS, SourceSettings, Task, find_task

ROOT = Path(__file__).parents[2]
PAGE, EVALUATION = (
    (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("your-benchmark", "evaluation")
)
FILE, ARM = re.findall(r"^```python no-run\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_a_benchmark_outside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of the page, by the command of the page."""
    assert len(FILE.splitlines()) <= 40
    monkeypatch.chdir(tmp_path)
    Path("squares.py").write_text(FILE, encoding="utf-8")
    assert len(find_task("squares.py:SQUARES").load(SourceSettings()).items) == 200
    (command,) = re.findall(r"^theworld (evaluate --task squares.*)$", PAGE, re.MULTILINE)
    assert main([*command.split(), "--num_samples", "12"]) == 0
    metrics = json.loads(Path("runs/squares/squares/metrics.json").read_text(encoding="utf-8"))
    assert (metrics["n"], set(metrics["arms"])) == (12, {"gemma", "world", "other_image"})
    families = metrics["arms"]["world"]["families"]
    assert set(families) == {"warm/square", "cold/square"}


def test_an_arm_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    with patch.dict(ARMS), patch.dict(WORLD_SOURCES):
        exec(compile(ARM, "snippet", "exec"), {"__name__": "__main__"})
    assert "backwards" in capsys.readouterr().out


def test_the_page_names_every_field() -> None:
    missing = [field.name for field in (*fields(Arm), *fields(Task)) if f"`{field.name}`" not in PAGE]
    assert set(missing) <= {"title", "load", "score"}  # positional in the example


def test_the_table_of_arms_is_that_of_the_code() -> None:
    section = EVALUATION.split("\n## Arms\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|.*\| (\*\*must\*\*)? ?\|$", section, re.MULTILINE)
    assert rows == [(arm.name, "**must**" if arm.decides else "") for arm in ARMS.values()]
    controls = {arm.checkpoint for arm in ARMS.values() if arm.checkpoint == arm.name}
    (named,) = re.findall(r"^(`.*)are separate checkpoints", section, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", named)) == controls


def test_the_tables_of_tasks_and_kinds_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", EVALUATION.split("\n## Benchmarks\n")[1].split("\n### ")[0], re.MULTILINE)
    assert set(rows) == set(TASKS)
