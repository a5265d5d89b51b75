"""The claims of the CPU suite that a GPU could break: identity in bf16, one device for all parts, static caches."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import Gemma3ForConditionalGeneration

from theworld import TheWorld

pytestmark = pytest.mark.gpu
WORLD = {"world_image_size": 32, "world_inference_steps": 2, "world_guidance_scale": 1.0, "max_world_steps": 3}


def prompt(model: TheWorld, image: Image.Image, **options: object) -> dict[str, torch.Tensor]:
    content = [{"type": "image", "image": image}, {"type": "text", "text": "What happens next?"}]
    return model.processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        **options,
    ).to("cuda")


@pytest.fixture(scope="module")
def model(gemma_folder: Path, cosmos_folder: Path) -> TheWorld:
    return TheWorld.from_pretrained(
        gemma_folder, cosmos_model_name=str(cosmos_folder), dtype=torch.bfloat16, device_map="cuda", **WORLD
    )


def test_every_part_is_on_the_device(model: TheWorld, images: list[Image.Image]) -> None:
    model.generate(**prompt(model, images[0], num_world_steps=1), max_new_tokens=2, use_world=True)
    assert {parameter.device.type for parameter in model.parameters()} == {"cuda"}


def test_world_off_is_gemma(model: TheWorld, gemma_folder: Path, images: list[Image.Image]) -> None:
    stock = Gemma3ForConditionalGeneration.from_pretrained(gemma_folder, dtype=torch.bfloat16, device_map="cuda")
    plain = prompt(model, images[0], use_world=False)
    assert torch.equal(model(**plain, use_world=False).logits, stock(**plain).logits)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_answers_do_not_depend_on_the_cache(model: TheWorld, images: list[Image.Image], cache: str) -> None:
    inputs = prompt(model, images[0], num_world_steps=1)
    expected = model.generate(**inputs, max_new_tokens=6, do_sample=False, use_cache=False, use_world=True)
    options = {"cache_implementation": cache, "use_world": True}  # an untrained fusion answers without it
    found = model.generate(**inputs, max_new_tokens=6, do_sample=False, **options)
    assert found.tolist() == expected.tolist()


def test_autocast_trains_a_projector_in_fp32(model: TheWorld, images: list[Image.Image]) -> None:
    model.model.world_projector.float()
    inputs = prompt(model, images[0])
    with torch.autocast("cuda", torch.bfloat16):
        loss = model(**inputs, labels=inputs["input_ids"]).loss
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.model.world_projector.parameters())
