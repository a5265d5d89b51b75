"""What transformers, accelerate, torch and PEFT do to a model, they can do to this one."""

from typing import Any

import pytest
import torch
from PIL import Image

from tests.model.conftest import Load
from tests.model.helpers import Message, answer_ids, assistant, encode, user
from theworld import TheWorld


def gradients(model: TheWorld, inputs: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model.train()(**inputs, labels=inputs["input_ids"]).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("flags", [{}, {"freeze_gemma_vision": False, "freeze_gemma_language": False}], ids=str)
def test_gradient_checkpointing_gives_the_same_gradients(
    load: Load, inputs: Any, flags: dict[str, bool], reentrant: bool
) -> None:
    model = load(**flags)
    expected = gradients(model, inputs)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    calls: list[int] = []
    layer = model.model.language_model.layers[0].self_attn
    layer.register_forward_hook(lambda *_: calls.append(1))
    ours = gradients(model, inputs)
    assert len(calls) == 2  # once forward, once again for the gradient
    assert ours.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(ours[name], expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}], ids=str)
def test_device_map(load: Load, world: TheWorld, inputs: Any, device_map: Any) -> None:
    model = load(device_map=device_map, num_world_steps=1)
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    assert torch.equal(model(**inputs).logits, world(**inputs).logits)


def test_attention_implementations_agree(shared: Load, inputs: Any) -> None:
    eager, sdpa = (shared(attn_implementation=name)(**inputs).logits for name in ("eager", "sdpa"))
    torch.testing.assert_close(eager, sdpa, rtol=1e-4, atol=1e-4)


def test_tuple_output(world: TheWorld, inputs: Any) -> None:
    output = world(**inputs)
    as_tuple = world(**inputs, return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert torch.equal(as_tuple[0], output.logits)


def test_output_tells_how_many_world_tokens(world: TheWorld, conversations: dict[str, list[Message]]) -> None:
    for names, tokens in ((("text",), 0), (("image",), 32), (("image", "two images"), 96)):
        given = encode(world.processor, *(conversations[name] for name in names), num_world_steps=1)
        assert world(**given).num_world_tokens == tokens


def test_deep_copies_are_independent(load: Load, inputs: Any) -> None:
    import copy

    model = load()
    twin = copy.deepcopy(model)
    expected = model(**inputs).logits
    assert torch.equal(twin(**inputs).logits, expected)
    with torch.no_grad():
        twin.model.world_markers.weight += 1
    assert torch.equal(model(**inputs).logits, expected)


def test_casting_a_model(load: Load, images: list[Image.Image]) -> None:
    model = load(num_world_steps=1).to(torch.bfloat16)
    given = encode(model.processor, [user("Hi?", images[0])])
    assert torch.isfinite(model(**given).logits).all()


# ------------------------------------------------------------------------------------------------------- PEFT


LANGUAGE_ATTENTION = r"model\.language_model\.layers\.\d+\.self_attn\.(q|v)_proj"


def lora(model: TheWorld, **settings: Any) -> Any:
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=LANGUAGE_ATTENTION, **settings))


def test_fresh_lora_changes_nothing(load: Load, world: TheWorld, inputs: Any) -> None:
    wrapped = lora(load()).eval()
    assert torch.equal(wrapped(**inputs).logits, world(**inputs).logits)
    assert torch.equal(wrapped.generate(**inputs, max_new_tokens=4), world.generate(**inputs, max_new_tokens=4))


def test_lora_sees_the_world(load: Load, images: list[Image.Image]) -> None:
    model = load()
    wrapped = lora(model, init_lora_weights=False).eval()
    plain = encode(model.processor, [user("Hi?", images[0])], use_world=False)
    answer = answer_ids(wrapped, plain, images=images[:1], output_logits=True)
    given = encode(model.processor, [user("Hi?", images[0])])
    assert torch.equal(answer, answer_ids(wrapped, given))
    assert wrapped(**given).num_world_tokens == 16


def test_lora_and_projector_train_together(load: Load, images: list[Image.Image]) -> None:
    model = load()
    wrapped = lora(model, modules_to_save=["world_projector"])
    chat = [user("Hi?", images[0]), assistant("A ball.")]
    given = encode(model.processor, chat, add_generation_prompt=False)
    trainable = {name: p for name, p in wrapped.named_parameters() if p.requires_grad}
    assert any("lora_B" in name for name in trainable)
    assert any("world_projector" in name for name in trainable)
    before = {name: parameter.clone() for name, parameter in trainable.items()}
    optimizer = torch.optim.AdamW(trainable.values(), lr=1e-2)
    for _ in range(2):  # A moves only once B is no longer zero
        wrapped.train()(**given, labels=given["input_ids"]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(not torch.equal(parameter, before[name]) for name, parameter in trainable.items())
