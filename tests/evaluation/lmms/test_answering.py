"""Prompts of the harness: the pixels that arrive, batches, pure Gemma, and a world that has to be alive."""

import sys
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Gemma3ForConditionalGeneration

from tests.model.helpers import load_world
from theworld import TheWorld
from theworld.evaluation.lmms import answering, get_manifests
from theworld.evaluation.lmms.answering import Answering, chat_prompt, cut, generation_options, text_prompt

SHORT: dict[str, Any] = {"max_new_tokens": 4, "until": ["\n\n"]}


@pytest.fixture(scope="module")
def model(gemma_folder: Any, cosmos_folder: Any) -> TheWorld:
    return load_world(gemma_folder, cosmos_folder)


@pytest.fixture(scope="module")
def prompts(images: list[Image.Image]) -> list[answering.Conversation]:
    """One image, two, and none."""
    return [
        partial(text_prompt, "Which bin?", [images[0]]),
        partial(text_prompt, "What colour is the ball now?", [images[1], images[2]]),
        partial(text_prompt, "Yes?", []),
    ]


def test_answers_do_not_depend_on_the_batch(model: TheWorld, prompts: list[answering.Conversation]) -> None:
    settings = [SHORT, {**SHORT, "max_new_tokens": 6}, SHORT]  # two groups; the order comes back
    together = Answering(model, 1, batch_size=3)
    alone = [
        Answering(model, 1).generate([prompt], [chosen])[0] for prompt, chosen in zip(prompts, settings, strict=True)
    ]
    assert together.generate(prompts, settings) == alone
    answers = [("red", "blue bin"), ("yes", "no", "it falls"), ("a", "b")]
    found = together.losses(prompts, answers)
    for prompt, offered, losses in zip(prompts, answers, found, strict=True):
        assert list(losses) == list(offered)
        assert min(losses.values()) > 0
        assert Answering(model, 1).losses([prompt], [offered])[0] == pytest.approx(losses, abs=1e-4)


def test_the_pixels_that_arrive_are_those_given(model: TheWorld, images: list[Image.Image], monkeypatch: Any) -> None:
    seen: list[dict[str, Any]] = []
    real = model.generate
    monkeypatch.setattr(model, "generate", lambda **inputs: seen.append(inputs) or real(**inputs))
    features = model.model.get_world_features
    frames: list[torch.Tensor] = []
    monkeypatch.setattr(model.model, "get_world_features", lambda f, k: frames.append(f) or features(f, k))
    given = images[0].copy()
    before = np.array(given)
    messages = [{"role": "user", "content": [{"type": "image", "url": given}, {"type": "text", "text": "Which?"}]}]
    Answering(model).generate([partial(chat_prompt, messages)], [SHORT])

    processor = model.processor
    expected = processor.image_processor([given], return_tensors="pt")["pixel_values"]
    assert torch.equal(seen[0]["pixel_values"], torch.as_tensor(expected))
    assert torch.equal(frames[0], processor.world_pixels([given]))
    assert np.array_equal(np.array(given), before)
    buffer = BytesIO()
    given.save(buffer, "JPEG", quality=85)  # what the harness's own wrapper sends
    assert not torch.equal(frames[0], processor.world_pixels([Image.open(buffer)]))


def test_pure_gemma_is_stock_gemma(gemma_folder: Any, images: list[Image.Image]) -> None:
    pure = TheWorld.from_pretrained(gemma_folder, enable_world=False)
    prompt = partial(text_prompt, "Which bin?", [images[0]])
    stock = Gemma3ForConditionalGeneration.from_pretrained(gemma_folder).eval()
    inputs = pure.processor.apply_chat_template(
        prompt(), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    ids = stock.generate(**inputs, max_new_tokens=4, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    expected = pure.processor.decode(ids, skip_special_tokens=True).strip()
    assert Answering(pure).generate([prompt], [SHORT]) == [expected]


def test_the_world_changes_the_losses(model: TheWorld, images: list[Image.Image], monkeypatch: Any) -> None:
    prompt, answers = partial(text_prompt, "Which bin?", [images[0]]), ("red", "blue")
    seen = Answering(model, 1).losses([prompt], [answers])
    features = model.model.get_world_features
    other = model.processor.world_pixels([images[1]])
    monkeypatch.setattr(model.model, "get_world_features", lambda f, k: features(other, k))
    assert Answering(model, 1).losses([prompt], [answers]) != seen


def test_a_image_without_world_tokens_is_refused(
    model: TheWorld, prompts: list[answering.Conversation], monkeypatch: Any
) -> None:
    monkeypatch.setattr(model.processor, "enable_world", False)
    with pytest.raises(ValueError, match="has no world tokens although enable_world=true"):
        Answering(model).generate(prompts[:1], [SHORT])
    with pytest.raises(ValueError, match="has no world tokens although enable_world=true"):
        Answering(model).losses(prompts[:1], [("a", "b")])
    assert Answering(model).generate(prompts[2:], [SHORT])  # nothing to see, no world


def test_world_tokens_that_are_not_consumed_are_refused(
    model: TheWorld, prompts: list[answering.Conversation], monkeypatch: Any
) -> None:
    monkeypatch.setattr(answering, "world_inputs", lambda world: {"use_world": False})
    with pytest.raises(ValueError, match="consumed 0 of 16 world tokens"):
        Answering(model, 0).generate(prompts[:1], [SHORT])


def test_without_the_harness_the_extra_is_named(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "lmms_eval", None)
    with pytest.raises(ImportError, match=r"theworld\[lmms\]"):
        get_manifests()


def test_settings_of_a_task() -> None:
    greedy = {"max_new_tokens": 128, "num_beams": 1, "do_sample": False}
    assert generation_options({"until": ["\n\n"]}) == greedy
    assert generation_options({"temperature": 0, "top_p": 0.9, "num_beams": 3}) == {**greedy, "num_beams": 3}
    sampled = generation_options({"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 16})
    assert sampled == {"max_new_tokens": 16, "num_beams": 1, "do_sample": True, "temperature": 0.7, "top_p": 0.9}


def test_stops() -> None:
    answer = "Because.\n\nThe answer is B. Next"
    assert cut(answer, ["\n\n"]) == answer  # of the harness, not of the task
    assert cut(answer, ["\n\n", "Next"]) == "Because.\n\nThe answer is B."
    assert cut(answer, "\n") == "Because."


def test_videos_are_refused(images: list[Image.Image]) -> None:
    with pytest.raises(ValueError, match="content of type 'video'"):
        chat_prompt([{"role": "user", "content": [{"type": "video", "url": "a.mp4"}]}])
    (turn,) = text_prompt("<image>\nWhich?", [images[0]])
    assert [part["type"] for part in turn["content"]] == ["image", "text"]
    assert turn["content"][0]["image"] is images[0]
    assert turn["content"][1]["text"] == "\nWhich?"
