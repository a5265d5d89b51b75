"""A checkpoint holds what differs from the base models, and loads to the same logits or says why not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, Gemma3ForConditionalGeneration

from tests import tiny
from tests.model.conftest import Load
from tests.model.helpers import WORLD, assistant, component_of, encode, load_world, user
from theworld import TheWorld, TheWorldConfig
from theworld.model.checkpoints.delta import delta_names
from theworld.utils.hub import Source

Example = dict[str, Any]


@pytest.fixture(scope="module")
def example(world: TheWorld, images: list[Image.Image]) -> Any:
    """A prompt with a rollout, and labels."""
    chat = [user("Which bin will the ball land in?", images[0]), assistant("The red bin.")]
    inputs = encode(world.processor, chat, add_generation_prompt=False, num_world_steps=1)
    return {**inputs, "labels": inputs["input_ids"]}


def train(model: TheWorld, example: Example, optimizer: torch.optim.Optimizer | None = None, steps: int = 1) -> None:
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = optimizer or torch.optim.AdamW(trainable, lr=1e-2)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(**example).loss.backward()
        optimizer.step()
    model.zero_grad()
    model.eval()


@pytest.fixture(scope="module")
def trained(load: Load, example: Example) -> TheWorld:
    """A model whose projector has learned something; save it, do not train it."""
    model = load()
    train(model, example)
    return model


@pytest.fixture(scope="module")
def saved(trained: TheWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its checkpoint; read it, never write to it."""
    folder = tmp_path_factory.mktemp("checkpoint")
    trained.save_pretrained(folder)
    return folder


@pytest.fixture
def damaged(saved: Path, tmp_path: Path) -> Callable[[Callable[[dict[str, torch.Tensor]], None]], Path]:
    """A copy of the checkpoint with its tensors changed."""

    def change(edit: Callable[[dict[str, torch.Tensor]], None]) -> Path:
        folder = tmp_path / "damaged"
        shutil.copytree(saved, folder)
        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        save_file(tensors, folder / "model.safetensors")
        return folder

    return change


def same_logits(first: TheWorld, second: TheWorld, example: Example) -> bool:
    return torch.equal(first(**example).logits, second(**example).logits)


# ------------------------------------------------------------------------------------------------------- deltas


def test_round_trip(trained: TheWorld, saved: Path, example: Example, load: Load) -> None:
    loaded = TheWorld.from_pretrained(saved)
    assert same_logits(loaded, trained, example)
    assert not same_logits(loaded, load(), example)  # the fresh model that it was
    assert not loaded.training
    assert isinstance(AutoModelForImageTextToText.from_pretrained(saved), TheWorld)


def test_delta_holds_the_projector_alone(saved: Path, trained: TheWorld) -> None:
    tensors = load_file(saved / "model.safetensors")
    assert {component_of(name) for name in tensors} == {"projector"}
    parameters = dict(trained.named_parameters())
    assert all(torch.equal(tensors[name], parameters[name]) for name in tensors)
    assert {path.suffix for path in saved.iterdir()} <= {".json", ".jinja", ".safetensors", ".md", ".model", ".py"}


def test_card_names_models_and_licences(saved: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    card = (saved / "README.md").read_text(encoding="utf-8")
    for text in (gemma_folder.name, cosmos_folder.name, "Gemma", "Terms of Use", "NVIDIA Open Model Licen"):
        assert text in card
    assert str(gemma_folder.parent) not in card
    assert "license: mit" not in card.lower()
    assert "apache" not in card.lower()


def test_card_of_the_user_stays(trained: TheWorld, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine", encoding="utf-8")
    trained.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "mine"


def test_shards(trained: TheWorld, example: Example, tmp_path: Path) -> None:
    trained.save_pretrained(tmp_path, max_shard_size="2KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert same_logits(TheWorld.from_pretrained(tmp_path), trained, example)


def test_no_shard_of_an_earlier_save_stays(trained: TheWorld, example: Example, tmp_path: Path) -> None:
    for size in ("2KB", "5GB", "3KB"):
        trained.save_pretrained(tmp_path, max_shard_size=size)
        shards = {path.name for path in tmp_path.glob("model*.safetensors")}
        index = tmp_path / "model.safetensors.index.json"
        named = (
            set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            if index.exists()
            else {"model.safetensors"}
        )
        assert shards == named
        assert same_logits(TheWorld.from_pretrained(tmp_path), trained, example)


def test_gathered_state_is_what_is_written(trained: TheWorld, tmp_path: Path) -> None:
    state = {name: torch.zeros_like(value) for name, value in trained.state_dict().items()}
    trained.save_pretrained(tmp_path, state_dict=state)
    assert not any(value.any() for value in load_file(tmp_path / "model.safetensors").values())


def test_only_the_main_process_writes(trained: TheWorld, tmp_path: Path) -> None:
    trained.save_pretrained(tmp_path / "nothing", is_main_process=False)
    assert not (tmp_path / "nothing").exists()


def test_unknown_keyword_of_saving(trained: TheWorld, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="ful_l"):
        trained.save_pretrained(tmp_path, ful_l=True)


def test_saving_leaves_the_model_alone(trained: TheWorld, tmp_path: Path) -> None:
    before = trained.config.to_dict()
    trained.save_pretrained(tmp_path / "delta")
    trained.save_pretrained(tmp_path / "full", full=True)
    assert trained.config.to_dict() == before


def test_bf16_round_trip(load: Load, images: list[Image.Image], tmp_path: Path) -> None:
    model = load(dtype=torch.bfloat16)
    inputs = encode(model.processor, [user("Hi?", images[0])])
    model.save_pretrained(tmp_path)
    loaded = TheWorld.from_pretrained(tmp_path)
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    assert TheWorld.from_pretrained(tmp_path, dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize("vision", [False, True])
def test_what_trained_in_fp32_beside_a_bf16_base_stays_exact(
    load: Load, images: list[Image.Image], tmp_path: Path, vision: bool
) -> None:
    model = load(dtype=torch.bfloat16, freeze_gemma_vision=not vision)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float() + 1e-3  # no bf16 number
    inputs = encode(model.processor, [user("Hi?", images[0])])
    model.save_pretrained(tmp_path)
    loaded = TheWorld.from_pretrained(tmp_path)
    assert loaded.get_input_embeddings().weight.dtype == torch.bfloat16
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    cast = TheWorld.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in cast.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    "settings",
    [
        {"world_position": "before_image", "world_attention": "bidirectional"},
        {"world_pooling": 2, "projector": "transformer", "projector_hidden_size": 16},
        {"world_unpooling": 2, "projector": "transformer", "projector_hidden_size": 16},
        {"world_seed": 7, "world_inference_steps": 2, "world_guidance_scale": 2.0, "world_prompt": "a ball"},
        {"world_encoder": "still", "num_world_steps": 2},
    ],
    ids=str,
)
def test_settings_round_trip(load: Load, images: list[Image.Image], tmp_path: Path, settings: dict[str, Any]) -> None:
    model = load(**settings)
    inputs = encode(model.processor, [user("Hi?", images[0])], num_world_steps=1)
    model.save_pretrained(tmp_path)
    loaded = TheWorld.from_pretrained(tmp_path)
    again = encode(loaded.processor, [user("Hi?", images[0])], num_world_steps=1)
    assert all(torch.equal(again[name], inputs[name]) for name in inputs)
    assert torch.equal(loaded(**again).logits, model(**inputs).logits)


# ------------------------------------------------------------------------------------------------ base models


@pytest.fixture
def bases(gemma_folder: Path, cosmos_folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Base models of one's own, to move and delete."""
    return (
        Path(shutil.copytree(gemma_folder, tmp_path / "hub" / "gemma")),
        Path(shutil.copytree(cosmos_folder, tmp_path / "hub" / "cosmos")),
    )


@pytest.mark.parametrize("padded", [False, True])
def test_full_save_stands_alone(
    bases: tuple[Path, Path], example: Example, tmp_path: Path, images: list[Image.Image], padded: bool
) -> None:
    if padded:  # as NVIDIA's weights have it
        shutil.rmtree(bases[1] / "transformer")
        tiny.tiny_transformer(concat_padding_mask=True).save_pretrained(bases[1] / "transformer")
    model = load_world(*bases, freeze_gemma_vision=False)
    train(model, example)
    model.save_pretrained(tmp_path / "full", full=True)
    shutil.rmtree(tmp_path / "hub")
    (tmp_path / "full").rename(tmp_path / "moved")
    loaded = TheWorld.from_pretrained(tmp_path / "moved")
    assert same_logits(loaded, model, example)
    stock = Gemma3ForConditionalGeneration.from_pretrained(tmp_path / "moved" / "gemma")
    plain = encode(model.processor, [user("Hi?", images[0])], use_world=False)
    assert torch.equal(stock(**plain).logits, model(**plain, use_world=False).logits)


def test_full_save_is_written_over_by_a_delta(bases: tuple[Path, Path], example: Example, tmp_path: Path) -> None:
    model = load_world(*bases)
    model.save_pretrained(tmp_path / "x", full=True)
    train(model, example)
    model.save_pretrained(tmp_path / "x")
    assert same_logits(TheWorld.from_pretrained(tmp_path / "x"), model, example)


@pytest.mark.parametrize("folder", ["full", "link"])
def test_a_delta_does_not_replace_the_base_models_that_it_needs(
    bases: tuple[Path, Path], example: Example, tmp_path: Path, folder: str
) -> None:
    load_world(*bases, num_world_steps=1).save_pretrained(tmp_path / "full", full=True)
    (tmp_path / "link").symlink_to(tmp_path / "full")
    model = TheWorld.from_pretrained(tmp_path / "full")
    train(model, example)
    with pytest.raises(ValueError, match="holds the base models of this checkpoint; save with full=True"):
        model.save_pretrained(tmp_path / folder)
    model.save_pretrained(tmp_path / folder, full=True)
    assert (tmp_path / "link").is_symlink()
    assert same_logits(TheWorld.from_pretrained(tmp_path / "full"), model, example)


def test_delta_of_a_standalone_model(bases: tuple[Path, Path], example: Example, tmp_path: Path) -> None:
    load_world(*bases, num_world_steps=1).save_pretrained(tmp_path / "full", full=True)
    model = TheWorld.from_pretrained(tmp_path / "full")
    train(model, example)
    model.save_pretrained(tmp_path / "delta")
    assert same_logits(TheWorld.from_pretrained(tmp_path / "delta"), model, example)


def test_relative_names_of_the_bases(bases: tuple[Path, Path], example: Example, tmp_path: Path) -> None:
    model = load_world(*bases)
    model(**example)  # all of it is in memory
    checkpoint = bases[0].parent / "runs" / "stage1"
    model.save_pretrained(checkpoint)
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    names = {"gemma_model_name": "../../gemma", "cosmos_model_name": "../../cosmos"}
    (checkpoint / "config.json").write_text(json.dumps({**config, **names}), encoding="utf-8")
    (tmp_path / "hub").rename(tmp_path / "elsewhere")
    assert same_logits(TheWorld.from_pretrained(tmp_path / "elsewhere" / "runs" / "stage1"), model, example)


@pytest.mark.parametrize(
    ("checkpoint", "name", "expected"),
    [
        (Source("org/x"), "./gemma", Source("org/x", "gemma")),
        (Source("org/x", "stage1", "v1"), "./gemma", Source("org/x", "stage1/gemma", "v1")),
        (Source("org/x", "stage1", "v1"), "../gemma", Source("org/x", "gemma", "v1")),
        (Source("org/x", "stage1", "v1"), "org/y", Source("org/y", "", "v2")),
    ],
)
def test_relative_names_on_the_hub(checkpoint: Source, name: str, expected: Source) -> None:
    assert checkpoint.relative(name, "", "v2") == expected


def test_full_checkpoint_on_the_hub(bases: tuple[Path, Path], example: Example, tmp_path: Path) -> None:
    """In the hub's cache as a download leaves it: a standalone model, and a delta that was trained from it."""
    model = load_world(*bases, num_world_steps=1)
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "cache" / "models--org--x" / "snapshots" / commit
    model.save_pretrained(snapshot / "runs" / "stage1", full=True)
    reference = tmp_path / "cache" / "models--org--x" / "refs" / "main"
    reference.parent.mkdir()
    reference.write_text(commit, encoding="utf-8")
    shutil.rmtree(tmp_path / "hub")
    cache = {"cache_dir": tmp_path / "cache"}
    for name in ("runs/stage1", "runs/stage1/model.safetensors", "runs/stage1/config.json"):
        assert same_logits(TheWorld.from_checkpoint_hub("org/x", name, **cache), model, example)
    loaded = TheWorld.from_pretrained("org/x", subfolder="runs/stage1", **cache)
    assert loaded.config.gemma_revision == loaded.config.cosmos_revision == commit
    train(loaded, example)
    loaded.save_pretrained(tmp_path / "delta")
    assert same_logits(TheWorld.from_pretrained(tmp_path / "delta", **cache), loaded, example)


def test_local_folder_of_checkpoints(saved: Path, trained: TheWorld, example: Example, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "run" / "checkpoint-2")
    for name in ("checkpoint-2", "checkpoint-2/model.safetensors"):
        assert same_logits(TheWorld.from_checkpoint_hub(str(tmp_path / "run"), name), trained, example)
    with pytest.raises(OSError, match="checkpoint-3"):
        TheWorld.from_checkpoint_hub(str(tmp_path / "run"), "checkpoint-3")


def test_base_in_a_subfolder(bases: tuple[Path, Path], example: Example, tmp_path: Path) -> None:
    model = load_world(bases[0].parent, bases[1], subfolder="gemma")
    model.save_pretrained(tmp_path / "delta")
    assert same_logits(TheWorld.from_pretrained(tmp_path / "delta"), model, example)


# ------------------------------------------------------------------------------------------------------ stages


def test_three_stages(load: Load, example: Example, tmp_path: Path) -> None:
    """Weights of an earlier stage stay in every later checkpoint, also when frozen again."""
    stages: list[dict[str, bool]] = [
        {},
        {"freeze_gemma_vision": False},
        {"freeze_gemma_vision": True, "freeze_gemma_language": False},
        {"freeze_gemma_vision": True, "freeze_gemma_language": True, "freeze_cosmos_vae": False},
        {"freeze_cosmos_vae": True},
    ]
    held = [
        {"projector"},
        {"projector", "vision"},
        {"projector", "vision", "language"},
        {"projector", "vision", "language", "vae_encoder"},
        {"projector", "vision", "language", "vae_encoder"},
    ]
    model = load()
    for number, (flags, components) in enumerate(zip(stages, held, strict=True)):
        if number:
            model = TheWorld.from_pretrained(tmp_path / f"stage{number - 1}", **flags)
        before = {name: parameter.clone() for name, parameter in model.named_parameters()}
        train(model, example)
        assert any(not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
        model.save_pretrained(tmp_path / f"stage{number}")
        assert {
            component_of(name) for name in load_file(tmp_path / f"stage{number}" / "model.safetensors")
        } == components
        assert same_logits(TheWorld.from_pretrained(tmp_path / f"stage{number}"), model, example)


def test_tied_head_is_saved_once(load: Load, example: Example, tmp_path: Path) -> None:
    model = load(freeze_gemma_language=False)
    train(model, example)
    model.save_pretrained(tmp_path)
    loaded = TheWorld.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    assert same_logits(loaded, model, example)


# ---------------------------------------------------------------------------------------------------- keywords


def test_keywords_override_what_was_saved(saved: Path) -> None:
    settings = {"num_world_steps": 2, "world_seed": 5, "freeze_gemma_vision": False, "world_guidance_scale": 3.0}
    model = TheWorld.from_pretrained(saved, **settings)
    assert {name: getattr(model.config, name) for name in settings} == settings
    assert model.processor.num_world_steps == 2
    assert model.model.world_encoder.seed == 5
    assert any(p.requires_grad for p in model.model.vision_tower.parameters())
    assert not any(p.requires_grad for p in model.model.language_model.parameters())


def test_world_of_a_checkpoint_turned_off(saved: Path, gemma_folder: Path, example: Example) -> None:
    model = TheWorld.from_pretrained(saved, enable_world=False)
    stock = Gemma3ForConditionalGeneration.from_pretrained(gemma_folder).eval()
    plain = {name: example[name][:, -20:] for name in ("input_ids", "attention_mask", "token_type_ids")}
    assert torch.equal(model(**plain).logits, stock(**plain).logits)
    assert model.get_trainable_parameters()[0] == 0


def test_another_length_of_the_time_embedding_is_an_error(saved: Path) -> None:
    with pytest.raises(
        ValueError, match=r"misshapen: model\.world_projector\.time_embedding \(5, 1, 1, 32\) instead of"
    ):
        TheWorld.from_pretrained(saved, max_world_steps=8)


@pytest.mark.parametrize("name", ["base", "checkpoint"])
def test_unknown_keyword_of_loading(saved: Path, gemma_folder: Path, cosmos_folder: Path, name: str) -> None:
    folder = gemma_folder if name == "base" else saved
    with pytest.raises(TypeError, match="num_wrld_steps"):
        load_world(folder, cosmos_folder, num_wrld_steps=1)


def test_loading_info(saved: Path) -> None:
    model, info = TheWorld.from_pretrained(saved, output_loading_info=True)
    assert isinstance(model, TheWorld)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


# ------------------------------------------------------------------------------------------ what does not fit


def test_missing_key_is_named(damaged: Any) -> None:
    folder = damaged(lambda tensors: tensors.pop("model.world_markers.weight"))
    with pytest.raises(ValueError, match=r"missing: model\.world_markers\.weight"):
        TheWorld.from_pretrained(folder)


def test_unexpected_key_is_named(damaged: Any) -> None:
    folder = damaged(lambda tensors: tensors.update({"model.world_projektor.weight": torch.zeros(2)}))
    with pytest.raises(ValueError, match=r"unexpected: model\.world_projektor\.weight"):
        TheWorld.from_pretrained(folder)


def test_misshapen_key_is_named(damaged: Any) -> None:
    folder = damaged(lambda tensors: tensors.update({"model.world_markers.weight": torch.zeros(3, 4)}))
    with pytest.raises(ValueError, match=r"misshapen: model\.world_markers\.weight \(3, 4\) instead of \(2, 32\)"):
        TheWorld.from_pretrained(folder)


def test_every_wrong_key_is_listed(damaged: Any) -> None:
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.old_markers"] = tensors.pop("model.world_markers.weight")
        tensors["model.world_projector.time_embedding"] = torch.zeros(1)

    with pytest.raises(ValueError, match=r"missing: .*world_markers.*; unexpected: .*old_markers; misshapen: .*time_"):
        TheWorld.from_pretrained(damaged(rename))


def test_keys_of_another_component_are_unexpected(damaged: Any) -> None:
    """Weights that the config does not speak of are not loaded in silence."""
    name = "model.vision_tower.encoder.layers.0.layer_norm1.weight"
    folder = damaged(lambda tensors: tensors.update({name: torch.zeros(16)}))
    with pytest.raises(ValueError, match=r"unexpected: model\.vision_tower"):
        TheWorld.from_pretrained(folder)


@pytest.mark.parametrize("kept", [0, 10, 1000])
def test_truncated_file(saved: Path, tmp_path: Path, kept: int) -> None:
    shutil.copytree(saved, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"model\.safetensors: damaged"):
        TheWorld.from_pretrained(tmp_path / "cut")


def test_missing_shard(trained: TheWorld, tmp_path: Path) -> None:
    trained.save_pretrained(tmp_path, max_shard_size="2KB")
    sorted(tmp_path.glob("model-*.safetensors"))[0].unlink()
    with pytest.raises((OSError, ValueError), match="model-00001"):
        TheWorld.from_pretrained(tmp_path)


def test_missing_weights(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "empty")
    (tmp_path / "empty" / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        TheWorld.from_pretrained(tmp_path / "empty")


@pytest.fixture
def no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a pickle was opened")

    monkeypatch.setattr(torch, "load", refuse)


@pytest.mark.usefixtures("no_pickle")
def test_pickled_checkpoint_is_not_read(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "pickled")
    weights = tmp_path / "pickled" / "model.safetensors"
    torch.save(load_file(weights), tmp_path / "pickled" / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="only safetensors"):
        TheWorld.from_pretrained(tmp_path / "pickled")


@pytest.mark.usefixtures("no_pickle")
@pytest.mark.parametrize(
    ("base", "weights", "pickle"),
    [
        ("gemma", "model.safetensors", "pytorch_model.bin"),
        ("cosmos", "vae/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.bin"),
        ("cosmos", "transformer/diffusion_pytorch_model.safetensors", "transformer/diffusion_pytorch_model.bin"),
        ("cosmos", "text_encoder/model.safetensors", "text_encoder/pytorch_model.bin"),
    ],
)
def test_pickled_base_is_not_read(
    bases: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    base: str,
    weights: str,
    pickle: str,
) -> None:
    monkeypatch.setenv("THEWORLD_CACHE", str(tmp_path / "cache"))
    folder, frame = bases[0].parent / base, torch.zeros(1, 3, 32, 32)
    torch.save(load_file(folder / weights), folder / pickle)
    (folder / weights).unlink()
    with pytest.raises(OSError, match="safetensors"):
        load_world(*bases, num_world_steps=1, world_prompt="a ball").model.get_world_features(frame, 1)


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", None])
def test_base_that_is_no_gemma_3(cosmos_folder: Path, tmp_path: Path, model_type: str | None) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": model_type} if model_type else {"vocab_size": 3}), encoding="utf-8"
    )
    with pytest.raises(ValueError, match=rf"model type {model_type!r}; expected a Gemma 3 with vision"):
        load_world(tmp_path, cosmos_folder)


def test_base_that_does_not_exist(gemma_folder: Path, cosmos_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        load_world(tmp_path / "absent", cosmos_folder)
    with pytest.raises((OSError, ValueError), match="absent"):
        load_world(gemma_folder, tmp_path / "absent")


def test_base_with_other_weights_than_its_config(bases: tuple[Path, Path]) -> None:
    config = json.loads((bases[0] / "config.json").read_text(encoding="utf-8"))
    config["text_config"]["num_hidden_layers"] = 4
    config["text_config"]["layer_types"].append("full_attention")
    (bases[0] / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match=r"missing keys: .*layers\.3"):
        load_world(*bases)


def test_world_folder_without_a_vae(bases: tuple[Path, Path]) -> None:
    shutil.rmtree(bases[1] / "vae")
    with pytest.raises(ValueError, match=r"cosmos: no vae/config\.json there"):
        load_world(*bases)


def test_vae_of_another_shape(bases: tuple[Path, Path], tmp_path: Path) -> None:
    """A new fusion takes the sizes of its encoder; a checkpoint, and a caller who states them, must agree."""
    load_world(*bases).save_pretrained(tmp_path / "checkpoint")
    tiny.tiny_vae(latent_channels=4).save_pretrained(bases[1] / "vae")
    assert load_world(*bases).config.world_latent_channels == 4
    for load in (
        lambda: TheWorld.from_pretrained(tmp_path / "checkpoint"),
        lambda: load_world(*bases, world_latent_channels=16),
    ):
        with pytest.raises(ValueError, match="world_latent_channels=16 but 4 in its files"):
            load()


def test_tokenizer_without_spare_slots(bases: tuple[Path, Path]) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = bases[0] / name
        path.write_text(path.read_text(encoding="utf-8").replace("<unused1>", "<taken1>"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"lacks the spare slots <unused1>"):
        load_world(*bases)


def test_a_checkpoint_without_a_processor_takes_that_of_its_gemma(bases: tuple[Path, Path], tmp_path: Path) -> None:
    saved = load_world(*bases)
    saved.save_pretrained(tmp_path / "checkpoint")
    files = [path for path in (tmp_path / "checkpoint").iterdir() if "token" in path.name or "processor" in path.name]
    for path in files[1:]:
        path.unlink()
    with pytest.raises((ValueError, OSError), match="checkpoint"):  # one that has lost a part of it is refused
        TheWorld.from_pretrained(tmp_path / "checkpoint")
    files[0].unlink()
    loaded = TheWorld.from_pretrained(tmp_path / "checkpoint")
    assert loaded.processor.tokenizer.get_vocab() == saved.processor.tokenizer.get_vocab()
    assert loaded.processor.chat_template == saved.processor.chat_template


# --------------------------------------------------------------------------------- save_checkpoint, load_checkpoint


def test_training_goes_on_exactly(load: Load, example: Example, tmp_path: Path) -> None:
    flags = {"freeze_gemma_vision": False}

    def optimizer_of(model: TheWorld) -> torch.optim.AdamW:
        groups = [
            {"params": [p for n, p in model.named_parameters() if p.requires_grad and "vision" not in n]},
            {"params": [p for n, p in model.named_parameters() if p.requires_grad and "vision" in n], "lr": 1e-3},
        ]
        return torch.optim.AdamW(groups, lr=1e-2, betas=(0.8, 0.9))

    model = load(**flags)
    optimizer = optimizer_of(model)
    train(model, example, optimizer, steps=2)
    model.save_checkpoint(tmp_path, optimizer, epoch=3)
    train(model, example, optimizer, steps=2)

    resumed = load(**flags)
    fresh = optimizer_of(resumed)
    assert resumed.load_checkpoint(tmp_path, fresh) == {"epoch": 3}
    assert fresh.param_groups[1]["lr"] == 1e-3
    train(resumed, example, fresh, steps=2)
    ours = dict(resumed.named_parameters())
    assert all(torch.equal(ours[name], parameter) for name, parameter in model.named_parameters())

    forgetful = load(**flags)
    forgetful.load_checkpoint(tmp_path)
    train(forgetful, example, optimizer_of(forgetful), steps=2)
    assert not same_logits(forgetful, model, example)  # the optimiser's state matters


def test_checkpoint_is_a_checkpoint(trained: TheWorld, example: Example, tmp_path: Path) -> None:
    trained.save_checkpoint(tmp_path)
    assert same_logits(TheWorld.from_pretrained(tmp_path), trained, example)
    assert trained.load_checkpoint(tmp_path) == {"epoch": None}
    assert not list(tmp_path.rglob("*.bin")) + list(tmp_path.rglob("*.pt"))


def test_checkpoint_of_another_stage(load: Load, trained: TheWorld, example: Example, tmp_path: Path) -> None:
    trained.save_checkpoint(tmp_path)
    model = load(freeze_gemma_vision=False)
    train(model, example)
    with pytest.raises(ValueError, match="missing: "):
        model.load_checkpoint(tmp_path)


# -------------------------------------------------------------------------------------------------------- size


def test_delta_of_a_4b_model_is_small() -> None:
    """The shapes of Gemma 3 4B and of the default projector, on no device."""
    text = {
        "vocab_size": 262208,
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "sliding_window": 1024,
    }
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 896,
        "patch_size": 14,
        "vision_use_head": False,
    }
    with torch.device("meta"):
        model = TheWorld(TheWorldConfig(text_config=text, vision_config=vision))
    parameters = dict(model.named_parameters())
    assert sum(parameter.numel() for parameter in parameters.values()) > 4e9
    assert model.config.world_tokens(0) == 784
    held = sum(parameters[name].numel() for name in delta_names(model))
    assert held * 4 < 80e6  # bytes, in float32


def test_world_settings_are_small_too(saved: Path) -> None:
    assert WORLD.items() <= json.loads((saved / "config.json").read_text(encoding="utf-8")).items()
    assert sum(path.stat().st_size for path in saved.iterdir() if path.name.startswith("model")) < 20_000


# ------------------------------------------------------------------------------------------------- version 0.1


def test_checkpoint_of_version_0_1(saved: Path, trained: TheWorld, example: Example, tmp_path: Path) -> None:
    """Its config lists components that ever trained, and has none of the later fields."""
    old = Path(shutil.copytree(saved, tmp_path / "old"))
    config = json.loads((old / "config.json").read_text(encoding="utf-8"))
    for name in ("changed", "trained_steps", "world_image_fit", "world_negative_prompt", "auto_map"):
        config.pop(name, None)
    (old / "config.json").write_text(
        json.dumps({**config, "trained_components": ["projector"], "world_prompt": ""}), encoding="utf-8"
    )
    processor = json.loads((old / "processor_config.json").read_text(encoding="utf-8"))
    for name in ("auto_map", "fusion", "world_image_fit"):
        processor.pop(name, None)
    (old / "processor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    (old / "theworld_auto.py").unlink()
    for loaded in (TheWorld.from_pretrained(old), AutoModelForImageTextToText.from_pretrained(old)):
        assert loaded.config.world_image_fit == loaded.processor.world_image_fit == "squash"
        assert loaded.config.world_prompt == ""  # the text encoder's, not "no text"
        assert loaded.world_is_trained
        plain = {name: value for name, value in example.items() if name != "world_pixel_values"}
        latents = trained.model.world_encoder.encode(example["world_pixel_values"], 1)  # type: ignore[union-attr]
        given = {**plain, "world_latents": latents}
        assert torch.equal(loaded(**given).logits, trained(**given).logits)
        loaded.save_pretrained(tmp_path / "new")
        assert json.loads((tmp_path / "new" / "config.json").read_text(encoding="utf-8"))["changed"] == ["projector"]


# ------------------------------------------------------------------------------- a card that was there, other settings


def test_a_card_that_nobody_edited_is_written_again(load: Load, example: Example, tmp_path: Path) -> None:
    model, card = load(), tmp_path / "README.md"
    model.save_pretrained(tmp_path)
    before = card.read_text(encoding="utf-8")
    train(model, example)
    model.save_pretrained(tmp_path)
    after = card.read_text(encoding="utf-8")
    assert "| optimiser steps | projector: 1 |" in before
    assert "| optimiser steps | projector: 1 |" not in after
    for edited in (f"{after}mine", after.replace("What happens next?", "Where?"), after.rpartition("<!--")[0]):
        card.write_text(edited, encoding="utf-8")
        train(model, example)
        model.save_pretrained(tmp_path)
        assert card.read_text(encoding="utf-8") == edited


def test_load_checkpoint_takes_over_the_steps(load: Load, tmp_path: Path) -> None:
    model, other = load(), load()
    model.config.trained_steps = {"projector": 41}
    model.save_checkpoint(tmp_path / "trained")
    other.load_checkpoint(tmp_path / "trained")
    assert other.config.trained_steps == {"projector": 41}
    fresh = TheWorld.from_pretrained(tmp_path / "trained")
    fresh.config.trained_steps = {}
    with torch.no_grad():
        fresh.model.world_projector.output_norm.weight += 1  # type: ignore[union-attr]
    fresh.fresh_tensors = {}  # so that these count as the values it was made with
    fresh.save_checkpoint(tmp_path / "fresh")
    other.load_checkpoint(tmp_path / "fresh")
    assert not other.world_is_trained


def test_load_checkpoint_refuses_other_world_tokens(load: Load, tmp_path: Path) -> None:
    load(world_image_fit="pad", world_seed=77, world_image_size=[32, 32]).save_checkpoint(tmp_path)
    model = load()
    before = {name: value.clone() for name, value in model.named_parameters()}
    with pytest.raises(
        ValueError, match=r"world_image_fit='pad' but 'crop', world_seed=77 but 0 in this model"
    ) as error:
        model.load_checkpoint(tmp_path)
    assert "\n" not in str(error.value)
    assert "world_image_size" not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    load(world_image_fit="pad", world_seed=77).load_checkpoint(tmp_path)
