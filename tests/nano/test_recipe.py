"""The whole recipe in a few steps: it runs, resumes, and what it makes loads as the shipped model does."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from theworld.nano.foreign import FOREIGN_ANSWER
from theworld.nano.fusion import CONFIGS, CONVERSATIONS, DRAWS, TURNS, later_present, write_clips, write_conversations
from theworld.nano.kinds import KINDS
from theworld.nano.scenes import load
from theworld.recipes import nano as recipes
from theworld.recipes.nano import ENCODERS, TO_THE_END, fusion_lane, settle, train_nano
from theworld.recipes.nano_config import SMOKE, NanoConfig
from theworld.recipes.package import CONTROLS
from theworld.training.config import TrainingConfig
from theworld.utils.errors import TheWorldError
from theworld.utils.hub import NANO_WEIGHTS
from theworld.utils.io import read_jsonl
from theworld.utils.settings import read_values

# One step of small models on few scenes; tests of each stage train models of the shipped sizes
SMALL: dict[str, Any] = {name: 1 for name in read_values(SMOKE) if name.endswith("_steps")}
SMALL |= {"text": {"num_hidden_layers": 2}, "vision": {"num_hidden_layers": 1}, "transformer": {"num_layers": 1}}
SMALL |= {"train": dict.fromkeys(KINDS, 2), "fusion": dict.fromkeys(KINDS, 2), "test": dict.fromkeys(KINDS, 1)}
FUSIONS = ("theworld", *(f"{CONTROLS}/{name}" for name in ENCODERS))


@pytest.fixture(scope="module")
def recipe_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nano")
    train_nano(folder, NanoConfig.from_file(SMOKE, SMALL))
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
    train_nano(recipe_folder, NanoConfig.from_file(SMOKE, SMALL | {"workers": 2, "device": "cpu"}))


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
            assert (run / "checkpoint-1" / "trainer_state.json").is_file()


def test_gemma_is_tuned_on_the_same_questions_without_a_world(recipe_folder: Path) -> None:
    questions = TrainingConfig.from_file(recipe_folder / "theworld" / "questions" / "config.json").to_dict()
    tuned = TrainingConfig.from_file(recipe_folder / "controls" / "gemma_tuned" / "questions" / "config.json")
    differing = {key for key, value in tuned.to_dict().items() if value != questions[key]}
    world = {"enable_world", "num_world_steps", "train_world_steps", "latent_cache"}
    assert differing == world | {"model_name", "lora", "output_dir"}
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


def test_conversations_are_about_the_first_frame_a_later_one_or_foreign_images(recipe_folder: Path) -> None:
    source = open_source("custom", SourceSettings(path=str(recipe_folder / "conversations" / CONVERSATIONS)))
    rows = [source[index] for index in range(len(source))]
    scenes = load(recipe_folder / "scenes" / "fusion")
    clips = {f"{record['kind']}-{record['seed']}": clip for clip, record in enumerate(scenes.records)}
    about = Counter(row.id.rpartition("-")[2] for row in rows)
    assert {name: about[name] for name in about if name != "foreign"} == dict.fromkeys(
        [*map(str, range(DRAWS)), "later"], len(scenes)
    )
    for row in rows:
        name, _, which = row.id.rpartition("-")
        answers = [message.content for message in row.messages if message.role == "assistant"]
        assert len(answers) <= TURNS
        if which == "foreign":
            assert set(answers) == {FOREIGN_ANSWER}
            continue
        last = scenes.frames.shape[1] - 1
        present = later_present(clips[name], last, seed=0) if which == "later" else 0
        assert np.array_equal(open_image(row.images[0]), scenes.frames[clips[name], present])


def test_conversations_and_clips_of_mirror_images(recipe_folder: Path, tmp_path: Path) -> None:
    scenes = recipe_folder / "scenes" / "fusion"
    write_conversations(scenes, tmp_path / "conversations", labels=1, mirrored=True)
    rows = [*read_jsonl(tmp_path / "conversations" / CONVERSATIONS)]
    mirrored = [row for row in rows if row["id"].endswith("-later-mirrored")]
    assert {row["id"] for row in rows} >= {row["id"].removesuffix("-mirrored") for row in mirrored}
    assert len(mirrored) == len({record["kind"] for record in load(scenes).records})
    for row in mirrored:
        own, usual = (
            open_image(str(tmp_path / "conversations" / name))
            for name in (row["image"], row["image"].replace("-mirrored", ""))
        )
        assert np.array_equal(own, np.asarray(usual)[:, ::-1])
    write_clips(scenes, tmp_path / "clips", mirrored=True)
    clips, usual = (np.load(folder / "clips" / "frames.npy") for folder in (tmp_path, recipe_folder))
    assert np.array_equal(clips.reshape(-1, 2, 2, *clips.shape[1:])[:, 0].reshape(usual.shape), usual)
    assert np.array_equal(clips[2:4], clips[:2, :, :, ::-1])


def test_a_folder_remembers_its_config_and_refuses_another(tmp_path: Path) -> None:
    config = NanoConfig.from_file(SMOKE)
    settle(tmp_path / "recipe.json", config)
    settle(tmp_path / "recipe.json", replace(config, workers=7, device="cpu"))
    with pytest.raises(TheWorldError, match=r"other settings: align_steps \(2 -> 3\), seed \(0 -> 1\); give --config"):
        settle(tmp_path / "recipe.json", replace(config, seed=1, align_steps=3))


def test_a_fusion_looks_as_far_ahead_as_the_clips_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, dict[str, Any]] = {}
    for name in ("start_fusion", "run_stage", "package_delta"):
        monkeypatch.setattr(recipes, name, lambda *args, _name=name, **keys: told.update({_name: keys or args[0]}))
    config = NanoConfig(world_steps=2, image_size=48, question_learning_rate=1e-3, device="cpu")
    for _, stage in fusion_lane(tmp_path, config, "theworld"):
        stage()
    start, questions = told["start_fusion"], told["run_stage"]
    assert (start["world_image_size"], start["num_world_steps"], start["max_world_steps"]) == (48, 2, 2)
    assert questions["train_world_steps"] == [0, 1, *[2] * TO_THE_END]
    assert (questions["num_world_steps"], questions["learning_rate"], questions["use_cpu"]) == (2, 1e-3, True)


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
    options += ["--align_steps", "1", "--question_steps", "1"]
    options += ["--fusion", json.dumps(dict.fromkeys(KINDS, 1))]
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
        assert (model.config.num_world_steps, model.config.trained_steps) == (3, {"projector": 2})
        trained[folder.name] = model.model.world_projector.body.leave.weight
    assert not torch.equal(trained["cosmos_features-0"], trained["cosmos_features-1"])
    # 3. Of the shipped base models
    for base in ("gemma/model.safetensors", "cosmos/transformer/diffusion_pytorch_model.safetensors"):
        assert (tmp_path / "weights" / base).read_bytes() == (NANO_WEIGHTS / base).read_bytes()
