"""`theworld train` as people type it."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.scripts import run_script
from tests.training.runs import tiny_run, write_rows
from theworld.cli.main import main
from theworld.training.config import TrainingConfig
from theworld.utils.settings import keys


@pytest.fixture
def config(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> str:
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps({"_what": "a test", **tiny_run(tmp_path, gemma_folder, cosmos_folder).to_dict()}), encoding="utf-8"
    )
    return str(path)


def test_trains_and_prints_json(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(tmp_path / "out")
    assert (
        main(["train", "--config", config, "--max_steps", "1", "--output_dir", output, "--draw_bboxes", "--json"]) == 0
    )
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert (result["step"], result["checkpoint"]) == (1, f"{output}/checkpoint-1")
    assert "projector" in printed.err
    assert "step 1/1 loss" in printed.err
    assert main(["train", "--config", config, "--output_dir", output, "--resume_from", output, "--max_steps", "1"]) == 0
    assert (
        capsys.readouterr().out.strip() == f"step 1, loss {result['loss']:.4f}, 0 rows skipped: {output}/checkpoint-1"
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--config", "nowhere.json"], "nowhere.json: no such config file"),
        (["--batch_size", "many"], "batch_size='many': expected a whole number"),
        (["--streaming", "perhaps"], "streaming='perhaps': expected true or false"),
        (["--model", "nano"], "train_dataset_path"),
        (["--dataset", "nothing"], "dataset_name='nothing'"),
        (["--learning_rate", "fast"], "learning_rate='fast': expected a number"),
        (["--per_device_train_batch_size", "4"], "cannot be set: set batch_size"),
        (["--gradient_checkpointing"], "cannot be set: set use_gradient_checkpointing"),
        (["--resume_from", "/nowhere"], "/nowhere: no such checkpoint or run folder"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    arguments: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--output_dir", str(tmp_path), *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("theworld: error: ")
    assert line in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_an_unknown_key_names_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"freeze_gema_vision": false}', encoding="utf-8")
    assert main(["train", "--config", str(path)]) == 2
    assert "unknown config key 'freeze_gema_vision': did you mean 'freeze_gemma_vision'?" in capsys.readouterr().err


def test_help_shows_default_range_and_sentence_of_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    for name in keys(TrainingConfig):
        assert f"--{name} " in printed
    assert "Samples per process and forward pass. (a whole number, at least 1; default: 4)" in printed
    assert "(one of no, fp16, bf16; default: bf16)" in printed
    told = "Denoising steps of a rollout; that of Cosmos-Predict2 needs two at least."
    assert f"{told} (a whole number or null, 1 to 1000; default: the checkpoint's" in printed
    assert "--adam_beta2 VALUE" in printed
    assert "fp16 VALUE" not in printed


def test_help_needs_no_torch() -> None:
    for command in (["--help"], ["train", "--help"], ["train", "--batch_size", "many"]):
        code = f"from theworld.cli.main import main; import sys\ntry: main({command})\nexcept SystemExit: pass\n"
        code += "assert not {'torch', 'transformers'} & sys.modules.keys()"
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


IN_THE_DATA = [
    ([], "dataset 'custom' needs train_dataset_path"),
    (["--train_dataset_path", "nowhere.jsonl"], "nowhere.jsonl: no such file or folder"),
    (["--train_dataset_path", "rows.jsonl", "--image_folder", "nowhere"], "image_folder=nowhere: no such folder"),
    (["--train_dataset_path", "rows.jsonl", "--columns", '{"question": "zz"}'], "no column 'zz' in the data, which"),
    (["--train_dataset_path", "rows.txt"], "expected a folder or a file ending in"),
    (["--train_dataset_path", '["rows.jsonl", "nowhere.jsonl"]'], "nowhere.jsonl: no such file or folder"),
    (["--train_dataset_path", "rows.jsonl", "--do_eval", "--eval_dataset_path", "no.csv"], "no.csv: no such file"),
    (["--dataset", "vsr", "--train_dataset_path", "nowhere"], "nowhere: no such file or folder"),
    (["--model", "nano", "--train_dataset_path", "empty.csv"], "theworld: error: empty.csv: no rows"),
    (["--model", "nano", "--train_dataset_path", "cut.jsonl"], "theworld: error: cut.jsonl, line 2: not JSON"),
]


def test_mistakes_in_the_data_are_one_line_each_before_the_model_is_imported(tmp_path: Path) -> None:
    """Their stderr is a pipe, not a terminal."""
    row = '{"image": "0.png", "question": "?", "answer": "!"}\n'
    for name, text in (("rows.jsonl", row), ("rows.txt", ""), ("empty.csv", "image,question,answer\n")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "cut.jsonl").write_text(row + '{"image":', encoding="utf-8")
    mistakes = [([command, *given], line) for command in ("train", "precompute") for given, line in IN_THE_DATA]
    code = "from theworld.cli.main import main; import sys\n"
    code += "".join(f"assert main({arguments}) == 2\n" for arguments, _ in mistakes)
    code += "assert not {'transformers.trainer', 'theworld.model', 'diffusers'} & sys.modules.keys()"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for told, (_, line) in zip(done.stderr.splitlines(), mistakes, strict=True):
        assert told.startswith("theworld: error: ")
        assert line in told


def test_a_second_value_of_an_option_is_told_to_be_json(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--train_dataset_path", "a.jsonl", "b.jsonl"])
    assert "unexpected 'b.jsonl': put quotes around spaces and JSON lists" in capsys.readouterr().err


def test_resume_from_alone_reads_the_config_of_the_run(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--config", config, "--max_steps", "1", "--output_dir", "run"]) == 0
    folder = (tmp_path / "run").rename(tmp_path / "moved")
    capsys.readouterr()
    assert main(["train", "--resume_from", str(folder), "--max_steps", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["step"], result["output_dir"]) == (2, str(folder))
    assert main(["train", "--resume_from", str(folder / "checkpoint-2"), "--max_steps", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checkpoint"] == str(folder / "checkpoint-3")
    assert main(["train", "--resume_from", str(folder), "--output_dir", str(tmp_path / "new"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["output_dir"] == str(tmp_path / "new")


def test_script_and_example_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path, 2)
    script = ["scripts/train_hf.py", "--config", "configs/smoke_test.json", "--output_dir", str(tmp_path / "smoke")]
    example = ["examples/simple_training.py", "--output", str(tmp_path / "simple"), "--steps", "2"]
    for command, shown in ((script, "step 2, loss"), (example, "(truth: cyan)")):
        run_script(monkeypatch, *command)
        assert shown in capsys.readouterr().out


def test_a_new_stage_from_the_weights_of_a_run_leaves_that_run_as_it_is(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    assert main(["train", "--config", config, "--max_steps", "1", "--output_dir", str(old)]) == 0
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    (tmp_path / "rows").mkdir()
    rows = ["--train_dataset_path", str(write_rows(tmp_path / "rows", 4)), "--image_folder", str(tmp_path / "rows")]
    stage = ["train", "--resume_from", str(old / "checkpoint-1"), *rows, "--max_steps", "2", "--json"]
    capsys.readouterr()
    assert main(stage) == 2
    assert "holds checkpoint-1 of another stage, data (" in capsys.readouterr().err
    assert main([*stage, "--output_dir", str(new)]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert (result["step"], result["checkpoint"]) == (2, str(new / "checkpoint-2"))
    assert "a new stage starts from its weights, because of data (" in printed.err
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == before


def test_columns_are_named_on_the_command_line(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    renamed = [{"img": row["image"], "question": row["question"], "gold": row["answer"]} for row in rows]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in renamed), encoding="utf-8")
    command = ["train", "--config", config, "--train_dataset_path", str(tmp_path / "own.jsonl"), "--max_steps", "1"]
    assert main([*command, "--columns", '{"answer": "gold"}']) == 2
    error = capsys.readouterr().err
    assert "img holds images" in error
    assert 'columns={"image": "img"}' in error
    assert not (tmp_path / "run").exists()
    assert main([*command, "--columns", '{"image": "img", "answer": "gold"}', "--learning_rate", ".001"]) == 0


def test_a_webdataset_without_a_number_of_steps_says_what_to_do(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(tmp_path / "shard-0.tar", "w") as shard:
        for name in ("0.png", "0.json"):
            (tmp_path / name).touch()
            shard.add(tmp_path / name, name)
    data = ["--dataset", "webdataset", "--train_dataset_path", str(tmp_path / "shard-0.tar"), "--image_folder", "none"]
    assert main(["train", "--config", config, *data]) == 2
    assert "dataset 'webdataset': a stream has no length; set max_steps" in capsys.readouterr().err
