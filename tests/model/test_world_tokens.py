"""World tokens reach the language model: content, position, time, attention, and nothing else."""

from typing import Any

import pytest
import torch
from PIL import Image
from transformers.modeling_outputs import BaseModelOutputWithPooling

from tests.model.conftest import Load
from tests.model.helpers import FRAME_TOKENS, Message, encode, user
from theworld import TheWorld

POSITIONS = ("after_bos", "before_image")
ATTENTIONS = ("causal", "bidirectional")


def features_of(model: TheWorld, inputs: Any, steps: int = 0) -> dict[str, BaseModelOutputWithPooling]:
    return {
        "image": model.model.get_image_features(inputs["pixel_values"], return_dict=True),
        "world": model.model.get_world_features(inputs["world_pixel_values"], steps),
    }


def hidden_states(model: TheWorld, inputs: Any, features: dict[str, BaseModelOutputWithPooling]) -> torch.Tensor:
    """(L, D) of the only prompt."""
    names = ("input_ids", "attention_mask", "token_type_ids")
    return model.model(**{name: inputs[name] for name in names}, mm_encoder_outputs=features).last_hidden_state[0]


def disturbed(
    features: dict[str, BaseModelOutputWithPooling], modality: str, token: int
) -> dict[str, BaseModelOutputWithPooling]:
    tokens = features[modality].pooler_output.clone()
    tokens[0, token] += 1
    return {**features, modality: BaseModelOutputWithPooling(pooler_output=tokens)}


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("pooling", [1, 2])
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("position", POSITIONS)
def test_another_images_world_changes_the_logits(
    shared: Load, images: list[Image.Image], position: str, attention: str, pooling: int, steps: int
) -> None:
    model = shared(world_position=position, world_attention=attention, world_pooling=pooling)
    inputs = encode(model.processor, [user("Where?", images[0])], num_world_steps=steps)
    other = encode(model.processor, [user("Where?", images[1])], num_world_steps=steps)
    output = model(**inputs)
    assert output.num_world_tokens == (1 + steps) * FRAME_TOKENS // pooling**2
    assert output.world_hidden_states.shape == (1, output.num_world_tokens, model.config.text_config.hidden_size)
    changed = model(**{**inputs, "world_pixel_values": other["world_pixel_values"]})
    assert not torch.equal(output.logits[:, -1], changed.logits[:, -1])


@pytest.mark.parametrize("projector", ["linear", "mlp", "transformer"])
def test_every_projector_carries_the_world(shared: Load, images: list[Image.Image], projector: str) -> None:
    model = shared(projector=projector)
    inputs = encode(model.processor, [user("Where?", images[0])], num_world_steps=1)
    output = model(**inputs)
    changed = model(**{**inputs, "world_pixel_values": -inputs["world_pixel_values"]})
    assert torch.isfinite(output.logits).all()
    assert not torch.equal(output.logits[:, -1], changed.logits[:, -1])


@pytest.mark.parametrize("projector", ["linear", "mlp", "transformer"])
def test_unpooling_makes_several_tokens_of_a_latent_position(
    shared: Load, images: list[Image.Image], projector: str
) -> None:
    model = shared(projector=projector, world_unpooling=2)
    output = model(**encode(model.processor, [user("Where?", images[0])], num_world_steps=1))
    assert output.num_world_tokens == 2 * FRAME_TOKENS * 2**2
    assert len(output.world_hidden_states[0].unique(dim=0)) == output.num_world_tokens


@pytest.mark.parametrize("shape", [(1, 4, 1, 4, 4), (1, 16, 4, 4), (1, 16, 1, 8, 8), (1, 1, 4, 4, 16)])
def test_latents_of_another_shape_are_named(world: TheWorld, shape: tuple[int, ...]) -> None:
    rows, columns = world.config.world_grid
    expected = (
        rf"world latents of shape \[{', '.join(map(str, shape))}\]: expected \[images, 16, frames, {rows}, {columns}\]"
    )
    with pytest.raises(ValueError, match=expected):
        world.model.project_latents(torch.zeros(shape))


def test_tokens_of_a_latent_position_lie_where_it_lies(shared: Load) -> None:
    model = shared(projector="linear", world_unpooling=2)
    rows, columns = model.config.world_grid
    latents = torch.zeros(1, model.config.world_latent_channels, 1, rows // 2, columns // 2)
    changed = latents.clone()
    changed[..., 1, 0] = 1
    tokens, others = (
        model.model.project_latents(one).pooler_output.view(rows, columns, -1) for one in (latents, changed)
    )
    differing = (tokens != others).any(-1)
    expected = torch.zeros_like(differing)
    expected[2:4, 0:2] = True
    assert torch.equal(differing, expected)


def test_world_tokens_count_every_image_of_the_batch(world: TheWorld, conversations: dict[str, list[Message]]) -> None:
    inputs = encode(world.processor, *conversations.values(), num_world_steps=1)
    assert world(**inputs).num_world_tokens == 3 * 2 * FRAME_TOKENS


def test_each_image_meets_its_own_block(shared: Load, images: list[Image.Image]) -> None:
    """With causal attention, what comes before the second image does not see the second image's world."""
    model = shared(world_position="before_image")
    inputs = encode(model.processor, [user("Which falls?", images[0], images[1])])
    features = features_of(model, inputs)
    before = hidden_states(model, inputs, features)
    tokens = features["world"].pooler_output.clone()
    tokens[1] += 1
    after = hidden_states(model, inputs, {**features, "world": BaseModelOutputWithPooling(pooler_output=tokens)})
    second = (inputs["input_ids"][0] == model.config.start_of_world_token_id).nonzero()[1].item()
    assert torch.equal(before[: second + 1], after[: second + 1])
    assert (before[second + 1 :] != after[second + 1 :]).any(1).all()


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_attention_inside_the_block(shared: Load, images: list[Image.Image], position: str, attention: str) -> None:
    """The last world token moves the first one's state only if the block attends in both directions."""
    model = shared(world_position=position, world_attention=attention)
    inputs = encode(model.processor, [user("Where?", images[0])], num_world_steps=1)
    features = features_of(model, inputs, steps=1)
    before = hidden_states(model, inputs, features)
    after = hidden_states(model, inputs, disturbed(features, "world", -1))
    block = (inputs["input_ids"][0] == model.config.world_token_id).nonzero().flatten()
    changed = (before != after).any(1)
    assert changed[block[-1]]
    assert bool(changed[block[0]]) == (attention == "bidirectional")
    assert not changed[: block[0]].any()


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_world_block_does_not_merge_with_the_image_block(
    shared: Load, images: list[Image.Image], attention: str
) -> None:
    """The markers between them keep the image, which comes later, out of the world tokens' sight."""
    model = shared(world_position="before_image", world_attention=attention)
    inputs = encode(model.processor, [user("Where?", images[0])])
    features = features_of(model, inputs)
    before = hidden_states(model, inputs, features)
    after = hidden_states(model, inputs, disturbed(features, "image", -1))
    changed = (before != after).any(1)
    assert not changed[inputs["input_ids"][0] == model.config.world_token_id].any()
    assert changed[inputs["input_ids"][0] == model.config.image_token_index].all()


def test_two_worlds_behind_bos_do_not_merge(shared: Load, images: list[Image.Image]) -> None:
    model = shared(world_attention="bidirectional")
    inputs = encode(model.processor, [user("Which falls?", images[0], images[1])])
    features = features_of(model, inputs)
    before = hidden_states(model, inputs, features)
    tokens = features["world"].pooler_output.clone()
    tokens[1] += 1
    after = hidden_states(model, inputs, {**features, "world": BaseModelOutputWithPooling(pooler_output=tokens)})
    first = (inputs["input_ids"][0] == model.config.world_token_id).nonzero().flatten()[:FRAME_TOKENS]
    assert torch.equal(before[first], after[first])


def test_markers_are_learned_vectors_of_their_own(load: Load, inputs: Any) -> None:
    model = load()
    for marker in range(2):
        before = model(**inputs).logits[:, -1]
        with torch.no_grad():
            model.model.world_markers.weight[marker] += 1
        assert not torch.equal(before, model(**inputs).logits[:, -1])
    table = model.get_input_embeddings().weight
    assert table.shape[0] == model.config.text_config.vocab_size  # never resized


def test_marker_rows_of_the_table_are_not_read(load: Load, inputs: Any) -> None:
    model = load()
    before = model(**inputs).logits
    block = [model.config.start_of_world_token_id, model.config.end_of_world_token_id, model.config.world_token_id]
    with torch.no_grad():
        model.model.language_model.embed_tokens.weight[block] += 1  # tied to the head: those logits do change
    spared = ~torch.isin(torch.arange(before.shape[-1]), torch.tensor(block))
    assert torch.equal(before[..., spared], model(**inputs).logits[..., spared])


def test_time_embedding_tells_equal_frames_apart(world: TheWorld) -> None:
    still = torch.randn(1, 16, 1, 4, 4).expand(-1, -1, 5, -1, -1)
    frames = world.model.project_latents(still).pooler_output.unflatten(1, (5, FRAME_TOKENS))[0]
    for earlier in range(5):
        for later in range(earlier + 1, 5):
            assert not torch.isclose(frames[earlier], frames[later]).all(-1).any()


def test_row_and_column_embeddings_tell_equal_places_apart(world: TheWorld) -> None:
    even = torch.randn(1, 16, 1, 1, 1).expand(-1, -1, -1, 4, 4)
    tokens = world.model.project_latents(even).pooler_output[0]
    assert len(torch.unique(tokens, dim=0)) == FRAME_TOKENS


@pytest.mark.parametrize("projector", ["linear", "mlp", "transformer"])
def test_the_present_does_not_depend_on_how_far_one_looks(shared: Load, projector: str) -> None:
    model = shared(projector=projector)
    latents = torch.randn(1, 16, 4, 4, 4)
    near = model.model.project_latents(latents[:, :, :1]).pooler_output
    far = model.model.project_latents(latents).pooler_output
    torch.testing.assert_close(far[:, :FRAME_TOKENS], near, rtol=0, atol=1e-6)


def test_world_tokens_start_at_the_scale_of_the_embeddings(world: TheWorld, inputs: Any) -> None:
    tokens = world(**inputs).world_hidden_states
    text = world.get_input_embeddings()(torch.arange(world.config.text_config.vocab_size))
    ratio = tokens.square().mean().sqrt() / text.square().mean().sqrt()
    assert 0.9 < ratio.item() < 1.1


def test_world_seed_of_a_call_changes_the_rollout_only(world: TheWorld, images: list[Image.Image]) -> None:
    still = encode(world.processor, [user("Where?", images[0])])
    moving = encode(world.processor, [user("Where?", images[0])], num_world_steps=1)
    assert torch.equal(world(**still, world_seed=1).logits, world(**still).logits)
    assert torch.equal(world(**moving, world_seed=world.config.world_seed).logits, world(**moving).logits)
    assert not torch.equal(world(**moving, world_seed=1).logits[:, -1], world(**moving).logits[:, -1])
