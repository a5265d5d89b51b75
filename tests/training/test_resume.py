"""A run that dies loses nothing but the steps since its last save."""

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import CommitOperationAdd, HfApi
from safetensors.torch import load_file
from transformers import Trainer
from transformers.utils import SAFE_WEIGHTS_NAME as WEIGHTS

from tests.hub_server import Hub
from tests.processes import CONTEXT
from tests.training.runs import history, tiny_run
from theworld import TheWorld
from theworld.cli.main import main
from theworld.training import resume
from theworld.training.config import AUTO, TrainingConfig
from theworld.training.run import RunResult, train
from theworld.utils.errors import TheWorldError
from theworld.utils.folders import locked

KILLS = 10


def same_end(ours: RunResult | Path, theirs: RunResult | Path) -> None:
    """Two runs logged the same losses and norms and hold the same weights, bit for bit."""
    first, second = (Path(end.checkpoint or "") if isinstance(end, RunResult) else end for end in (ours, theirs))
    assert history(first) == history(second)
    weights, expected = load_file(first / WEIGHTS), load_file(second / WEIGHTS)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def leave_only(config: TrainingConfig, step: int, target: Path) -> str:
    """A run folder in which `config`'s run has saved at `step` and then died."""
    shutil.copytree(Path(config.output_dir) / f"checkpoint-{step}", target / f"checkpoint-{step}")
    return str(target)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, gemma_folder: Path, cosmos_folder: Path) -> TrainingConfig:
    """The config of a run that ended, every step saved."""
    config = tiny_run(tmp_path_factory.mktemp("whole"), gemma_folder, cosmos_folder, save_steps=1)
    assert train(config).step == 6
    return config


@pytest.fixture
def last(whole: TrainingConfig) -> Path:
    return Path(whole.output_dir) / "checkpoint-6"


def continued(config: TrainingConfig, **keys: Any) -> RunResult:
    return train(TrainingConfig.from_dict({**config.to_dict(), "resume_from": AUTO, **keys}))


@pytest.mark.parametrize("survivor", [2, 3, 4], ids=["mid-epoch", "end of an epoch", "second epoch"])
def test_resumed_run_equals_the_undisturbed_one(
    whole: TrainingConfig, last: Path, tmp_path: Path, survivor: int
) -> None:
    assert len(set(history(last).values())) == 6
    same_end(continued(whole, output_dir=leave_only(whole, survivor, tmp_path)), last)


def test_log_lines_do_not_span_a_save(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    config = tiny_run(tmp_path, gemma_folder, cosmos_folder, logging_steps=5, save_steps=4)
    undisturbed = train(config)
    assert list(history(undisturbed.checkpoint)) == [4, 5, 6]
    same_end(continued(config, output_dir=leave_only(config, 4, tmp_path / "died")), undisturbed)


def test_a_longer_run_takes_its_rates_and_log_lines_from_the_new_config(
    tmp_path: Path, gemma_folder: Path, cosmos_folder: Path
) -> None:
    config = tiny_run(tmp_path, gemma_folder, cosmos_folder, logging_steps=5, save_steps=4, max_steps=4, warmup_steps=0)
    train(config)
    longer = continued(config, max_steps=8, logging_steps=1)
    fresh = tiny_run(tmp_path, gemma_folder, cosmos_folder, max_steps=8, warmup_steps=0, output_dir=str(tmp_path / "8"))
    rates, expected = (history(run.checkpoint, "learning_rate") for run in (longer, train(fresh)))
    assert list(rates) == [4, 5, 6, 7, 8]
    assert {step: rates[step] for step in (5, 6, 7, 8)} == {step: expected[step] for step in (5, 6, 7, 8)}


def test_dropout_workers_and_evaluation_resume(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    config = tiny_run(
        tmp_path,
        gemma_folder,
        cosmos_folder,
        lora={"r": 2, "alpha": 4, "dropout": 0.3, "target_modules": ["q_proj", "v_proj"]},
        num_workers=1,
        persistent_workers=True,
        do_eval=True,
        eval_dataset_path=str(tmp_path / "train.jsonl"),
        eval_steps=2,
        save_steps=1,
    )
    undisturbed = train(config)
    for survivor in (2, 3):
        same_end(continued(config, output_dir=leave_only(config, survivor, tmp_path / f"died{survivor}")), undisturbed)


def dying_run(arguments: list[str], fatal: int) -> None:
    """`theworld <arguments>` in a process that kills itself at the event number `fatal`, of which most are in saves."""
    count = itertools.count(1)

    def lethal(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if next(count) == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return wrapper

    for owner, name in (
        (Trainer, "training_step"),
        (torch, "save"),
        (os, "fsync"),
        (Path, "rename"),
        (shutil, "rmtree"),
    ):
        setattr(owner, name, lethal(getattr(owner, name)))
    sys.exit(main(arguments))


def test_killed_at_ten_moments_it_ends_with_the_losses_of_an_undisturbed_run(
    tmp_path: Path, gemma_folder: Path, cosmos_folder: Path
) -> None:
    config = tiny_run(tmp_path, gemma_folder, cosmos_folder, num_epochs=8, save_total_limit=1, resume_from=AUTO)
    (tmp_path / "run.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")

    def start(output: str, fatal: int) -> int | None:
        arguments = ["train", "--config", str(tmp_path / "run.json"), "--output_dir", str(tmp_path / output)]
        process = CONTEXT.Process(target=dying_run, args=(arguments, fatal))
        process.start()
        process.join()
        return process.exitcode

    moments = random.Random(0)
    assert start("undisturbed", 0) == 0
    for _ in range(KILLS):
        assert start("killed", moments.randint(1, 60)) == -signal.SIGKILL
    assert start("killed", 0) == 0
    ends = [resume.newest_checkpoint(tmp_path / output) for output in ("killed", "undisturbed")]
    assert ends[0] is not None
    assert ends[1] is not None
    same_end(ends[0], ends[1])
    assert [path.name for path in (tmp_path / "killed").glob("*check*")] == ["checkpoint-24"]


def test_another_run_in_the_folder_is_refused(whole: TrainingConfig) -> None:
    with pytest.raises(ValueError, match="holds checkpoint-6 of an earlier run; continue it with --resume_from auto"):
        continued(whole, resume_from=None)


def test_an_older_checkpoint_of_the_folder_is_refused(whole: TrainingConfig, last: Path) -> None:
    """What was saved after it would count as newer than what comes now."""
    with pytest.raises(ValueError, match="holds checkpoint-6 of an earlier run"):
        continued(whole, resume_from=str(last.parent / "checkpoint-2"))


def test_another_stage_in_the_folder_is_refused(whole: TrainingConfig) -> None:
    with pytest.raises(ValueError, match=r"of another stage, trains \(\['projector'\] -> \['projector', 'vision'\]\)"):
        continued(whole, freeze_gemma_vision=False)


def test_a_finished_run_stays_as_it_is(whole: TrainingConfig, last: Path) -> None:
    before = last.stat().st_mtime_ns
    result = continued(whole)
    assert (result.step, result.checkpoint) == (6, str(last))
    assert result.loss == history(last)[6][0]
    assert last.stat().st_mtime_ns == before


def test_a_run_goes_on_for_longer(whole: TrainingConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    longer = continued(whole, output_dir=leave_only(whole, 6, tmp_path), max_steps=8, learning_rate=1.0)
    assert longer.step == 8
    assert "changed settings: max_steps (None -> 8), learning_rate (0.01 -> 1.0)" in caplog.text


@pytest.mark.parametrize("missing", [WEIGHTS, "config.json"])
def test_an_incomplete_checkpoint_is_ignored(
    whole: TrainingConfig, tmp_path: Path, missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = Path(leave_only(whole, 4, tmp_path))
    leave_only(whole, 5, tmp_path)
    (run / "checkpoint-5" / missing).unlink()
    assert resume.newest_checkpoint(run) == run / "checkpoint-4"
    assert "checkpoint-5: not complete, ignored" in caplog.text
    resume.prune(resume.checkpoints(run), 1)
    assert (run / "checkpoint-4").is_dir()


def test_pruning_keeps_the_newest(tmp_path: Path, whole: TrainingConfig) -> None:
    for step in (1, 2, 3):
        leave_only(whole, step, tmp_path)
    resume.prune(resume.checkpoints(tmp_path), None)
    assert len(resume.checkpoints(tmp_path)) == 3
    resume.prune(resume.checkpoints(tmp_path), 2)
    assert [path.name for path in resume.checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-3"]


@pytest.mark.parametrize("name", [WEIGHTS, "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"])
def test_a_truncated_checkpoint_is_named(whole: TrainingConfig, tmp_path: Path, name: str) -> None:
    damaged = Path(leave_only(whole, 4, tmp_path)) / "checkpoint-4" / name
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    with pytest.raises(ValueError, match="damaged") as caught:
        continued(whole, output_dir=str(tmp_path))
    assert "checkpoint-4" in str(caught.value)


@pytest.mark.parametrize("name", [WEIGHTS, "optimizer.pt"])
def test_a_flipped_byte_is_named(whole: TrainingConfig, tmp_path: Path, name: str) -> None:
    damaged = Path(leave_only(whole, 4, tmp_path)) / "checkpoint-4" / name
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 0xFF
    damaged.write_bytes(data)
    with pytest.raises(ValueError, match=rf"checkpoint-4/{name}: damaged, its checksum differs"):
        continued(whole, output_dir=str(tmp_path))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "stage.json"])
def test_a_damaged_description_is_named(whole: TrainingConfig, tmp_path: Path, name: str) -> None:
    damaged = Path(leave_only(whole, 4, tmp_path)) / "checkpoint-4" / name
    damaged.write_text(damaged.read_text(encoding="utf-8")[:90], encoding="utf-8")
    with pytest.raises(ValueError, match=rf"checkpoint-4/{name}: damaged, not JSON"):
        continued(whole, output_dir=str(tmp_path))


def test_a_file_in_the_folders_place_is_named(whole: TrainingConfig, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(ValueError, match=r"output_dir='.*taken': is a file"):
        continued(whole, output_dir=str(tmp_path / "taken"))


STATE_FILES = ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "stage.json"]


@pytest.mark.parametrize("name", [*STATE_FILES, "scheduler.pt without checksums", "rng_state.pth without checksums"])
def test_a_checkpoint_without_a_file_of_its_state_is_not_complete(
    whole: TrainingConfig, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Without one of them the run would go on as another run."""
    run = Path(leave_only(whole, 4, tmp_path))
    leave_only(whole, 5, tmp_path)
    file, _, more = name.partition(" ")
    for lost in (file, *(["checksums.json"] if more else [])):
        (run / "checkpoint-5" / lost).unlink()
    assert resume.newest_checkpoint(run) == run / "checkpoint-4"
    assert "checkpoint-5: not complete, ignored" in caplog.text
    for named in (run / "checkpoint-5", copied(run / "checkpoint-5", tmp_path / "alone")):
        with pytest.raises(FileNotFoundError, match=rf"incomplete, .*(rng_state.*|{file}) is missing"):
            continued(whole, output_dir=str(tmp_path / "next"), resume_from=str(named))
    stage = replace(whole, model_name=str(run / "checkpoint-5"), max_steps=1, output_dir=str(tmp_path / "stage"))
    assert train(stage).step == 1  # its weights are whole


def test_any_file_of_the_checksums_counts(whole: TrainingConfig, tmp_path: Path) -> None:
    run = Path(leave_only(whole, 4, tmp_path))
    shard = Path(leave_only(whole, 5, tmp_path)) / "checkpoint-5" / "optimizer_0" / "shard.distcp"
    checksums = shard.parents[1] / resume.CHECKSUMS
    known = json.loads(checksums.read_text(encoding="utf-8"))
    checksums.write_text(json.dumps({**known, "optimizer_0/shard.distcp": 0}), encoding="utf-8")
    assert resume.newest_checkpoint(run) == run / "checkpoint-4"
    with pytest.raises(FileNotFoundError, match=r"incomplete, optimizer_0/shard\.distcp is missing"):
        continued(whole, output_dir=str(tmp_path / "next"), resume_from=str(run / "checkpoint-5"))
    shard.parent.mkdir()
    shard.touch()  # whose checksum is 0
    assert resume.newest_checkpoint(run) == run / "checkpoint-5"


def copied(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("stage.json", "[]"),
        ("stage.json", '{"stage": 3, "config": {}}'),
        ("stage.json", "{}"),
        ("trainer_state.json", "{}"),
        ("trainer_state.json", "null"),
        ("trainer_state.json", '{"global_step": "four"}'),
        ("trainer_state.json", '{"global_step": 4, "log_history": 3}'),
        ("trainer_state.json", '{"global_step": 4, "wrong": 3}'),
        ("trainer_state.json", '{"global_step": 4, "log_history": [3]}'),
        ("trainer_state.json", '{"global_step": 4, "log_history": [{"loss": "x"}]}'),
        ("trainer_state.json", '{"global_step": 4, "stateful_callbacks": {}}'),
        ("trainer_state.json", '{"global_step": 4, "train_batch_size": ""}'),
        ("trainer_state.json", '{"global_step": 1000000000, "max_steps": 6}'),
        ("trainer_state.json", '{"global_step": 3, "max_steps": 6}'),
        ("trainer_state.json", '{"global_step": 4, "stateful_callbacks": {"TrainerControl": 5}}'),
        ("stage.json", '{"stage": {"trained": 5}, "config": {}}'),
        ("stage.json", '{"stage": {"trains": 5}, "config": {}}'),
        ("stage.json", '{"stage": {"num_world_steps": true}, "config": {}}'),
        ("checksums.json", "{}"),
        ("checksums.json", "[1]"),
        ("config.json", "3"),
    ],
)
def test_wrong_contents_are_one_line(whole: TrainingConfig, tmp_path: Path, name: str, text: str) -> None:
    run = Path(leave_only(whole, 4, tmp_path))
    path = run / "checkpoint-4" / name
    saved = json.loads(path.read_text(encoding="utf-8"))
    if name == resume.STATE and text.startswith('{"global_step": '):
        text = json.dumps(saved | json.loads(text))
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"checkpoint-4/{name}: damaged, .*; resume from an earlier") as caught:
        continued(whole, output_dir=str(run))
    assert "\n" not in str(caught.value)


def test_the_checkpoints_of_a_run_are_listed_once_and_a_damaged_one_is_told_once(
    tmp_path: Path, gemma_folder: Path, cosmos_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_run(tmp_path, gemma_folder, cosmos_folder, save_steps=1, max_steps=4, save_total_limit=2)
    (Path(config.output_dir) / "checkpoint-2").mkdir(parents=True)
    caplog.clear()
    result = train(config)
    assert result.checkpoint == str(Path(config.output_dir) / "checkpoint-4")
    assert [path.name for path in resume.checkpoints(Path(config.output_dir))] == ["checkpoint-3", "checkpoint-4"]
    assert caplog.text.count("not complete, ignored") == 2  # where the run looks for one to continue, and at its saves


def test_numbers_sort_as_numbers(whole: TrainingConfig, last: Path, tmp_path: Path) -> None:
    for step in (999, 1000):
        shutil.copytree(last, tmp_path / f"checkpoint-{step}")
    assert resume.newest_checkpoint(tmp_path) == tmp_path / "checkpoint-1000"
    assert TheWorld.from_pretrained(tmp_path).config._name_or_path == str(tmp_path / "checkpoint-1000")
    (tmp_path / "checkpoint-1000" / WEIGHTS).unlink()
    assert TheWorld.from_pretrained(str(tmp_path)).config._name_or_path == str(tmp_path / "checkpoint-999")
    assert TheWorld.from_pretrained(tmp_path, subfolder="checkpoint-999").config.enable_world
    (tmp_path / "checkpoint-999" / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match="no complete checkpoint in this run folder"):
        TheWorld.from_pretrained(tmp_path)


HOLDER = """
import sys
from theworld.utils.folders import locked
from torch.utils.data import DataLoader
from pathlib import Path
with locked(Path(sys.argv[1]), is_main=True):
    loader = iter(DataLoader(range(10**6), num_workers=1))
    next(loader)
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_run_in_the_folder_is_refused_until_the_first_dies(whole: TrainingConfig, tmp_path: Path) -> None:
    run = Path(leave_only(whole, 4, tmp_path / "run"))
    before = {path.name for path in run.iterdir()}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match="another run uses this folder; wait for its end, or choose another folder"):
        continued(whole, output_dir=str(run))
    assert {path.name for path in run.iterdir()} - {".lock"} == before
    with locked(run, is_main=False):  # another rank of the same launch
        pass
    holder.kill()  # its loading process lives on for some seconds
    holder.wait()
    assert continued(whole, output_dir=str(run)).step == 6
    assert not (run / ".lock").exists()


def test_without_any_state_a_checkpoint_starts_a_new_stage(whole: TrainingConfig, last: Path, tmp_path: Path) -> None:
    copy = Path(leave_only(whole, 6, tmp_path)) / "checkpoint-6"
    for pattern in resume.TRAINING_STATE:
        for file in copy.glob(pattern):
            file.unlink()
    result = continued(whole, output_dir=str(tmp_path / "next"), resume_from=str(copy), max_steps=1, warmup_steps=0)
    assert result.step == 1
    weights = [load_file(checkpoint / WEIGHTS) for checkpoint in (last, Path(result.checkpoint or ""))]
    moved = [(weights[0][key] - weights[1][key]).abs().max() for key in weights[0]]
    assert 0 < max(moved) < 0.1


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("file write failed")])
def test_a_full_disk_is_named_and_costs_no_checkpoint(
    whole: TrainingConfig, tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(leave_only(whole, 4, tmp_path))

    def full(*args: Any, **kwargs: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OSError, match=r"checkpoint-5 cannot be written .* GB free"):
            continued(whole, output_dir=str(run))
    assert [path.name for path in resume.checkpoints(run)] == ["checkpoint-4"]
    assert continued(whole, output_dir=str(run)).step == 6


@pytest.mark.parametrize("name", ["runs/nowhere", "/nowhere", "../nowhere/checkpoint-3", "nowhere"])
def test_a_path_that_does_not_exist_is_an_error(whole: TrainingConfig, tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=name):
        continued(whole, output_dir=str(tmp_path), resume_from=name)
    with pytest.raises(FileNotFoundError, match="no complete checkpoint"):
        continued(whole, output_dir=str(tmp_path / "other"), resume_from=str(tmp_path))


def test_a_file_in_place_of_a_checkpoint_is_named(whole: TrainingConfig, last: Path) -> None:
    for key in ("resume_from", "resume_from_checkpoint"):
        with pytest.raises(TheWorldError, match=r"config.json: is a file; name the folder of a checkpoint or of a run"):
            resume.resolve(TrainingConfig(output_dir=whole.output_dir, **{key: str(last / "config.json")}))


def test_auto_without_a_run_starts_one(tmp_path: Path) -> None:
    assert resume.resolve(TrainingConfig(output_dir=str(tmp_path), resume_from=AUTO)) is None


def test_the_state_of_another_place_continues(whole: TrainingConfig, last: Path, tmp_path: Path) -> None:
    """A run folder that was moved, given by its name, goes on in a new folder."""
    moved = leave_only(whole, 2, tmp_path / "moved")
    same_end(continued(whole, output_dir=str(tmp_path / "new"), resume_from=moved), last)


def push(hub: Hub, *names: str) -> None:
    api = HfApi(token=hub.token)
    api.create_repo("tester/run")
    api.create_commit("tester/run", [CommitOperationAdd(name, b"{}") for name in names], commit_message="push")


@pytest.mark.parametrize("folder", ["", "checkpoint-12", "last-checkpoint"])
def test_a_hub_id_means_its_newest_checkpoint(hub: Hub, folder: str) -> None:
    places = ["", "checkpoint-2", folder] if folder.startswith("checkpoint") else ["", folder]
    push(hub, *(f"{place}/{name}".lstrip("/") for place in dict.fromkeys(places) for name in ("config.json", WEIGHTS)))
    found = resume.locate("tester/run")
    assert not resume.missing_files(found)
    assert str(found).endswith(folder)


def test_a_hub_id_without_a_checkpoint_is_an_error(hub: Hub) -> None:
    push(hub, "notes.txt")
    with pytest.raises(FileNotFoundError, match="tester/run: the repository holds no complete checkpoint"):
        resume.locate("tester/run")
    with pytest.raises(FileNotFoundError, match="tester/other: no such checkpoint or run folder here"):
        resume.locate("tester/other")
