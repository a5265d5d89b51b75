"""Adapters live in the config and the delta: they train alone, load through every door, and merge away."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, Gemma3ForConditionalGeneration

from tests.model.conftest import Load
from tests.model.helpers import assistant, component_of, encode, load_world, user
from theworld import TheWorld, TheWorldConfig
from theworld.model.checkpoints.delta import delta_names
from theworld.model.components import component_sizes

LORA: dict[str, Any] = {"r": 2, "alpha": 8, "target_modules": ["q_proj", "down_proj"]}

Batch = dict[str, Any]


@pytest.fixture(scope="module")
def batch(world: TheWorld, images: list[Image.Image]) -> Batch:
    """A prompt with an image and its answer."""
    chat = [user("Which bin will the ball land in?", images[0]), assistant("The red bin.")]
    inputs = encode(world.processor, chat, add_generation_prompt=False)
    return {**inputs, "labels": inputs["input_ids"]}


def train(model: TheWorld, batch: Batch, steps: int = 2) -> set[str]:
    """Take steps with what is trainable; returns the names of what moved."""
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    for _ in range(steps):  # the first leaves A where it is, since B is zero
        optimizer.zero_grad()
        model(**batch, supervised_logits_only=True).loss.backward()
        optimizer.step()
    model.zero_grad()
    model.eval()
    return {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}


@torch.no_grad()
def logits(model: Any, batch: Batch) -> torch.Tensor:
    return model(**batch).logits


@pytest.fixture(scope="module")
def trained(load: Load, batch: Batch) -> TheWorld:
    """A model whose projector and adapters have learned something; save it, do not train it."""
    model = load(lora=LORA)
    train(model, batch)
    return model


@pytest.fixture(scope="module")
def saved(trained: TheWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its checkpoint; read it, never write to it."""
    folder = tmp_path_factory.mktemp("lora")
    trained.save_pretrained(folder)
    return folder


# -------------------------------------------------------------------------------------------------------- training


def test_fresh_adapters_change_nothing(load: Load, world: TheWorld, batch: Batch) -> None:
    assert torch.equal(logits(load(lora=LORA), batch), logits(world, batch))


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ({}, {"projector", "language_lora"}),
        ({"freeze_language_lora": True}, {"projector"}),
        ({"freeze_gemma_vision": False}, {"projector", "vision", "language_lora"}),
        ({"freeze_gemma_language": False}, {"projector", "language", "language_lora"}),
    ],
    ids=["default", "adapters frozen", "vision too", "language too"],
)
def test_what_trains(load: Load, batch: Batch, flags: dict[str, bool], parts: set[str]) -> None:
    model = load(lora=LORA, **flags)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {component_of(name) for name in trainable} == parts
    assert train(model, batch) == trainable
    assert set(model.config.trained_steps or ()) == parts


def test_table_counts_the_adapters(trained: TheWorld, world: TheWorld) -> None:
    rows = {line.split()[0]: line.split()[1:3] for line in trained.parameter_table().splitlines()[1:]}
    text = world.config.get_text_config()
    layers, width, inner = text.num_hidden_layers, text.hidden_size, text.intermediate_size
    heads = text.num_attention_heads * text.head_dim
    expected = LORA["r"] * layers * (width + heads + inner + width)
    assert rows["language_lora"] == [f"{expected:,}", f"{expected:,}"]
    assert rows["language"] == ["0", f"{component_sizes(world)['language'].total:,}"]


def test_adapters_of_a_bf16_model_may_be_in_fp32(load: Load, batch: Batch, tmp_path: Path) -> None:
    model = load(lora=LORA, dtype=torch.bfloat16)
    adapters = {name: p for name, p in model.named_parameters() if component_of(name) == "language_lora"}
    assert {parameter.dtype for parameter in adapters.values()} == {torch.bfloat16}
    for parameter in adapters.values():
        parameter.data = parameter.data.float()
    train(model, batch)
    model.save_pretrained(tmp_path)
    loaded = dict(TheWorld.from_pretrained(tmp_path).named_parameters())
    for name, parameter in adapters.items():
        assert loaded[name].dtype == torch.float32
        assert torch.equal(loaded[name], parameter)
    assert loaded["model.language_model.layers.0.self_attn.k_proj.weight"].dtype == torch.bfloat16


def test_dropout_is_for_training(load: Load, batch: Batch) -> None:
    model = load(lora={**LORA, "dropout": 0.5})
    train(model, batch)
    assert torch.equal(logits(model, batch), logits(model, batch))
    model.train()
    assert not torch.equal(logits(model, batch), logits(model, batch))


# ----------------------------------------------------------------------------------------------------- checkpoints


def test_round_trip_through_every_door(trained: TheWorld, saved: Path, batch: Batch) -> None:
    expected = logits(trained, batch)
    for door in (TheWorld, AutoModelForImageTextToText):
        loaded = door.from_pretrained(saved)
        assert torch.equal(logits(loaded, batch), expected)
        assert loaded.config.lora == trained.config.lora
        trainable = {component_of(name) for name, parameter in loaded.named_parameters() if parameter.requires_grad}
        assert trainable == {"projector", "language_lora"}


def test_delta_holds_projector_and_adapters(trained: TheWorld, saved: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    assert {component_of(name) for name in tensors} == {"projector", "language_lora"}
    assert sorted(tensors) == sorted(delta_names(trained))
    assert not any("base_layer" in name for name in tensors)


def test_weights_below_the_adapters_keep_their_names(load: Load, batch: Batch, tmp_path: Path) -> None:
    """The language model trained whole, then with adapters on top: one delta holds both."""
    whole = load(freeze_gemma_language=False)
    train(whole, batch)
    whole.save_pretrained(tmp_path / "whole")
    model = TheWorld.from_pretrained(tmp_path / "whole", lora=LORA, freeze_gemma_language=True)
    assert torch.equal(logits(model, batch), logits(whole, batch))
    moved = train(model, batch)
    assert {component_of(name) for name in moved} == {"projector", "language_lora"}
    model.save_pretrained(tmp_path / "both")
    tensors = load_file(tmp_path / "both" / "model.safetensors")
    assert {component_of(name) for name in tensors} == {"projector", "language", "language_lora"}
    assert "model.language_model.layers.0.self_attn.q_proj.weight" in tensors
    assert torch.equal(logits(TheWorld.from_pretrained(tmp_path / "both"), batch), logits(model, batch))


def test_standalone_folder_has_a_stock_gemma(
    trained: TheWorld, gemma_folder: Path, batch: Batch, tmp_path: Path
) -> None:
    trained.save_pretrained(tmp_path, full=True)
    assert torch.equal(logits(TheWorld.from_pretrained(tmp_path), batch), logits(trained, batch))
    ours, theirs = load_file(tmp_path / "gemma" / "model.safetensors"), load_file(gemma_folder / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    Gemma3ForConditionalGeneration.from_pretrained(tmp_path / "gemma")


def test_gathered_state_is_what_is_written(trained: TheWorld, tmp_path: Path) -> None:
    state = {name: torch.ones_like(value) for name, value in trained.state_dict().items()}
    trained.save_pretrained(tmp_path, state_dict=state)
    assert all((value == 1).all() for value in load_file(tmp_path / "model.safetensors").values())


def test_load_checkpoint_reads_adapters(
    load: Load, trained: TheWorld, saved: Path, batch: Batch, tmp_path: Path
) -> None:
    trained.save_checkpoint(tmp_path)
    fresh = load(lora=LORA)
    fresh.load_checkpoint(tmp_path)
    assert torch.equal(logits(fresh, batch), logits(trained, batch))


def test_adapters_stay_with_the_world_turned_off(trained: TheWorld, saved: Path, batch: Batch) -> None:
    off = TheWorld.from_pretrained(saved, enable_world=False)
    given = encode(off.processor, [user("What colour is the ball?")])
    assert torch.equal(logits(off, given), logits(trained, given))


def test_frozen_adapters_survive_the_next_stage(trained: TheWorld, saved: Path, batch: Batch, tmp_path: Path) -> None:
    model = TheWorld.from_pretrained(saved, freeze_language_lora=True)
    assert {component_of(name) for name in train(model, batch)} == {"projector"}
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(TheWorld.from_pretrained(tmp_path), batch), logits(model, batch))
    kept = load_file(tmp_path / "model.safetensors")
    before = load_file(saved / "model.safetensors")
    assert all(torch.equal(kept[name], before[name]) for name in before if component_of(name) == "language_lora")


def test_three_stages(gemma_folder: Path, cosmos_folder: Path, batch: Batch, tmp_path: Path) -> None:
    """Projection, then vision, then the language model by adapters: each from the last one's folder."""
    stages: list[tuple[dict[str, Any], set[str]]] = [
        ({}, {"projector"}),
        ({"freeze_gemma_vision": False}, {"projector", "vision"}),
        ({"freeze_gemma_vision": True, "lora": LORA}, {"projector", "language_lora"}),
        ({"freeze_language_lora": True}, {"projector"}),
    ]
    model = load_world(gemma_folder, cosmos_folder)
    for number, (settings, trains) in enumerate(stages):
        if number:
            before = logits(model, batch)
            model = TheWorld.from_pretrained(tmp_path / str(number - 1), **settings)
            assert torch.equal(logits(model, batch), before)
        moved = train(model, batch)
        assert {component_of(name) for name in moved} == trains
        model.save_pretrained(tmp_path / str(number))
    assert TheWorld.config_class.from_pretrained(tmp_path / "3").changed == ["projector", "vision", "language_lora"]
    assert torch.equal(logits(TheWorld.from_pretrained(tmp_path / "3"), batch), logits(model, batch))
    first, last = (load_file(tmp_path / number / "model.safetensors") for number in ("1", "3"))
    for name in first:
        assert component_of(name) != "vision" or torch.equal(first[name], last[name]), name


# ---------------------------------------------------------------------------------------------------------- merging


def test_merged_adapters_answer_alike(saved: Path, trained: TheWorld, batch: Batch, tmp_path: Path) -> None:
    model = TheWorld.from_pretrained(saved)
    model.merge_lora()
    torch.testing.assert_close(logits(model, batch), logits(trained, batch), rtol=1e-5, atol=1e-5)
    assert not any("lora" in name or "base_layer" in name for name, _ in model.named_parameters())
    assert model.config.lora is None
    assert {component_of(name) for name, p in model.named_parameters() if p.requires_grad} == {"projector"}
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert {component_of(name) for name in tensors} == {"projector", "language"}
    merged = [name for name in tensors if component_of(name) == "language"]
    assert all(name.split(".")[-2] in LORA["target_modules"] for name in merged)
    assert torch.equal(logits(TheWorld.from_pretrained(tmp_path), batch), logits(model, batch))
    again = TheWorld.from_pretrained(tmp_path, lora=LORA)
    assert torch.equal(logits(again, batch), logits(model, batch))


def test_a_merged_model_stands_alone_as_gemma(saved: Path, tmp_path: Path) -> None:
    model = TheWorld.from_pretrained(saved)
    model.merge_lora()
    model.save_pretrained(tmp_path, full=True)
    stock = Gemma3ForConditionalGeneration.from_pretrained(tmp_path / "gemma")
    given = encode(model.processor, [user("What colour is the ball?")])
    assert torch.equal(logits(stock, given), logits(model, given))


def test_nothing_to_merge(load: Load) -> None:
    with pytest.raises(ValueError, match="no adapters"):
        load().merge_lora()


# ---------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"rank": 4}, "lora has rank: expected r, alpha, dropout, target_modules"),
        ({"r": 0}, "lora r=0"),
        ({"r": 2.5}, "lora r=2.5"),
        ({"alpha": 0}, "lora alpha=0"),
        ({"dropout": 1.0}, "lora dropout=1.0"),
        ({"target_modules": []}, r"lora target_modules=\[\]"),
        ({"target_modules": [3]}, r"lora target_modules=\[3\]"),
    ],
)
def test_settings_out_of_range(lora: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TheWorldConfig(lora=lora)


def test_defaults_are_written_down() -> None:
    assert TheWorldConfig().lora is None
    assert TheWorldConfig(lora={"r": 4}).lora == {
        "r": 4,
        "alpha": 32,
        "dropout": 0.0,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    }


@pytest.mark.parametrize(
    ("targets", "layers"),
    [("all-linear", 7), (r"layers\.1\..*\.v_proj", 1), ([r"q_proj"], 1)],
)
def test_ways_to_name_layers(load: Load, targets: Any, layers: int) -> None:
    model = load(lora={"r": 2, "target_modules": targets})
    per_layer = [name for name, _ in model.named_parameters() if ".layers.1." in name and ".lora_A." in name]
    assert len(per_layer) == layers
    assert not any("lora" in name for name, _ in model.named_parameters() if "language_model" not in name)


@pytest.mark.parametrize("targets", [["nothing"], ["q_proj", "embed_tokens"]])
def test_layers_that_take_no_adapter(load: Load, targets: list[str]) -> None:
    with pytest.raises(ValueError, match=targets[-1]):
        load(lora={"target_modules": targets})


@pytest.mark.parametrize("change", [{"r": 4}, {"alpha": 1}, {"target_modules": ["q_proj"]}])
def test_other_adapters_than_the_saved_ones(saved: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="leave lora out") as error:
        TheWorld.from_pretrained(saved, lora={**LORA, **change})
    assert str(saved) in str(error.value)


def test_same_adapters_with_another_dropout(saved: Path, trained: TheWorld, batch: Batch) -> None:
    model = TheWorld.from_pretrained(saved, lora={**LORA, "dropout": 0.5})
    assert torch.equal(logits(model, batch), logits(trained, batch))


def test_adapters_cannot_be_dropped(saved: Path) -> None:
    with pytest.raises(ValueError, match="lora=None"):
        TheWorld.from_pretrained(saved, lora=None)


def test_without_peft_one_line_says_what_to_install(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r'`peft` is not installed.*"theworld\[train\]"'):
        TheWorld.from_pretrained(saved)


# ------------------------------------------------------------------------------------------ adapters of the user's


def test_users_adapters_are_saved_by_peft(load: Load, batch: Batch, tmp_path: Path) -> None:
    import peft

    model = load()
    config = peft.LoraConfig(
        r=2,
        target_modules=r"model\.language_model\..*q_proj",
        init_lora_weights=False,
        modules_to_save=["world_projector"],
    )
    wrapped = peft.get_peft_model(model, config).eval()
    with pytest.raises(ValueError, match="has an adapter that PEFT added"):
        model.save_pretrained(tmp_path / "ours")
    assert not (tmp_path / "ours").exists()
    wrapped.save_pretrained(tmp_path / "theirs")
    again = peft.PeftModel.from_pretrained(load(), tmp_path / "theirs").eval()
    assert torch.equal(logits(again, batch), logits(wrapped, batch))


def test_unloaded_adapters_of_the_user_are_gone(load: Load, batch: Batch, tmp_path: Path) -> None:
    import peft

    model = load()
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=r"model\.language_model\..*q_proj"))
    wrapped.unload().save_pretrained(tmp_path)
    assert torch.equal(logits(TheWorld.from_pretrained(tmp_path), batch), logits(model, batch))
