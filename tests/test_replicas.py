"""The base models by id, from replicas of their repositories: an offline cache, or a Hub that asks for access."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import Gemma3ForConditionalGeneration
from transformers.utils import logging as transformers_logging

from tests.hub_server import Hub
from tests.replicas import (
    COSMOS,
    GEMMA,
    Cache,
    edit_weights,
    publish,
    replica_cache,
    wan22_vae,
    write_cosmos,
    write_gemma,
)
from theworld import TheWorld
from theworld.cli.main import main

WORLD: dict[str, Any] = {"world_image_size": 32, "world_inference_steps": 2, "max_world_steps": 2}
ANSWER: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
QUESTION = "Which bin will the ball land in?"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The two repositories, the second with its text encoder; read them, never write to them."""
    root = tmp_path_factory.mktemp("replicas")
    return {GEMMA: write_gemma(root / "gemma"), COSMOS: write_cosmos(root / "cosmos", text_encoder=True)}


@pytest.fixture
def cache(folders: dict[str, Path], tmp_path: Path) -> Iterator[Cache]:
    """An offline cache of what the default needs: no text encoder."""
    with replica_cache(tmp_path / "home") as cache:
        publish(folders[GEMMA], cache.hub, GEMMA)
        publish_cosmos(folders, cache, tmp_path / "cosmos", without=("text_encoder", "tokenizer"))
        yield cache


def publish_cosmos(folders: dict[str, Path], cache: Cache, work: Path, without: tuple[str, ...] = ()) -> Path:
    """Publish the world model's repository, or a part of it. Returns the folder, to edit and publish again."""
    shutil.copytree(folders[COSMOS], work, ignore=shutil.ignore_patterns(*without), dirs_exist_ok=True)
    publish(work, cache.hub, COSMOS)
    return work


def load(**overrides: Any) -> TheWorld:
    torch.manual_seed(0)
    return TheWorld.from_pretrained(GEMMA, **{**WORLD, **overrides})


def ask(model: TheWorld, image: Image.Image, **overrides: Any) -> str:
    return model.ask(image, QUESTION, use_world=True, **{**ANSWER, **overrides})


def features(model: TheWorld, steps: int, size: tuple[int, int] = (32, 32)) -> torch.Tensor:
    """World tokens (N, D) of a fixed image."""
    pixels = torch.linspace(-1, 1, 3 * size[0] * size[1]).reshape(1, 3, *size)
    with torch.no_grad():
        return model.model.get_world_features(pixels, steps).pooler_output.flatten(0, -2)


# -------------------------------------------------------------------------------------------- the offline cache


def test_gemma_loads_by_its_old_key_names(cache: Cache) -> None:
    model, info = TheWorld.from_pretrained(GEMMA, enable_world=False, output_loading_info=True)
    assert not any(info.values())
    stock = Gemma3ForConditionalGeneration.from_pretrained(GEMMA)
    weights = stock.state_dict()
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_markers_are_the_spare_slots_of_the_real_tokenizer(cache: Cache) -> None:
    model = load()
    config = model.config
    assert (config.start_of_world_token_id, config.end_of_world_token_id, config.world_token_id) == (6, 7, 8)
    ids = torch.tensor([6, 8, 8, 7])
    assert model.processor.decode(ids, skip_special_tokens=True) == ""


@pytest.mark.parametrize("steps", [0, 1])
def test_by_id_without_a_text_encoder(cache: Cache, images: list[Image.Image], steps: int) -> None:
    model = load(num_world_steps=steps)
    assert model.config.cosmos_model_name == COSMOS
    assert len(features(model, steps)) == 16 * (1 + steps)
    assert ask(model, images[0]) == ask(load(num_world_steps=steps), images[0])


def test_rollout_needs_no_text_encoder_when_it_is_asked_for_later(cache: Cache, images: list[Image.Image]) -> None:
    ask(load(), images[0], num_world_steps=1)


@pytest.mark.parametrize("flags", [[], ["--use_world"]], ids=str)
def test_command_answers_by_id(
    cache: Cache,
    images: list[Image.Image],
    tmp_path: Path,
    flags: list[str],
    capsys: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    """A new fusion answers with its world off, unless it is asked for."""
    images[0].save(tmp_path / "image.png")
    command = ["ask", str(tmp_path / "image.png"), QUESTION, "--model", GEMMA, "--num_world_steps", "1"]
    assert main([*command, "--max_new_tokens", "4", "--json", *flags]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["model"] == GEMMA
    assert printed["num_world_steps"] == (1 if flags else None)
    assert any("never trained" in str(warning.message) for warning in recwarn) == (not flags)
    assert isinstance(printed["answer"], str)


def test_checkpoint_keeps_to_the_commits_and_loads_offline(
    cache: Cache, images: list[Image.Image], tmp_path: Path
) -> None:
    model = load(num_world_steps=1)
    model.save_pretrained(tmp_path / "checkpoint")
    saved = json.loads((tmp_path / "checkpoint" / "config.json").read_text(encoding="utf-8"))
    commits = {
        repo: (cache.hub / f"models--{repo.replace('/', '--')}/refs/main").read_text(encoding="utf-8")
        for repo in (GEMMA, COSMOS)
    }
    assert (saved["gemma_model_name"], saved["gemma_revision"]) == (GEMMA, commits[GEMMA])
    assert (saved["cosmos_model_name"], saved["cosmos_revision"]) == (COSMOS, commits[COSMOS])
    assert ask(TheWorld.from_pretrained(tmp_path / "checkpoint"), images[0]) == ask(model, images[0])


# --------------------------------------------------------------------------------------------- rollout prompts


def test_prompt_needs_the_text_encoder(cache: Cache) -> None:
    model = load(world_prompt="a ball falls")
    with pytest.raises(FileNotFoundError, match=f"{COSMOS}.*text_encoder"):
        features(model, 1)


def test_prompt_with_the_text_encoder_offline(cache: Cache, folders: dict[str, Path], tmp_path: Path) -> None:
    silent = features(load(), 1)
    publish_cosmos(folders, cache, tmp_path / "whole")
    told = features(load(world_prompt="a ball falls"), 1)
    assert not torch.equal(silent, told)
    assert torch.equal(told, features(load(world_prompt="a ball falls"), 1))
    kept = list(Path(cache.environment["THEWORLD_CACHE"]).rglob("*.safetensors"))
    assert len(kept) == 1


# ----------------------------------------------------------------------------------------------- wrong weights

FIRST_WEIGHTS = {
    "vae": ("diffusion_pytorch_model.safetensors", "encoder.conv_in."),
    "transformer": ("diffusion_pytorch_model.safetensors", "transformer_blocks.1.attn1.to_q."),
    "text_encoder": ("model.safetensors", "encoder.block.0.layer.0.SelfAttention.q."),
}


@pytest.mark.parametrize("component", FIRST_WEIGHTS)
@pytest.mark.parametrize("wrong", ["missing", "foreign", "misshapen"])
def test_wrong_weights_are_named(
    cache: Cache, folders: dict[str, Path], tmp_path: Path, component: str, wrong: str
) -> None:
    file, weight = FIRST_WEIGHTS[component]
    work = publish_cosmos(folders, cache, tmp_path / "whole")
    changes: dict[str, dict[str, Any]] = {
        "missing": {"remove": weight},
        "foreign": {"add": {"foreign.weight": torch.ones(2, 2)}},
        "misshapen": {"add": {f"{weight}weight": torch.ones(2, 2)}},
    }
    edit_weights(work / component / file, **changes[wrong])
    publish(work, cache.hub, COSMOS)
    named = "foreign.weight" if wrong == "foreign" else f"{weight}weight"
    with pytest.raises(ValueError, match=COSMOS) as error:
        features(load(world_prompt="a ball falls"), 1)
    assert named in str(error.value)
    assert component in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(Path(cache.environment["THEWORLD_CACHE"]).rglob("*.safetensors"))


# ----------------------------------------------------------------------------------- what a full checkpoint takes


def test_full_checkpoint_takes_what_it_uses(
    cache: Cache, folders: dict[str, Path], images: list[Image.Image], tmp_path: Path
) -> None:
    shutil.rmtree(cache.hub / f"models--{COSMOS.replace('/', '--')}")
    publish(write_cosmos(tmp_path / "still", transformer=False), cache.hub, COSMOS)
    model = load(num_world_steps=0)
    answer = ask(model, images[0])
    model.save_pretrained(tmp_path / "full", full=True)
    assert not [path for path in (tmp_path / "full").rglob("*") if path.name in ("transformer", "text_encoder")]
    shutil.rmtree(cache.hub)
    assert ask(TheWorld.from_pretrained(tmp_path / "full"), images[0]) == answer


def test_full_checkpoint_with_a_prompt_needs_no_text_encoder(
    cache: Cache, folders: dict[str, Path], tmp_path: Path
) -> None:
    publish_cosmos(folders, cache, tmp_path / "whole")
    model = load(num_world_steps=1, world_prompt="a ball falls")
    told = features(model, 1)
    model.save_pretrained(tmp_path / "full", full=True)
    shutil.rmtree(cache.hub)
    shutil.rmtree(cache.environment["THEWORLD_CACHE"])
    loaded = TheWorld.from_pretrained(tmp_path / "full")
    assert torch.equal(features(loaded, 1), told)


# ------------------------------------------------------------------------------------------- gated repositories


@pytest.mark.parametrize("refused", [GEMMA, COSMOS])
def test_access_to_both_is_checked_before_weights_are_fetched(
    hub: Hub, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    for repo, folder in folders.items():
        hub.publish(repo, folder, gated=True).granted |= {hub.token} if repo != refused else set()
    monkeypatch.setenv("HF_TOKEN", hub.token)
    with pytest.raises(OSError, match=f"https://huggingface.co/{refused}") as error:
        load()
    assert "accept" in str(error.value)
    assert not [request for request in hub.requests if ".safetensors" in request and "index" not in request]
    hub.repositories[refused].granted.add(hub.token)
    assert len(features(load(), 1)) == 32


def test_access_to_the_world_is_not_needed_without_it(
    hub: Hub, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for repo, folder in folders.items():
        hub.publish(repo, folder, gated=True).granted |= {hub.token} if repo == GEMMA else set()
    monkeypatch.setenv("HF_TOKEN", hub.token)
    TheWorld.from_pretrained(GEMMA, enable_world=False)
    assert not [request for request in hub.requests if COSMOS in request]


# ------------------------------------------------------------------------------------------------ sizes of frames


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_frames_that_are_not_square(cache: Cache, images: list[Image.Image], tmp_path: Path, fit: str) -> None:
    model = load(world_image_size=[32, 48], world_image_fit=fit, num_world_steps=1)
    assert model.config.world_grid == (4, 6)
    assert len(features(model, 1, (32, 48))) == 2 * 4 * 6
    answer = ask(model, images[1])
    model.save_pretrained(tmp_path / "checkpoint")
    loaded = TheWorld.from_pretrained(tmp_path / "checkpoint")
    assert list(loaded.config.world_image_size) == [32, 48]
    assert loaded.config.world_image_fit == fit
    assert ask(loaded, images[1]) == answer


def test_vae_of_another_compression_needs_no_setting(cache: Cache, images: list[Image.Image], tmp_path: Path) -> None:
    publish(write_cosmos(tmp_path / "wan22", vae=wan22_vae()), cache.hub, COSMOS)
    model = load(world_image_size=64, num_world_steps=1)
    assert (model.config.world_latent_channels, model.config.world_spatial_compression) == (48, 16)
    assert model.config.world_grid == (4, 4)
    assert len(features(model, 1, (64, 64))) == 32
    answer = ask(model, images[0])
    model.save_pretrained(tmp_path / "checkpoint")
    assert ask(TheWorld.from_pretrained(tmp_path / "checkpoint"), images[0]) == answer


# --------------------------------------------------------------------------------------------------- device maps

LANGUAGE_PARTS = ("layers", "norm", "rotary_emb")
PLACEMENTS: dict[str, dict[str, Any]] = {
    "auto": {"device_map": "auto", "max_memory": {"cpu": 100_000}},
    "embeddings": {
        "device_map": {
            **dict.fromkeys(("model.vision_tower", "model.multi_modal_projector"), "cpu"),
            **{f"model.language_model.{part}": "cpu" for part in LANGUAGE_PARTS},
            **dict.fromkeys(("model.language_model.embed_tokens", "lm_head"), "disk"),
        }
    },
    "all": {"device_map": {"": "disk"}},
}


@pytest.mark.parametrize("placed", PLACEMENTS)
def test_offloaded_embeddings(cache: Cache, images: list[Image.Image], tmp_path: Path, placed: str) -> None:
    """Every placement works with the stock Gemma 3."""
    whole = load(num_world_steps=1, dtype=torch.float32)
    offload: dict[str, Any] = {"offload_folder": str(tmp_path / "offload"), "dtype": torch.float32}
    model = load(num_world_steps=1, **PLACEMENTS[placed], **offload)
    assert "disk" in model.hf_device_map.values()
    assert model.get_input_embeddings().weight.is_meta
    assert ask(model, images[0]) == ask(whole, images[0])


@pytest.mark.parametrize("full", [False, True])
def test_offloaded_model_is_saved_whole(cache: Cache, images: list[Image.Image], tmp_path: Path, full: bool) -> None:
    offload: dict[str, Any] = {"offload_folder": str(tmp_path / "offload"), "dtype": torch.float32}
    model = load(**PLACEMENTS["auto"], **offload)
    answer = ask(model, images[0])
    model.save_pretrained(tmp_path / "saved", full=full)
    if full:
        shutil.rmtree(cache.hub)
    loaded = TheWorld.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    assert not [name for name, parameter in loaded.named_parameters() if parameter.is_meta]
    assert ask(loaded, images[0]) == answer


def test_progress_bars_are_as_they_were(cache: Cache) -> None:
    shown = transformers_logging.is_progress_bar_enabled()
    load()
    assert transformers_logging.is_progress_bar_enabled() == shown
