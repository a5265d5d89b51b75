"""The example and the benchmarks run as a reader starts them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.scripts import run_script
from theworld.analysis.sheet import FRAME
from theworld.nano.examples import EXAMPLES, load_example
from theworld.utils.io import read_jsonl

ROOT = Path(__file__).parents[1]


def run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


def test_rows_to_train_on_have_the_answers_of_their_scenes() -> None:
    for row in read_jsonl(ROOT / "examples" / "questions.jsonl"):
        scene = load_example(Path(row["image"]).stem)
        assert row["answer"] == scene.answer
        assert row["answer"] in row.get("choices", [row["answer"]])
        for ball in re.findall(r"the (\w+) ball", row["question"]):
            assert f"the {ball} ball" in scene.question


def test_inference_prints_three_answers_and_the_truth(tmp_path: Path) -> None:
    printed = run("examples/inference.py", "--output", str(tmp_path / "picture.png"))
    blocks = printed.split("\n\n")
    assert len(blocks) == 1 + len(EXAMPLES)
    for name, block in zip(EXAMPLES, blocks, strict=False):
        lines = {line[:16].strip(): line[16:] for line in block.splitlines()}
        example = load_example(name)
        assert lines["question"] == example.question
        assert lines["truth"] == example.answer
        assert all(lines[scenario].strip() for scenario in ("plain Gemma 3", "current frame", "rollout"))
    with Image.open(tmp_path / "picture.png") as sheet:
        assert sheet.width > 9 * FRAME
        assert sheet.height > 2 * len(EXAMPLES) * FRAME
    # The first scene shows what each way of asking is for
    first = dict(line.split(maxsplit=1) for line in blocks[0].replace("plain Gemma 3", "plain").splitlines() if line)
    assert len({first["plain"], first["current"].removeprefix("frame").strip(), first["rollout"]}) == 3


def test_inference_demo_answers_about_an_image_of_ones_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = load_example("stack")
    example.image.save(tmp_path / "own.png")
    own = ["--image", str(tmp_path / "own.png"), "--question", example.question, "--json"]
    run_script(monkeypatch, "scripts/inference_demo.py", *own)
    shown = capsys.readouterr()
    assert not shown.err
    printed = json.loads(shown.out)
    assert printed["question"] == example.question
    assert printed["num_world_steps"] == 3
    assert printed["answers"].keys() == {"plain Gemma 3", "current frame", "rollout"}
    assert printed["answers"]["rollout"] == example.answer != printed["answers"]["plain Gemma 3"]


def test_overhead_prints_ratios(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--pairs", "1", "--layers", "2", "--decoded_tokens", "2")
    run_script(monkeypatch, "benchmarks/overhead.py", *small, "--json")
    rows = json.loads(capsys.readouterr().out)
    assert rows["world off, forward"]["ratio"] > 0
    assert rows["world encoder, rollout"]["ours_ms"] > rows["world encoder, current frame"]["ours_ms"]
