"""A signal ends a run at the end of its step, with a checkpoint; the next start loses nothing."""

import enum
import importlib.util
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from transformers import TrainerControl, TrainerState, TrainingArguments

from tests.processes import CONTEXT, theworld
from tests.training.runs import history, tiny_run
from tests.training.signalled_run import STEP, Signalled
from theworld.cli.main import main
from theworld.training import run
from theworld.training.preemption import SIGNALS, PreemptionCallback


def test_a_signalled_run_saves_stops_and_continues_exactly(
    tmp_path: Path, gemma_folder: Path, cosmos_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_run(tmp_path, gemma_folder, cosmos_folder, save_steps=100)
    whole = run.train(tiny_run(tmp_path, gemma_folder, cosmos_folder, output_dir=str(tmp_path / "whole")))
    assert not whole.stopped
    before = [signal.getsignal(number) for number in SIGNALS]
    with monkeypatch.context() as patch:
        patch.setattr(run, "PreemptionCallback", Signalled)
        arguments = [f"--{key}={value}" for key, value in config.to_dict().items() if value is not None]
        assert main(["train", *arguments, "--log_to_tensorboard=false"]) == 75
    assert [path.name for path in Path(config.output_dir).glob("checkpoint-*")] == [f"checkpoint-{STEP}"]
    assert [signal.getsignal(number) for number in SIGNALS] == before
    rest = run.train(tiny_run(tmp_path, gemma_folder, cosmos_folder, save_steps=100, resume_from="auto"))
    assert (rest.stopped, rest.step) == (False, whole.step)
    assert rest.step > STEP
    assert history(str(rest.checkpoint)) == history(str(whole.checkpoint))


@pytest.mark.parametrize("number", SIGNALS)
def test_both_signals_count_only_while_training_runs(number: signal.Signals, tmp_path: Path) -> None:
    callback, control = PreemptionCallback(), TrainerControl()
    given: Any = (TrainingArguments(output_dir=str(tmp_path), use_cpu=True), TrainerState(), control)
    before = signal.getsignal(number)
    callback.on_train_begin(*given)
    callback.on_step_end(*given)
    assert not control.should_save
    signal.raise_signal(number)
    assert not control.should_training_stop  # only at the end of the step
    callback.on_step_end(*given)
    assert control.should_save
    assert control.should_training_stop
    assert callback.received is number
    assert callback.stopped
    callback.on_train_end(*given)
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    callback = PreemptionCallback()
    given: Any = (TrainingArguments(output_dir=str(tmp_path), use_cpu=True), TrainerState(), TrainerControl())
    callback.on_train_begin(*given)
    try:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with monkeypatch.context() as patch:  # a launcher passes on the Ctrl-C that its processes got already
            patch.setattr(dist, "is_initialized", lambda: True)
            signal.raise_signal(signal.SIGINT)
    finally:
        callback.on_train_end(*given)


def as_in_a_terminal(stderr: Path, *arguments: str) -> None:
    """`theworld <arguments>` in a process group of its own, whose stderr is a file."""
    os.setsid()
    with stderr.open("w", buffering=1, encoding="utf-8") as sys.stderr:
        theworld(*arguments)


def test_ctrl_c_reaches_the_loading_processes_too_and_the_run_saves(
    tmp_path: Path, gemma_folder: Path, cosmos_folder: Path
) -> None:
    config = tiny_run(tmp_path, gemma_folder, cosmos_folder, num_epochs=2000, save_steps=10**6, num_workers=1)
    (tmp_path / "run.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
    stderr = tmp_path / "stderr"
    stderr.touch()
    command = (stderr, "train", "--config", str(tmp_path / "run.json"))
    process = CONTEXT.Process(target=as_in_a_terminal, args=command)
    process.start()
    assert process.pid is not None
    try:
        while "step 2/" not in stderr.read_text(encoding="utf-8"):
            assert process.is_alive(), stderr.read_text(encoding="utf-8")
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        process.join(timeout=120)
    finally:
        process.kill()
    assert process.exitcode == 75
    (saved,) = Path(config.output_dir).glob("checkpoint-*")
    assert int(saved.name.split("-")[1]) >= 2


def test_where_a_system_lacks_sigusr1_sigterm_is_handled(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.find_spec(PreemptionCallback.__module__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with monkeypatch.context() as patch:
        patch.delattr(signal, "SIGUSR1")
        patch.setattr(signal, "Signals", enum.IntEnum("Signals", {"SIGTERM": signal.SIGTERM}))
        spec.loader.exec_module(module)
    assert module.SIGNALS == (signal.SIGTERM,)


def test_a_trainer_in_another_thread_runs_without_handlers(tmp_path: Path) -> None:
    callback, before = PreemptionCallback(), signal.getsignal(signal.SIGUSR1)
    given: Any = (TrainingArguments(output_dir=str(tmp_path), use_cpu=True), TrainerState(), TrainerControl())
    thread = threading.Thread(target=callback.on_train_begin, args=given)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGUSR1) is before
    callback.on_step_end(*given)
    assert not callback.stopped
