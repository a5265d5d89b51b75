"""The accelerate configs as they are, on as many GPUs as there are, against one process without any of it."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.runs import history, tiny_run
from theworld import TheWorld

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).parents[2]
ALL = {"freeze_gemma_vision": False, "freeze_gemma_language": False}
needs_deepspeed = pytest.mark.skipif(not importlib.util.find_spec("deepspeed"), reason="needs deepspeed")


def launch(config: str, module: str, config_file: Path, *options: str, fails: bool = False) -> None:
    """`accelerate launch`, with the config file's number of processes replaced by the number of GPUs."""
    launcher = ["-m", "accelerate.commands.launch", "--config_file", ROOT / "configs" / "accelerate" / config]
    command = [sys.executable, *launcher, "--num_processes", torch.cuda.device_count(), "--main_process_port", 0]
    command += ["-m", module, "train", "--config", config_file, *options]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert (done.returncode != 0) is fails, done.stderr


def losses(run: Path, step: int = 6) -> list[float]:
    return [loss for (loss,) in history(run / f"checkpoint-{step}", "loss").values()]


@pytest.mark.parametrize(("precision", "tolerance"), [("no", 1e-4), ("bf16", 5e-2)])
@pytest.mark.parametrize(
    "config",
    [
        "multi_gpu_fsdp.yaml",
        pytest.param("deepspeed_zero2.yaml", marks=needs_deepspeed),
        pytest.param("deepspeed_zero3.yaml", marks=needs_deepspeed),
    ],
)
def test_a_launched_run_stops_continues_and_ends_with_the_losses_of_one_process(
    tmp_path: Path, gemma_folder: Path, cosmos_folder: Path, config: str, precision: str, tolerance: float
) -> None:
    keys: dict[str, Any] = {**ALL, "mixed_precision": precision, "gradient_accumulation_steps": 1, "max_steps": 6}
    processes = torch.cuda.device_count()
    one, many = (
        tiny_run(
            tmp_path,
            *(gemma_folder, cosmos_folder),
            **{**keys, "learning_rate": 1e-3, "save_steps": 100},
            batch_size=size,
            output_dir=str(tmp_path / name),
        )
        for name, size in (("one", processes), ("many", 1))
    )
    files = [tmp_path / "one.json", tmp_path / "many.json"]
    for file, run in zip(files, (one, many), strict=True):
        file.write_text(json.dumps(run.to_dict()), encoding="utf-8")
    plain = [sys.executable, "-m", "theworld.cli.main", "train", "--config", str(files[0])]
    subprocess.run(plain, cwd=ROOT, env={**os.environ, "CUDA_VISIBLE_DEVICES": "0"}, check=True, timeout=600)
    launch(config, "tests.training.signalled_run", files[1], fails=True)
    assert [path.name for path in Path(many.output_dir).glob("checkpoint-*")] == ["checkpoint-3"]
    launch(config, "theworld.cli.main", files[1], "--resume_from", "auto")
    assert losses(Path(many.output_dir)) == pytest.approx(losses(Path(one.output_dir)), rel=tolerance)
    TheWorld.from_pretrained(Path(many.output_dir) / "checkpoint-6")
