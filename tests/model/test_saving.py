"""What a save writes is decided by comparison with the base models, and a folder is never left half written."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from tests.hub_server import Hub
from tests.model.conftest import Load
from tests.model.helpers import component_of, encode, user
from theworld import TheWorld, TheWorldConfig
from theworld.utils import folders
from theworld.utils.tensors import sampled

MATRIX = "model.language_model.layers.1.mlp.down_proj.weight"


def held(folder: Path) -> set[str]:
    return {name for name in load_file(folder / "model.safetensors") if component_of(name) != "projector"}


def logits(model: TheWorld, images: list[Image.Image]) -> torch.Tensor:
    inputs = encode(model.processor, [user("Which bin will the ball land in?", images[0])], num_world_steps=1)
    return model(**inputs).logits


def by_operation(weight: torch.Tensor) -> None:
    with torch.no_grad():
        weight[0, 0] += 1


def by_data(weight: torch.Tensor) -> None:
    weight.data[0, 0] += 1


def by_new_data(weight: torch.Tensor) -> None:
    weight.data = weight.data + 1


@pytest.mark.parametrize("edit", [by_operation, by_data, by_new_data])
@pytest.mark.parametrize(
    "name",
    [
        MATRIX,
        "model.language_model.embed_tokens.weight",
        "model.multi_modal_projector.mm_input_projection_weight",
        "model.world_encoder.vae.decoder.conv_in.weight",
        "model.world_encoder.transformer.patch_embed.proj.weight",
    ],
)
def test_a_weight_edited_by_hand_is_saved(
    load: Load, images: list[Image.Image], tmp_path: Path, name: str, edit: Any
) -> None:
    model = load(num_world_steps=1)
    edit(model.get_parameter(name))
    model.save_pretrained(tmp_path)
    assert held(tmp_path) == {name}
    assert name in json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["changed"]
    loaded = TheWorld.from_pretrained(tmp_path)
    assert torch.equal(loaded.get_parameter(name), model.get_parameter(name))
    assert torch.equal(logits(loaded, images), logits(model, images))
    loaded.save_pretrained(tmp_path / "again")
    assert held(tmp_path / "again") == {name}


def test_what_is_unfrozen_or_put_back_is_not_saved(load: Load, tmp_path: Path) -> None:
    model = load(freeze_gemma_vision=False)
    weight = model.get_parameter(MATRIX)
    before = weight.clone()
    with torch.no_grad():
        weight += 1
        weight.copy_(before)
    model.requires_grad_(True)
    model.save_pretrained(tmp_path)
    assert held(tmp_path) == set()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_cast_is_no_change(load: Load, tmp_path: Path, dtype: torch.dtype) -> None:
    load().to(dtype).save_pretrained(tmp_path)
    assert held(tmp_path) == set()


def test_a_merge_while_training_is_seen(load: Load, tmp_path: Path) -> None:
    """Without hashing everything: a merge moves all values of a matrix, and no version counter."""
    model = load().train()
    weight = model.get_parameter(MATRIX)
    version = weight._version
    weight.data += torch.outer(torch.randn(weight.shape[0]), torch.randn(weight.shape[1]))
    assert weight._version == version
    model.save_pretrained(tmp_path, is_main_process=True)  # as a trainer does
    assert held(tmp_path) == {MATRIX}


def test_a_person_who_saves_while_training_loses_no_edit(load: Load, tmp_path: Path) -> None:
    model = load().train()
    by_one_value(model.get_parameter(MATRIX))
    model.save_pretrained(tmp_path)
    assert held(tmp_path) == {MATRIX}


def by_one_value(weight: torch.Tensor) -> None:
    """Not among those that are sampled."""
    before = sampled(weight)
    weight.data[1, 1] += 1
    assert torch.equal(sampled(weight), before)


def test_one_value_of_the_projector(load: Load, tmp_path: Path) -> None:
    model = load()
    model.config.trained_steps = {}
    by_one_value(max(model.model.world_projector.parameters(), key=torch.Tensor.numel))  # type: ignore[union-attr]
    model.save_pretrained(tmp_path)
    assert TheWorld.from_pretrained(tmp_path).world_is_trained


def resize(model: TheWorld) -> None:
    model.resize_token_embeddings(model.config.get_text_config().vocab_size + 8)


def untie(model: TheWorld) -> None:
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())


def remove(model: TheWorld) -> None:
    del model.model.language_model.layers[2]


def add(model: TheWorld) -> None:
    model.model.language_model.extra = torch.nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("change", "message"), [(resize, "resized"), (untie, "added"), (remove, "removed"), (add, "added")]
)
def test_what_a_checkpoint_cannot_express_is_refused(load: Load, tmp_path: Path, change: Any, message: str) -> None:
    model = load()
    model.save_pretrained(tmp_path / "x")
    before = (tmp_path / "x" / "model.safetensors").read_bytes()
    change(model)
    with pytest.raises(ValueError, match=f"cannot express parameters that are {message}: "):
        model.save_pretrained(tmp_path / "x")
    assert (tmp_path / "x" / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_model_without_base_models_is_refused(load: Load, tmp_path: Path) -> None:
    config = TheWorldConfig.from_dict(load().config.to_dict())
    for model in (TheWorld(config), AutoModelForImageTextToText.from_config(config)):
        with pytest.raises(ValueError, match=r"load it with TheWorld\.from_pretrained"):
            model.save_pretrained(tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_arguments_of_other_libraries(load: Load, tmp_path: Path) -> None:
    model = load()
    model.save_pretrained(tmp_path / "x", is_main_process=True, save_function=torch.save, safe_serialization=True)
    load_file(tmp_path / "x" / "model.safetensors")
    for refused in ({"safe_serialization": False}, {"variant": "fp16"}):
        with pytest.raises(ValueError, match=f"{next(iter(refused))}=.* leave it out"):
            model.save_pretrained(tmp_path / "y", **refused)
    with pytest.raises(ValueError, match="variant"):
        TheWorld.from_pretrained(tmp_path / "x", variant="fp16")


def test_push_to_hub_returns_the_commit(load: Load, hub: Hub) -> None:
    commit = load().push_to_hub("tester/model", token=hub.token)
    assert commit is not None
    assert commit.oid


# --------------------------------------------------------------------------------------------- kills while saving

OPERATIONS = (
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "shutil.rmtree",
    "shutil.copyfile",
    "os.chdir",
)


def save_and_die(model: TheWorld, folder: Path, limit: int) -> int:
    """Save in a process that is killed before its file operation number `limit`; returns how many it did, or -1."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        done = 0

        def count(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal done
            opened = event == "open" and any(mode in str(arguments[1]) for mode in "wax+")
            if opened or event in OPERATIONS:
                done += 1
                if done > limit:
                    os._exit(9)

        sys.addaudithook(count)
        model.save_pretrained(folder)
        os.write(writer, str(done).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as pipe:
        counted = pipe.read()
    _, status = os.waitpid(child, 0)
    return int(counted) if os.waitstatus_to_exitcode(status) == 0 else -1


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
def test_a_kill_at_any_file_operation_leaves_the_old_or_the_new(
    load: Load, tmp_path: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:
        monkeypatch.setattr(folders, "exchanged", lambda *_: False)
    model = load()
    model.save_pretrained(tmp_path / "old")
    (tmp_path / "old" / "notes.txt").write_text("mine", encoding="utf-8")
    with torch.no_grad():
        model.model.world_projector.output_norm.weight.fill_(2)  # type: ignore[union-attr]
        model.get_parameter(MATRIX).fill_(1)

    def save(limit: int) -> int:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        (tmp_path / "run").mkdir()
        shutil.copytree(tmp_path / "old", tmp_path / "run" / "x")
        return save_and_die(model, tmp_path / "run" / "x", limit)

    total = save(10**9)
    assert total > 8
    states: set[bool] = set()
    for limit in range(total):
        assert save(limit) == -1
        folder = tmp_path / "run" / "x"
        if not folder.exists():
            assert TheWorld.from_pretrained(folder).world_is_trained
        gain = load_file(folder / "model.safetensors")["model.world_projector.output_norm.weight"].eq(2).all().item()
        changed = MATRIX in json.loads((folder / "config.json").read_text(encoding="utf-8"))["changed"]
        assert gain == changed, f"half of each after {limit} of {total} operations"
        assert (folder / "notes.txt").read_text(encoding="utf-8") == "mine"
        states.add(changed)
        if limit % 10 == 0 or limit > total - 4:
            assert TheWorld.from_pretrained(folder).get_parameter(MATRIX).eq(1).all().item() == changed
    assert states == {True, False}


def test_saving_into_the_working_directory(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = load()
    for _ in range(2):
        model.save_pretrained(".")
        assert Path("config.json").is_file()
    assert folders.aside(tmp_path).exists() is False


def test_weights_that_only_a_rollout_loads_are_saved(load: Load, images: list[Image.Image], tmp_path: Path) -> None:
    model = load()  # of the current frame; the transformer is not in memory
    assert model.model.world_encoder.transformer is None  # type: ignore[union-attr]
    before = logits(model, images)
    name = "model.world_encoder.transformer.patch_embed.proj.weight"
    model.save_pretrained(tmp_path / "before")
    assert held(tmp_path / "before") == set()
    model.get_parameter(name).data.mul_(2)
    after = logits(model, images)
    assert not torch.equal(before, after)
    model.save_pretrained(tmp_path / "after")
    assert held(tmp_path / "after") == {name}
    assert torch.equal(logits(TheWorld.from_pretrained(tmp_path / "after"), images), after)


def test_a_module_that_a_user_added(load: Load, tmp_path: Path) -> None:
    model = load()
    model.value_head = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.value_head.parameters())
    model.value_head(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert model.config.trained_steps == {"projector": 1}  # of `load`
    with pytest.raises(ValueError, match=r"parameters that are added: value_head\.bias, value_head\.weight"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_world_that_was_turned_off_is_not_lost(load: Load, images: list[Image.Image], tmp_path: Path) -> None:
    load().save_pretrained(tmp_path / "world")
    off = TheWorld.from_pretrained(tmp_path / "world", enable_world=False)
    with pytest.raises(ValueError, match="holds a checkpoint with a world"):
        off.save_pretrained(tmp_path / "world")
    off.save_pretrained(tmp_path / "gemma")
    again = TheWorld.from_pretrained(tmp_path / "gemma", enable_world=True)  # has a new projector
    assert not again.world_is_trained
    with pytest.warns(UserWarning, match="never trained"):
        again.ask(images[0], "Which bin?", max_new_tokens=1)


def test_a_folder_whose_parent_cannot_be_written_to(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, target = load(), tmp_path / "mount"
    target.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    model.save_pretrained(target)
    assert {path.name for path in target.iterdir()} >= {"config.json", "model.safetensors"}
    assert not list(target.glob(".*"))
    with pytest.raises(OSError, match="cannot be replaced"):
        model.save_pretrained(target)
    TheWorld.from_pretrained(target)


def test_a_compiled_part_is_saved_under_its_own_name(load: Load, images: list[Image.Image], tmp_path: Path) -> None:
    model = load()
    model.model.world_projector = torch.compile(model.model.world_projector, backend="eager")  # type: ignore[assignment]
    model.model.language_model = torch.compile(model.model.language_model, backend="eager")  # type: ignore[assignment]
    model.save_pretrained(tmp_path)
    assert held(tmp_path) == set()
    assert torch.equal(logits(TheWorld.from_pretrained(tmp_path), images), logits(load(), images))


def test_adapters_that_peft_dropped_are_missed(load: Load, tmp_path: Path) -> None:
    """PEFT's own adapter turns those of `lora=` off; its merge leaves them out of the weights."""
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(load(lora={"r": 2}), peft.LoraConfig(target_modules=["q_proj"], r=2))
    with pytest.raises(ValueError, match=r"removed: .*lora_A"):
        model.merge_and_unload().save_pretrained(tmp_path)


def test_a_link_stays_one(load: Load, tmp_path: Path) -> None:
    model = load()
    (tmp_path / "latest").symlink_to(tmp_path / "run")  # which does not exist yet
    for gain in (2, 3):
        model.model.world_projector.output_norm.weight.data.fill_(gain)  # type: ignore[union-attr]
        model.save_pretrained(tmp_path / "latest")
        assert (tmp_path / "latest").is_symlink()
        saved = load_file(tmp_path / "run" / "model.safetensors")
        assert saved["model.world_projector.output_norm.weight"].eq(gain).all()


def test_an_open_log_goes_on(load: Load, tmp_path: Path) -> None:
    model = load()
    model.save_pretrained(tmp_path)
    with (tmp_path / "train.log").open("w", encoding="utf-8") as log:
        model.save_pretrained(tmp_path)
        log.write("after the save")
    assert (tmp_path / "train.log").read_text(encoding="utf-8") == "after the save"


def test_weights_that_are_not_finite_are_not_saved(load: Load, tmp_path: Path) -> None:
    model = load()
    model.model.world_projector.output_norm.weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"world_projector\.output_norm\.weight: not finite"):
        model.save_pretrained(tmp_path / "x")
    assert not (tmp_path / "x").exists()
