"""`theworld compare`, and the script that the documents name."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from scripts.compare_results import arguments
from tests.evaluation.arms import make_items, make_task, write_arms
from theworld.cli.main import main
from theworld.evaluation.score import write_metrics

ITEMS = make_items(30)
SCRIPT = Path(__file__).parents[2] / "scripts" / "compare_results.py"


def evaluation(folder: Path, every: dict[str, list[bool]]) -> str:
    write_arms(folder, ITEMS, every)
    write_metrics(folder, make_task(ITEMS), ITEMS)
    return str(folder)


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    world = evaluation(tmp_path / "theworld", {"world": [n % 10 != 0 for n in range(30)]})
    return [world, evaluation(tmp_path / "gemma", {"gemma": [n % 2 == 0 for n in range(30)]})]


def test_a_table_and_two_reports(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *runs, "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"theworld/world .* 90\.0", printed)
    assert re.search(r"gemma/gemma +\+40\.0 ", printed)
    assert "All questions: Not decided, because not every arm was run: Plain Gemma 3 (gemma)" in printed
    assert (tmp_path / "out" / "report.html").is_file()
    assert (tmp_path / "out" / "report.md").is_file()


def test_json_holds_the_same_numbers(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = ["--labels", "ours", "base"]
    assert main(["compare", *runs, *labels, "--output", str(tmp_path / "out"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["tasks"]["balls"]["comparisons"]["all"]["base/gemma"]["difference"] == pytest.approx(0.4)
    assert Path(printed["report"]).is_file()


def test_one_run_is_reported_by_itself(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", runs[0], "--output", str(tmp_path / "out")]) == 0
    assert "\nworld " in capsys.readouterr().out


def test_a_refusal_is_one_line(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictions = tmp_path / "theworld" / "balls" / "world" / "predictions.jsonl"
    predictions.write_text(predictions.read_text(encoding="utf-8").replace("q1", "q7", 1), encoding="utf-8")
    assert main(["compare", *runs, "--output", str(tmp_path / "out")]) == 2
    assert re.fullmatch(r"theworld: error: .*line 2: .* does not fit its digest: .*\n", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            ["--theworld", "a", "--baseline", "b"],
            ["a", "b", "--labels", "TheWorld", "baseline", "--output", "results/comparison"],
        ),
        (["--results", "a", "b", "c", "--output", "o"], ["a", "b", "c", "--output", "o"]),
        (
            ["--results", "a", "b", "--labels", "x", "y", "--output", "o"],
            ["a", "b", "--labels", "x", "y", "--output", "o"],
        ),
    ],
)
def test_flags_of_the_script(given: list[str], expected: list[str]) -> None:
    assert arguments(given) == ["compare", *expected]


@pytest.mark.parametrize(
    "given",
    [
        [],
        ["--theworld", "a"],
        ["--results", "a", "--baseline", "b"],
        ["--theworld", "a", "--baseline", "b", "--labels", "x"],
    ],
)
def test_flags_that_make_no_sense(given: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        arguments(given)


def test_the_script_runs(
    runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--theworld", runs[0], "--baseline", runs[1], "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["compare_results.py", *given])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    printed = capsys.readouterr().out
    assert "TheWorld/world" in printed
    assert "baseline/gemma" in printed
