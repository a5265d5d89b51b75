"""The table of what trains holds in practice: one step moves every trainable parameter and no other."""

import pytest
import torch
from PIL import Image

from tests.model.conftest import Load
from tests.model.helpers import assistant, component_of, encode, user
from theworld import TheWorld
from theworld.model.components import component_sizes, component_table, named_components

STAGES: dict[str, dict[str, bool]] = {
    "projection": {},
    "vision": {"freeze_gemma_vision": False},
    "language": {"freeze_gemma_language": False},
    "vision and language": {"freeze_gemma_vision": False, "freeze_gemma_language": False},
    "vae": {"freeze_cosmos_vae": False},
    "everything": {"freeze_gemma_vision": False, "freeze_gemma_language": False, "freeze_cosmos_vae": False},
}
TRAINS = {
    "projection": {"projector"},
    "vision": {"projector", "vision"},
    "language": {"projector", "language"},
    "vision and language": {"projector", "vision", "language"},
    "vae": {"projector", "vae_encoder"},
    "everything": {"projector", "vision", "language", "vae_encoder"},
}


def one_step(model: TheWorld, images: list[Image.Image]) -> None:
    chat = [user("Which bin will the ball land in?", *images[:2]), assistant("The ball will land in the red bin.")]
    inputs = encode(model.processor, chat, add_generation_prompt=False)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-2, weight_decay=0.0)
    model.train()(**inputs, labels=inputs["input_ids"]).loss.backward()
    optimizer.step()


@pytest.mark.parametrize("projector", ["linear", "mlp", "transformer"])
def test_every_part_of_every_projector_moves(load: Load, images: list[Image.Image], projector: str) -> None:
    model = load(projector=projector, num_world_steps=1)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    one_step(model, images)
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {name for name in before if component_of(name) == "projector"}


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("stage", STAGES)
def test_one_step_moves_what_trains_and_nothing_else(
    load: Load, images: list[Image.Image], stage: str, steps: int
) -> None:
    model = load(**STAGES[stage], num_world_steps=steps)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {component_of(name) for name in trainable} == TRAINS[stage]
    one_step(model, images)
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == trainable


def test_buffers_do_not_move(load: Load, images: list[Image.Image]) -> None:
    model = load(**STAGES["everything"])
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    one_step(model, images)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


@pytest.mark.parametrize("stage", STAGES)
def test_numbers_are_counted(load: Load, stage: str) -> None:
    model = load(**STAGES[stage], num_world_steps=1)
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert model.get_trainable_parameters() == (trainable, total, 100 * trainable / total)
    sizes = component_sizes(model)
    assert list(sizes) == [
        name for name in component_table(model.model.world_encoder) if name != "language_lora"
    ]  # adapters are asked for
    assert sum(size.total for size in sizes.values()) == total
    assert {name for name, size in sizes.items() if size.trainable} == TRAINS[stage]


def test_table_prints_the_counts(world: TheWorld) -> None:
    rows = {line.split()[0]: line.split()[1:] for line in world.parameter_table().splitlines()[1:]}
    trainable, total, percentage = world.get_trainable_parameters()
    assert rows["all"] == [f"{trainable:,}", f"{total:,}", f"{percentage:.3f}"]
    assert rows["language"][0] == "0"
    assert rows["projector"][0] == rows["projector"][1] == f"{trainable:,}"


def test_projector_of_the_default_stage_is_all_there_is(world: TheWorld) -> None:
    names = [name for name, parameter in world.named_parameters() if parameter.requires_grad]
    assert all(name.startswith(("model.world_projector.", "model.world_markers.")) for name in names)
    for part in ("row_embedding", "column_embedding", "time_embedding", "world_markers"):
        assert any(part in name for name in names)


def test_freezing_follows_the_config(load: Load) -> None:
    model = load()
    model.config.freeze_gemma_vision = False
    model.freeze()
    assert {component_of(n) for n, p in model.named_parameters() if p.requires_grad} == {"projector", "vision"}
    model.config.freeze_gemma_vision = True
    model.freeze()
    assert {component_of(n) for n, p in model.named_parameters() if p.requires_grad} == {"projector"}


def test_transformer_loaded_later_stays_frozen(load: Load) -> None:
    model = load(freeze_gemma_language=False)
    model.model.get_world_features(torch.zeros(1, 3, 32, 32), 1)
    assert component_sizes(model)["world_transformer"].trainable == 0


def test_every_parameter_belongs_to_a_component(load: Load) -> None:
    model = load(num_world_steps=1, lora={"r": 1})
    assert {component_of(name) for name, _ in model.named_parameters()} == set(
        component_table(model.model.world_encoder)
    )
    model.model.something_else = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r"'model\.something_else\.weight' belongs to no component"):
        named_components(model)


def test_training_a_vae_that_is_not_there(load: Load) -> None:
    with pytest.raises(ValueError, match="freeze_cosmos_vae=False with enable_world=False"):
        load(enable_world=False, freeze_cosmos_vae=False)
