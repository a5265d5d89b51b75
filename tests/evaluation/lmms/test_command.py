"""The commands of docs/lmms-eval.md, run by lmms-eval itself on the shipped model; see `make test-lmms`."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from .harness import write_tasks

pytestmark = pytest.mark.lmms
PAGE = Path(__file__).parents[3] / "docs" / "lmms-eval.md"
COMMANDS = [
    command.replace("\\\n", " ").strip()
    for block in re.findall(r"^```bash no-run\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for command in re.findall(r"^python -m lmms_eval(?:.*\\\n)*.*$", block, re.MULTILINE)
]


def evaluate(command: str, folder: Path) -> tuple[str, list[dict]]:
    """What the command printed, and the samples that it logged."""
    words = shlex.split(command.replace("TASKS", str(folder)).replace("OUT", str(folder / "out")))
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    run = [sys.executable, *words[1:]]
    done = subprocess.run(run, env=os.environ | offline, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    logged = sorted((folder / "out").rglob("*_samples_*.jsonl"))
    return done.stdout, [
        json.loads(line) for line in logged[-1].read_text(encoding="utf-8").splitlines()
    ] if logged else []


def metric(table: str, name: str) -> float:
    """The value in the printed table."""
    found = re.search(rf"\|{name}\s*\|[^|]*\|\s*([\d.]+)\|", table)
    assert found, table
    return float(found[1])


def test_the_page_shows_messages_choices_and_pure_gemma() -> None:
    assert len(COMMANDS) == 3


def test_answers_in_messages(tmp_path: Path) -> None:
    rows = write_tasks(tmp_path, 12)
    printed, samples = evaluate(COMMANDS[0], tmp_path)
    right = [sample["filtered_resps"] == row["answer"] for sample, row in zip(samples, rows, strict=True)]
    assert metric(printed, "exact_match") == pytest.approx(sum(right) / len(right), abs=1e-3)
    assert sum(right) >= 8  # a guess among four bins gives 3; the shipped model gets 85 %


def test_multiple_choice_by_log_probability(tmp_path: Path) -> None:
    write_tasks(tmp_path, 12)
    printed, samples = evaluate(COMMANDS[1], tmp_path)
    # The harness takes the least: log-probabilities in place of losses would choose the worst answer
    assert metric(printed, "acc") >= 8 / 12
    for sample in samples:
        losses = [float(loss) for loss, _ in sample["filtered_resps"]]  # logged as text
        assert min(losses) > 0
        assert [flag == "True" for _, flag in sample["filtered_resps"]] == [loss == min(losses) for loss in losses]


def test_pure_gemma_goes_the_same_way(tmp_path: Path) -> None:
    write_tasks(tmp_path, 12)
    printed, samples = evaluate(COMMANDS[2], tmp_path)
    assert metric(printed, "exact_match") < 8 / 12  # it does not see where the ball will land
    assert all(sample["filtered_resps"] for sample in samples)


def test_a_wrong_argument_says_so(tmp_path: Path) -> None:
    write_tasks(tmp_path, 1)
    command = COMMANDS[0].replace("enable_world=true", "enable_world=false,num_world_steps=2")
    printed, samples = evaluate(command, tmp_path)  # the harness exits 0 all the same
    assert "enable_world=false and num_world_steps=2 contradict each other" in printed
    assert not samples
