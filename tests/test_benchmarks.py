"""The benchmarks run as a reader starts them, at their smallest; what they must show is read off their figures."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from tests.scripts import run_script
from theworld.nano.scenes import generate as simulate
from theworld.recipes.nano_config import SMOKE
from theworld.utils.io import read_jsonl

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def figures(script: str, *arguments: str) -> dict[str, Any]:
        run_script(monkeypatch, f"benchmarks/{script}", *arguments, "--json")
        return json.loads(capsys.readouterr().out)

    return figures


def test_latent_cache(run: Run) -> None:
    figures = run("latent_cache.py", "--pairs", "1", "--latents", "256")
    assert figures["read_per_processor_second"] > 2000
    assert abs(figures["overhead"]) < 0.1
    assert all(value > 0 for value in figures.values())


def test_training_step(run: Run) -> None:
    small = ("--vocabulary", "5000", "--tokens", "128", "--num_world_steps", "0", "--trainer_steps", "3")
    rows = run("training_step.py", "--pairs", "1", *small)
    assert rows.keys() == {"loss", "world path", "nano step", "trainer"}
    assert rows["world path"]["encoder_calls"] == 0
    assert rows["world path"]["ratio"] < 1 / 3
    assert rows["loss"]["stock_mb"] > 0
    assert all(row["ours_ms"] > 0 for row in rows.values())


def test_checkpoint_save(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_script(monkeypatch, "benchmarks/checkpoint_save.py", "--layers", "1", "--width", "32", "--pairs", "1")
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["save"] * 3


def test_evaluation(run: Run) -> None:
    rows = run("evaluation.py", "--pairs", "1", "--items", "16")
    assert rows.keys() == {"from images", "worlds given", "generate", "shared prefix"}
    assert all(row["same"] == row["items"] == 16 for row in rows.values())
    assert all(row["times"] > 1 for row in rows.values())


def test_encode(run: Run) -> None:
    row = run("encode.py", "--pairs", "3", "--base_dim", "32", "--size", "64")
    assert row["difference"] < 1e-5
    assert row["times"] > 1


def test_rollout(run: Run) -> None:
    small = ("--layers", "1", "--width", "64", "--size", "32", "--inference_steps", "2")
    rows = run("rollout.py", "--pairs", "1", *small)
    assert rows.keys() == {"defaults", "guidance 1", "guidance 7", "batch of 8"}
    assert rows["defaults"]["ratio"] < 1
    assert all(row["ours_ms"] > 0 for row in rows.values())


def test_start(run: Run) -> None:
    row = run("start.py", "--pairs", "1")
    assert row["ratio"] < 1.5
    assert row["ours_wall_ms"] > 0


def test_nano_choices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = ("--align_steps", "1", "--question_steps", "1", "--num_samples", "20", "--labels", "2", "--rounds", "1")
    chosen = ("--choices", "position: after BOS", "fusion", "--seeds", "0", "1")
    output = tmp_path / "choices.json"
    given = ("--config", str(SMOKE), "--workers", "1", "--output", str(output))
    run_script(monkeypatch, "benchmarks/nano_choices.py", str(tmp_path / "run"), *small, *chosen, *given)
    found = json.loads(output.read_text(encoding="utf-8"))
    first, *others = found["rows"]
    assert [first["choice"], *(row["choice"] for row in others)] == ["as shipped", "position", "fusion"]
    assert found["seeds"] == [0, 1]
    assert all(row["milliseconds"] > 0 for row in (first, *others))
    asked = read_jsonl(tmp_path / "run" / "conversations-2" / "conversations.jsonl")
    assert len({row["id"].rpartition("-")[0] for row in asked if row["id"].startswith("pegs-")}) == 2
    for seed, name in enumerate(f"cosmos-world_position-after_bos-2-labels{suffix}" for suffix in ("", "-seed-1")):
        config = json.loads((tmp_path / "run" / name / "questions" / "config.json").read_text(encoding="utf-8"))
        assert config["train_dataset_path"] == str(tmp_path / "run" / "conversations-2" / "conversations.jsonl")
        assert config.get("seed", 0) == seed
    for kind in ("predictive", "static"):
        assert "to_first" not in first[kind]
        for row in others:
            assert row[kind]["estimate"] == pytest.approx(fmean(row[kind]["by_seed"]))
            gained = row[kind]["estimate"] - first[kind]["estimate"]
            assert row[kind]["to_first"]["difference"] == pytest.approx(gained, abs=1e-9)


def test_futures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulate(tmp_path / "scenes", "test", {"pegs": 6})
    output = tmp_path / "futures.json"
    run_script(
        monkeypatch, "benchmarks/futures.py", str(tmp_path / "scenes"), "--num_futures", "2", "--output", str(output)
    )
    found = json.loads(output.read_text(encoding="utf-8"))
    assert found["futures"] == 2
    assert found["n"] > 1
    assert found["brier"]["difference"] <= 0  # the square is convex
    assert found["brier"]["low"] <= found["brier"]["difference"] <= found["brier"]["high"]
    assert "2 rollouts" in capsys.readouterr().out
    with pytest.raises(AssertionError):
        run_script(monkeypatch, "benchmarks/futures.py", str(tmp_path / "scenes"), "--num_samples", "0")
    assert "no predictive questions to ask" in capsys.readouterr().err


def test_full_size(run: Run) -> None:
    rows = run("full_size.py", "--random_weights", "--depth", "1", "--divide", "16", "--peak_tflops", "1")
    train = {"train projection", "train LoRA", "train language"}
    assert rows.keys() == {"encode", "rollout", "prefill", "decode", *train}
    assert all(row["share_of_peak"] == pytest.approx(row["teraflops"]) for row in rows.values())
    assert rows["train language"]["teraflop"] > rows["train LoRA"]["teraflop"] > rows["prefill"]["teraflop"]


def test_the_performance_page_is_what_its_command_writes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    docs = Path(__file__).parents[1] / "docs"
    shutil.copy(docs / "performance.md", tmp_path)
    run_script(monkeypatch, "benchmarks/growth.py", "--write", str(tmp_path))
    for name in ("performance.md", "growth.svg"):
        assert (tmp_path / name).read_text(encoding="utf-8") == (docs / name).read_text(encoding="utf-8")
