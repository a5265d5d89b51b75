"""A model whose language model stayed on the disk: it aligns, and what it saved is the checkpoint of a whole one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.model.conftest import Load
from tests.model.helpers import load_world
from theworld import TheWorld


def language_bytes(model: TheWorld) -> int:
    return sum(value.nbytes for value in (*model.model.language_model.parameters(), *model.lm_head.parameters()))


def test_it_holds_no_layer_and_no_embedding(load: Load) -> None:
    model = load(language_model=False)
    assert language_bytes(load()) > 10_000
    assert language_bytes(model) < 1000  # the last norm
    assert not model.model.language_model.layers


def test_its_world_parts_start_as_those_of_a_whole_model(load: Load) -> None:
    model, whole = load(language_model=False), load()
    for part in ("world_projector", "world_markers", "vision_tower", "multi_modal_projector"):
        expected = getattr(whole.model, part).state_dict()
        assert all(
            torch.equal(value, expected[name]) for name, value in getattr(model.model, part).state_dict().items()
        )


def test_what_it_saves_loads_as_a_whole_model(load: Load, tmp_path: Path) -> None:
    model = load(language_model=False)
    with torch.no_grad():
        model.model.world_projector.output_norm.weight.fill_(0.5)
    model.save_pretrained(tmp_path)
    loaded, whole = TheWorld.from_pretrained(tmp_path), load()
    assert loaded.config.get_text_config().num_hidden_layers == whole.config.get_text_config().num_hidden_layers
    assert language_bytes(loaded) == language_bytes(whole)
    assert loaded.model.world_projector.output_norm.weight.eq(0.5).all()


def test_a_trained_language_model_is_not_left_behind(load: Load, tmp_path: Path) -> None:
    model = load(freeze_gemma_language=False)
    with torch.no_grad():
        for parameter in (*model.model.language_model.parameters(), *model.lm_head.parameters()):
            parameter.add_(0.01)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="language_model=False, but language of it is trained"):
        TheWorld.from_pretrained(tmp_path, freeze_gemma_language=True, language_model=False)


def test_the_key_names_of_published_checkpoints_are_known_too(
    gemma_folder: Path, cosmos_folder: Path, tmp_path: Path
) -> None:
    rewrite(gemma_folder, tmp_path, lambda name: name.replace("model.language_model.", "language_model.model."))
    assert not load_world(tmp_path, cosmos_folder, language_model=False).model.language_model.layers


def rewrite(gemma: Path, folder: Path, rename: Callable[[str], str], **more: torch.Tensor) -> None:
    """A copy of a Gemma 3 with other keys."""
    for file in gemma.iterdir():
        (folder / file.name).symlink_to(file)
    tensors = load_file(gemma / "model.safetensors")
    (folder / "model.safetensors").unlink()
    tensors = {rename(name): value for name, value in tensors.items()} | more
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_other_unexpected_keys_are_still_refused(gemma_folder: Path, cosmos_folder: Path, tmp_path: Path) -> None:
    rewrite(gemma_folder, tmp_path, str, **{"model.stray.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"unexpected keys: .*stray"):
        load_world(tmp_path, cosmos_folder, language_model=False)
