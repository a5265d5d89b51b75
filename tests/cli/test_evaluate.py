"""`theworld evaluate` and its scripts as people type them, on tiny data."""

import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from theworld.cli import evaluate
from theworld.cli.main import build_parser, main
from theworld.evaluation.ask.arms import ARMS
from theworld.evaluation.run import evaluate_tasks
from theworld.evaluation.settings import EvaluationSettings
from theworld.evaluation.tasks import TASKS
from theworld.recipes.imagined import imagined_frames

ROOT = Path(__file__).parents[2]
PROMPT = "Which point is closer?\nSelect from the following choices.\n(A) A is closer\n(B) B is closer"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder))


@pytest.fixture
def blink(tmp_path: Path) -> Path:
    """Three questions of a sub-task in a folder of all."""
    folder = tmp_path / "blink" / "Relative_Depth"
    folder.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for number, colour in enumerate(("red", "green", "blue"), start=1):
        Image.new("RGB", (40, 30), colour).save(folder / f"{number}.png")
        row = {"idx": f"val_Relative_Depth_{number}", "sub_task": "Relative_Depth", "prompt": PROMPT}
        answer = "(A)" if number % 2 else "(B)"
        rows.append({**row, "image_1": f"{number}.png", "choices": ["A", "B"], "answer": answer})
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder.parent


@pytest.fixture
def run_script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a script as `python <script> ...` does, without a new process; returns what it printed."""

    def run(script: str, *arguments: str) -> str:
        monkeypatch.setattr("sys.argv", [script, *arguments])
        with pytest.raises(SystemExit) as done:
            runpy.run_path(str(ROOT / "scripts" / script), run_name="__main__")
        printed = capsys.readouterr()
        assert done.value.code == 0, printed.err
        return printed.out

    return run


def test_held_out_scenes_are_simulated_and_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["evaluate", "--task", "micro_world", "--num_samples", "6", "--output", str(tmp_path)]
    assert main([*asked, "--arms", "gemma,world", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed["metrics"]["arms"]) == {"gemma", "world"}
    assert printed["metrics"]["n"] == 6
    assert Path(printed["report"]).is_file()
    assert [folder.name for folder in (tmp_path / "scenes").iterdir()] == ["test-7"]
    settings = EvaluationSettings(num_samples=6, output=str(tmp_path), arms=["gemma", "world"])
    result = evaluate_tasks([TASKS["micro_world"]], settings)[0]
    rollout = imagined_frames(result)
    assert rollout is not None
    assert len(rollout(result.items.items[0])) == 1 + 4 * 3
    assert imagined_frames(replace(result, predictions={"gemma": []})) is None


def test_a_device_that_is_not_there_is_told_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["evaluate", "--task", "micro_world", "--output", str(tmp_path / "out"), "--device", "cuda:99"]
    assert main(asked) == 2
    assert capsys.readouterr().err.startswith("theworld: error: device='cuda:99': this machine has cpu")
    assert not (tmp_path / "out").exists()


def test_several_tasks_and_one_in_a_file_share_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = "from dataclasses import replace\nfrom theworld.evaluation.tasks.micro_world import MICRO_WORLD\n"
    Path("mine.py").write_text(f"{source}TASK = replace(MICRO_WORLD, name='mine')\n", encoding="utf-8")
    asked = ["evaluate", "--task", "micro_world,mine.py:TASK", "--num_samples", "4", "--output", "out"]
    asked += ["--arms", "world", "--dtype", "float32", "--device", "cpu", "--attn_implementation", "eager"]
    assert main([*asked, "--report_to", "tensorboard", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed["tasks"]) == {"micro_world", "mine"}
    assert printed["tasks"]["mine"]["metrics"]["n"] == 4
    manifest = json.loads(Path("out/mine/world/manifest.json").read_text(encoding="utf-8"))
    assert manifest["identity"]["attn_implementation"] == "eager"
    assert list(Path("out/logs").glob("events*"))


def test_the_blink_script_takes_a_sub_task_and_a_config(
    blink: Path, tmp_path: Path, run_script: Callable[..., str]
) -> None:
    config, output = tmp_path / "config.json", tmp_path / "out"
    config.write_text(
        json.dumps({"_what": "a test", "arms": ["gemma", "world_0", "world"], "batch_size": 2}), encoding="utf-8"
    )
    options = ["--config", str(config), "--data", str(blink), "--model", "nano", "--num_world_steps", "0,2"]
    printed = run_script("evaluate_blink.py", "--task", "Relative_Depth", *options, "--output", str(output))
    assert "3 items" in printed
    assert f"report        {output}" in printed
    assert {path.parent.name for path in output.glob("blink/*/predictions.jsonl")} == {"gemma", "world_0", "world"}


def test_the_vsr_script_takes_its_documented_options(tmp_path: Path, run_script: Callable[..., str]) -> None:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "1.jpg")
    row = {"image": "1.jpg", "label": 1, "relation": "at"}
    rows = [json.dumps({**row, "caption": f"The {word} is red."}) + "\n" for word in ("cat", "cup")]
    (tmp_path / "test.jsonl").write_text("".join(rows), encoding="utf-8")
    options = ["--model_name", "nano", "--data", str(tmp_path), "--image-dir", str(tmp_path), "--split", "test"]
    output = ["--output", str(tmp_path / "out"), "--arms", "gemma", "--json"]
    assert json.loads(run_script("vsr/evaluate_vsr.py", *options, *output))["metrics"]["n"] == 2


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--task", "blnk"], "task 'blnk': expected one of blink, custom"),
        (["--task", "custm"], "or path/to/file.py:NAME; did you mean 'custom'?"),
        ([], "--task is missing: expected one of"),
        (["--task", "custom"], "--data): a file, a folder or a Hub id"),
        (["--task", "custom", "--data", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["--task", "custom", "--arms", "wrold"], "arm 'wrold': expected one of world"),
        (["--task", "custom", "--num_world_steps", "0,many"], "num_world_steps='0,many': expected whole numbers"),
        (["--task", "micro_world", "--num_samples", "0"], "num_samples=0: expected at least 1"),
        (["--task", "custom", "--num_samples", "-1"], "num_samples=-1: expected at least 1"),
        (["--task", "custom", "--control", "gemma_tuned"], "control 'gemma_tuned': expected NAME=PATH"),
        (["--task", "custom", "--control", "tuned=x"], "control 'tuned': expected one of gemma_tuned"),
        (["--task", "custom", "--control", "gemma_tuned=/nowhere"], "control gemma_tuned: /nowhere: no such folder"),
        (["--config", "nowhere.json"], "nowhere.json: no such config file"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    arguments: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--output", str(tmp_path), *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("theworld: error: ")
    assert line in printed.err
    assert printed.err.count("\n") == 1


def test_a_wrong_name_of_a_task_is_found_before_heavy_imports() -> None:
    code = "import sys; from theworld.cli.main import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    for name in ("custm", "absent.py:MINE"):
        command = [sys.executable, "-c", code, "evaluate", "--task", name]
        assert subprocess.run(command, capture_output=True, text=True, timeout=60).stdout == "2 False\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{", "not JSON"),
        ("[]", "expected a JSON object"),
        ('{"arm": "all"}', "unknown option 'arm'"),
        ('{"batch_size": "8"}', "batch_size='8': expected a whole number"),
    ],
)
def test_a_config_is_checked(text: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    assert main(["evaluate", "--config", str(tmp_path / "config.json")]) == 2
    assert line in capsys.readouterr().err


def test_every_option_and_task_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["evaluate", "--help"])
    printed = capsys.readouterr().out
    assert all(f"--{name}" in printed for name in evaluate.KEYS)
    assert all(name in printed for name in TASKS)
    assert EvaluationSettings().arm_names == tuple(ARMS)


def test_shipped_config_states_only_what_differs() -> None:
    given = json.loads((ROOT / "configs" / "eval_blink.json").read_text(encoding="utf-8"))
    given = {name: value for name, value in given.items() if not name.startswith("_")}
    assert given["task"] in TASKS
    assert [name for name, value in given.items() if evaluate.KEYS[name].default == value] == []


@pytest.mark.parametrize(("target", "arms"), [("eval-blink", ""), ("eval-gemma", "--arms gemma ")])
def test_make_targets_ask_what_they_are_told(target: str, arms: str) -> None:
    done = subprocess.run(
        ["make", "-n", "-o", "setup", target, "MODEL=nano", "DATA=rows", "ARGS=--seed 1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert f"scripts/evaluate_blink.py --config configs/eval_blink.json {arms}" in done.stdout
    assert "--model nano --data rows --seed 1" in done.stdout


def test_pictures_of_vsr_are_downloaded_once(tmp_path: Path) -> None:
    picture, rows = tmp_path / "000000000001.jpg", tmp_path / "test.jsonl"
    Image.new("RGB", (8, 8)).save(picture)
    row = {"image": picture.name, "image_link": picture.as_uri(), "caption": "A cat.", "label": 1}
    rows.write_text((json.dumps(row) + "\n") * 2, encoding="utf-8")
    command = ["bash", str(ROOT / "scripts/vsr/get_vsr_images.sh"), "--output", str(tmp_path / "images")]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60)

    assert run(str(rows)).stdout.startswith("1 images downloaded, 0 existed, 0 failed")
    assert (tmp_path / "images" / picture.name).read_bytes() == picture.read_bytes()
    assert run(str(rows)).stdout.startswith("0 images downloaded, 1 existed")
    rows.write_text(
        json.dumps({**row, "image": "gone.jpg", "image_link": (tmp_path / "gone.jpg").as_uri()}) + "\n",
        encoding="utf-8",
    )
    assert run(str(rows)).returncode == 1
    rows.write_text(json.dumps({**row, "image": "../outside.jpg"}) + "\n", encoding="utf-8")
    done = run(str(rows))
    assert (done.returncode, done.stderr) == (2, f"{rows}, line 1: '../outside.jpg' is no name of a file\n")
    assert run(str(tmp_path / "nowhere.jsonl")).returncode == 2
    assert run().returncode == 2
    assert "--output DIR" in run("--help").stdout
