"""The whole recipe in a few steps: it runs, resumes, and what it makes loads as the shipped model does."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file

from theworld import TheWorld
from theworld.cli.main import main
from theworld.data.images import open_image
from theworld.data.open_source import open_source
from theworld.data.schema import SourceSettings
from theworld.nano.fusion import CONFIGS, CONVERSATIONS, DRAWS, TURNS
from theworld.nano.scenes import load
from theworld.recipes.nano import ENCODERS, SMOKE, train_nano
from theworld.recipes.package import CONTROLS
from theworld.training.config import TrainingConfig
from theworld.utils.hub import NANO_WEIGHTS

FUSIONS = ("theworld", *(f"{CONTROLS}/{name}" for name in ENCODERS))


@pytest.fixture(scope="module")
def recipe_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nano")
    train_nano(folder, SMOKE)
    return folder


def test_the_weights_are_two_base_folders_and_deltas_in_bf16(recipe_folder: Path) -> None:
    weights = recipe_folder / "weights"
    assert {path.name for path in weights.iterdir()} == {"gemma", "cosmos", "theworld", "controls", "README.md"}
    assert {path.name for path in (weights / "controls").iterdir()} == {*ENCODERS, "gemma_tuned"}
    for file in weights.rglob("*.safetensors"):
        if "prompt_embeds" not in file.parts:
            # diffusers keeps the transformer's position embeddings in fp32
            tensors = {name: value for name, value in load_file(file).items() if "learnable_pos_embed" not in name}
            assert {value.dtype for value in tensors.values()} == {torch.bfloat16}, file


def test_a_second_call_does_nothing_again(recipe_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def again(*_: object, **__: object) -> None:
        raise AssertionError("a finished stage ran again")

    stages = (
        "train_vae",
        "train_dynamics",
        "train_vlm",
        "start_fusion",
        "write_conversations",
        "generate",
        "run_stage",
    )
    for stage in stages:
        monkeypatch.setattr(f"theworld.recipes.nano.{stage}", again)
    train_nano(recipe_folder, SMOKE)


def test_a_package_holds_the_model_alone(recipe_folder: Path) -> None:
    for name in FUSIONS:
        files = {path.name for path in (recipe_folder / "weights" / name).iterdir()}
        assert files == {path.name for path in (NANO_WEIGHTS / name).iterdir()}


def test_the_stages_are_ordinary_configs(recipe_folder: Path) -> None:
    for stage in ("align", "questions"):
        shipped = TrainingConfig.from_file(CONFIGS / f"{stage}.json")
        for name in FUSIONS:
            run = recipe_folder / name / stage
            ran = TrainingConfig.from_file(run / "config.json")
            differing = {key for key, value in ran.to_dict().items() if value != getattr(shipped, key)}
            paths = {"model_name", "train_dataset_path", "latent_cache", "output_dir"}
            control = {"true_future_share"} if stage == "align" and name != "theworld" else set()
            assert differing == paths | {"max_steps"} | control
            assert (run / "checkpoint-2" / "trainer_state.json").is_file()


def test_gemma_is_tuned_on_the_same_questions_without_a_world(recipe_folder: Path) -> None:
    questions = TrainingConfig.from_file(recipe_folder / "theworld" / "questions" / "config.json").to_dict()
    tuned = TrainingConfig.from_file(recipe_folder / "controls" / "gemma_tuned" / "questions" / "config.json")
    differing = {key for key, value in tuned.to_dict().items() if value != questions[key]}
    assert differing == {"model_name", "enable_world", "num_world_steps", "latent_cache", "lora", "output_dir"}
    assert tuned.enable_world is False


def test_gemma_is_tuned_with_as_many_parameters_as_the_projector_has() -> None:
    sizes = {}
    for name in ("theworld", "controls/gemma_tuned"):
        tensors = load_file(NANO_WEIGHTS / name / "model.safetensors")
        sizes[name] = sum(value.numel() for value in tensors.values())
    assert abs(sizes["controls/gemma_tuned"] / sizes["theworld"] - 1) < 0.1


def test_every_control_looks_at_what_it_says(recipe_folder: Path) -> None:
    for name, kind in ENCODERS.items():
        model = TheWorld.from_pretrained(recipe_folder / "weights" / "controls" / name, dtype=torch.float32)
        assert model.config.world_encoder == kind


def test_conversations_ask_what_will_happen_once_and_what_is(recipe_folder: Path) -> None:
    rows = open_source("custom", SourceSettings(path=str(recipe_folder / "conversations" / CONVERSATIONS)))
    scenes = load(recipe_folder / "scenes" / "fusion")
    assert len(rows) == DRAWS * len(scenes)
    for index in range(len(rows)):
        row, record = rows[index], scenes.records[index // DRAWS]
        assert np.array_equal(open_image(row.images[0]), scenes.frames[index // DRAWS, 0])
        answers = [message.content for message in row.messages if message.role == "assistant"]
        assert len(answers) <= TURNS
        assert all(outcome in answers for outcome in record["outcomes"].values())


def test_a_moved_folder_still_loads(recipe_folder: Path, tmp_path: Path) -> None:
    moved = (recipe_folder / "weights").rename(tmp_path / "elsewhere")
    try:
        model = TheWorld.from_pretrained(moved / "theworld")
        assert isinstance(model.model.world_encoder.vae, AutoencoderKLWan)
    finally:
        moved.rename(recipe_folder / "weights")


def test_fusions_of_the_shipped_models_differ_in_encoder_and_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # 1. The command trains them, and a second time finds all of them there
    options = ["--world_encoder", "still", "cosmos_features", "--seed", "0", "1", "--smoke"]
    assert main(["nano", "fuse", str(tmp_path), *options]) == 0
    monkeypatch.setattr("theworld.recipes.nano.run_stage", pytest.fail)
    assert main(["nano", "fuse", str(tmp_path), *options]) == 0
    folders = [tmp_path / "weights" / f"{kind}-{seed}" for seed in (0, 1) for kind in ("still", "cosmos_features")]
    assert capsys.readouterr().out.splitlines() == [f"weights in {folder}" for folder in folders] * 2
    # 2. What they are
    trained: dict[str, torch.Tensor] = {}
    for folder in folders:
        model = TheWorld.from_pretrained(folder)
        assert model.config.world_encoder == folder.name.partition("-")[0]
        assert (model.config.num_world_steps, model.config.trained_steps) == (2, {"projector": 4})
        trained[folder.name] = model.model.world_projector.body.leave.weight
    assert not torch.equal(trained["cosmos_features-0"], trained["cosmos_features-1"])
    # 3. Of the shipped base models
    for base in ("gemma/model.safetensors", "cosmos/transformer/diffusion_pytorch_model.safetensors"):
        assert (tmp_path / "weights" / base).read_bytes() == (NANO_WEIGHTS / base).read_bytes()
