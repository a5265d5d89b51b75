"""The whole recipe in a few steps: it runs, resumes, and what it makes loads as the shipped model does."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file

from theworld import TheWorld
from theworld.nano.evaluate import evaluate_nano, results_text
from theworld.nano.recipe import SMOKE, train_nano
from theworld.nano.scenes import load


@pytest.fixture(scope="module")
def recipe_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nano")
    train_nano(folder, SMOKE)
    return folder


def test_the_weights_are_two_base_folders_and_deltas_in_bf16(recipe_folder: Path) -> None:
    weights = recipe_folder / "weights"
    assert {path.name for path in weights.iterdir()} == {"gemma", "cosmos", "theworld", "current_frame", "README.md"}
    for file in weights.rglob("*.safetensors"):
        if "prompt_embeds" not in file.parts:
            # diffusers keeps the transformer's position embeddings in fp32
            tensors = {name: value for name, value in load_file(file).items() if "learnable_pos_embed" not in name}
            assert {value.dtype for value in tensors.values()} == {torch.bfloat16}, file


def test_a_second_call_does_nothing_again(recipe_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def again(*_: object, **__: object) -> None:
        raise AssertionError("a finished stage ran again")

    for stage in ("train_vae", "train_dynamics", "train_vlm", "train_fusion", "generate"):
        monkeypatch.setattr(f"theworld.nano.recipe.{stage}", again)
    train_nano(recipe_folder, SMOKE)


def test_every_arm_is_measured_on_the_same_questions(recipe_folder: Path) -> None:
    weights = recipe_folder / "weights"
    model = TheWorld.from_pretrained(weights / "theworld", dtype=torch.float32)
    control = TheWorld.from_pretrained(weights / "current_frame", dtype=torch.float32)
    results = evaluate_nano(load(recipe_folder / "scenes" / "test"), model, control, per_predictive=3, per_static=2)
    assert len({json.dumps({f: row["n"] for f, row in arm.items()}) for arm in results["predictive"].values()}) == 1
    assert "rollout of another scene" in results_text(results)


def test_a_moved_folder_still_loads(recipe_folder: Path, tmp_path: Path) -> None:
    moved = (recipe_folder / "weights").rename(tmp_path / "elsewhere")
    try:
        model = TheWorld.from_pretrained(moved / "theworld")
        assert isinstance(model.model.world_encoder.vae, AutoencoderKLWan)
    finally:
        moved.rename(recipe_folder / "weights")
