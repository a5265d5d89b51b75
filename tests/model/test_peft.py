"""What PEFT or a user's own hands did to the weights is in the checkpoint, or saving is refused."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import nn

from tests.model.conftest import Load
from tests.model.helpers import assistant, encode, user
from theworld import TheWorld
from theworld.constants import NANO

peft = pytest.importorskip("peft")

ATTENTION = r"model\.language_model\.layers\.\d+\.self_attn\.(q|v)_proj"


@pytest.fixture(scope="module")
def batch(world: TheWorld, images: list[Image.Image]) -> Any:
    chat = [user("Hi?", images[0]), assistant("A ball.")]
    given = encode(world.processor, chat, add_generation_prompt=False)
    return {**given, "labels": given["input_ids"]}


@pytest.fixture(scope="module")
def fresh(world: TheWorld, batch: Any) -> torch.Tensor:
    """How the default model answers."""
    return logits(world, batch)


@pytest.fixture(scope="module")
def fresh_keys(world: TheWorld, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the tensors in a checkpoint of the default model."""
    return saved_keys_of(world, tmp_path_factory.mktemp("fresh"))


def trained(model: TheWorld, batch: Any, **settings: Any) -> Any:
    """The model in PEFT's wrapper, after three optimiser steps."""
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, **settings))
    optimizer = torch.optim.AdamW([p for p in wrapped.parameters() if p.requires_grad], lr=5e-2)
    for _ in range(3):
        wrapped.train()(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return wrapped.eval()


def logits(model: Any, batch: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**{key: value for key, value in batch.items() if key != "labels"}).logits


def assert_reloads(model: TheWorld, batch: Any, folder: Path, fresh: torch.Tensor) -> TheWorld:
    """What was saved answers as `model` does, which is not how it answered before it was changed; returns it."""
    expected = logits(model, batch)
    assert not torch.allclose(expected, fresh, atol=1e-3)
    model.save_pretrained(folder)
    again = TheWorld.from_pretrained(folder)
    torch.testing.assert_close(logits(again, batch), expected, rtol=1e-5, atol=1e-5)
    return again


def saved_keys(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return set(file.keys())


# -------------------------------------------------------------------------------------------------------- merging


@pytest.mark.parametrize("safe_merge", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ATTENTION},
        {"target_modules": ATTENTION, "modules_to_save": ["world_projector"]},
        {"target_modules": ATTENTION, "use_dora": True},
        {"target_modules": r".*vision_tower.*\.(q|v)_proj"},
    ],
    ids=["attention", "attention and projector", "DoRA", "vision"],
)
def test_merged_adapters_are_saved(
    load: Load, fresh: torch.Tensor, batch: Any, tmp_path: Path, settings: dict[str, Any], safe_merge: bool
) -> None:
    wrapped = trained(load(), batch, **settings)
    expected = logits(wrapped, batch)
    merged = wrapped.merge_and_unload(safe_merge=safe_merge)
    torch.testing.assert_close(logits(merged, batch), expected, rtol=1e-3, atol=1e-3)
    assert_reloads(merged, batch, tmp_path, fresh)


def test_only_what_was_merged_is_added_to_the_delta(load: Load, batch: Any, tmp_path: Path) -> None:
    model = load()
    model.save_pretrained(tmp_path / "before")
    target = "model.language_model.layers.0.self_attn.q_proj"
    merged = trained(model, batch, target_modules=[target]).merge_and_unload()
    merged.save_pretrained(tmp_path / "after")
    assert saved_keys(tmp_path / "after") - saved_keys(tmp_path / "before") == {f"{target}.weight"}
    assert saved_keys(tmp_path / "before") <= saved_keys(tmp_path / "after")


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_merged_embeddings_are_saved_or_refused(
    load: Load, fresh: torch.Tensor, batch: Any, tmp_path: Path, target: str
) -> None:
    merged = trained(load(), batch, target_modules=[target]).merge_and_unload()
    try:
        merged.save_pretrained(tmp_path)
    except ValueError as error:
        assert "lm_head" in str(error) or "embed" in str(error)  # noqa: PT017
        return
    assert_reloads(merged, batch, tmp_path, fresh)


def test_an_untied_head_is_refused(load: Load, batch: Any, tmp_path: Path) -> None:
    merged = trained(load(), batch, target_modules=ATTENTION, modules_to_save=["lm_head"]).merge_and_unload()
    assert merged.lm_head.weight is not merged.get_input_embeddings().weight
    with pytest.raises(ValueError, match="lm_head"):
        merged.save_pretrained(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()


def test_resized_embeddings_are_refused(load: Load, tmp_path: Path) -> None:
    model = load()
    model.resize_token_embeddings(model.get_input_embeddings().weight.shape[0] + 8)
    with pytest.raises(ValueError, match="embed"):
        model.save_pretrained(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()


# ----------------------------------------------------------------------------------------------- changes by hand


def bump(weight: torch.Tensor) -> torch.Tensor:
    """A change that no normalisation takes back."""
    return torch.linspace(-1, 1, weight.numel()).reshape(weight.shape)


def add_in_place(weight: nn.Parameter) -> None:
    with torch.no_grad():
        weight.add_(bump(weight))


def add_to_data(weight: nn.Parameter) -> None:
    weight.data += bump(weight)  # as PEFT merges: torch counts no new version of the parameter


def replace_data(weight: nn.Parameter) -> None:
    weight.data = weight.data + bump(weight)


def train_and_freeze_again(weight: nn.Parameter) -> None:
    weight.requires_grad_(True)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    (weight * bump(weight)).sum().backward()
    optimizer.step()
    weight.requires_grad_(False)
    weight.grad = None


@pytest.mark.parametrize("change", [add_in_place, add_to_data, replace_data, train_and_freeze_again])
@pytest.mark.parametrize(
    "name",
    [
        "model.language_model.layers.1.mlp.up_proj.weight",
        "model.vision_tower.encoder.layers.0.mlp.fc1.weight",
        "model.multi_modal_projector.mm_input_projection_weight",
        "model.world_encoder.vae.encoder.conv_in.weight",
    ],
)
def test_a_weight_changed_by_hand_is_saved(
    load: Load,
    fresh: torch.Tensor,
    fresh_keys: set[str],
    batch: Any,
    tmp_path: Path,
    name: str,
    change: Callable[[nn.Parameter], None],
) -> None:
    model = load()
    change(model.get_parameter(name))
    again = assert_reloads(model, batch, tmp_path / "after", fresh)
    assert saved_keys(tmp_path / "after") - fresh_keys == {name}
    assert saved_keys_of(again, tmp_path / "again") == saved_keys(tmp_path / "after")  # though nothing changed since


def saved_keys_of(model: TheWorld, folder: Path) -> set[str]:
    model.save_pretrained(folder)
    return saved_keys(folder)


def test_another_weight_object_is_saved(load: Load, fresh: torch.Tensor, batch: Any, tmp_path: Path) -> None:
    model = load()
    mlp: Any = model.model.language_model.layers[0].mlp
    mlp.up_proj.weight = nn.Parameter(mlp.up_proj.weight + bump(mlp.up_proj.weight), requires_grad=False)
    assert_reloads(model, batch, tmp_path, fresh)


# ---------------------------------------------------------------------------------------------- adapters on disk


@pytest.mark.parametrize("source", [NANO, "folder"])
def test_an_adapter_names_the_theworld_checkpoint(tmp_path: Path, source: str) -> None:
    if source == "folder":
        TheWorld.from_pretrained(NANO).save_pretrained(tmp_path / "saved")
        source = str(tmp_path / "saved")
    model = TheWorld.from_pretrained(source)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=ATTENTION, init_lora_weights=False))
    wrapped.save_pretrained(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == source

    ids = torch.arange(20, 32)[None]
    text = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    base = TheWorld.from_pretrained(config["base_model_name_or_path"])
    assert not torch.allclose(logits(base, text), logits(wrapped, text), atol=1e-3)
    again = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    torch.testing.assert_close(logits(again, text), logits(wrapped, text), rtol=1e-5, atol=1e-5)
    load_by_config = peft.AutoPeftModel.from_pretrained
    newest = "import_allowlist" in inspect.signature(load_by_config).parameters
    auto = load_by_config(str(tmp_path / "adapter"), **({"import_allowlist": ["theworld"]} if newest else {}))
    torch.testing.assert_close(logits(auto, text), logits(wrapped, text), rtol=1e-5, atol=1e-5)
