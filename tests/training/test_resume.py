"""A run that dies loses nothing but the steps since its last save."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.runs import history, tiny_run
from theworld.training.run import train

LORA = {"r": 2, "alpha": 4, "dropout": 0.3, "target_modules": ["q_proj", "v_proj"]}


@pytest.mark.parametrize("survivor", [2, 3, 4], ids=["mid-epoch", "end of an epoch", "second epoch"])
def test_resumed_run_equals_the_undisturbed_one(
    tmp_path: Path, gemma_folder: Path, cosmos_folder: Path, survivor: int
) -> None:
    whole = tiny_run(tmp_path, gemma_folder, cosmos_folder, save_steps=1)
    undisturbed = train(whole)
    assert undisturbed.step == 6
    expected = history(undisturbed.checkpoint)
    assert len(set(expected.values())) == 6
    died = tmp_path / "died"
    shutil.copytree(Path(whole.output_dir) / f"checkpoint-{survivor}", died / f"checkpoint-{survivor}")
    resumed = train(
        tiny_run(tmp_path, gemma_folder, cosmos_folder, save_steps=1, output_dir=str(died), resume_from="auto")
    )
    assert history(resumed.checkpoint) == expected
    ours, theirs = (load_file(Path(result.checkpoint) / "model.safetensors") for result in (resumed, undisturbed))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs.keys() | ours.keys())
