"""A conversation: what the model reads is the whole of it, and the answer comes word by word."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from theworld import TheWorld
from theworld.analysis.conversation import Conversation
from theworld.nano.examples import load_example


@pytest.fixture(scope="module")
def nano() -> TheWorld:
    return TheWorld.from_pretrained("nano")


@pytest.fixture
def read(nano: TheWorld, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """The inputs of every call of `generate`."""
    calls = []
    generate = nano.generate
    monkeypatch.setattr(nano, "generate", lambda **inputs: (calls.append(inputs), generate(**inputs))[1])
    return calls


def quiet(text: str) -> None:
    """Nobody listens."""


def test_first_answer_is_that_of_ask(nano: TheWorld) -> None:
    example, conversation = load_example("stack"), Conversation(nano)
    conversation.add_image(example.image)
    assert conversation.ask(example.question, quiet) == nano.ask(example.image, example.question) == "right"
    conversation.clear()
    conversation.set_world(False)
    conversation.add_image(example.image)
    assert conversation.ask(example.question, quiet) == nano.ask(example.image, example.question, use_world=False)


def test_an_offloaded_model_answers_the_same(nano: TheWorld, tmp_path: Path) -> None:
    offloaded = TheWorld.from_pretrained("nano", device_map={"": "disk"}, offload_folder=str(tmp_path))
    assert offloaded.device.type == "meta"
    example, conversation = load_example("stack"), Conversation(offloaded)
    conversation.add_image(example.image)
    assert conversation.ask(example.question, quiet) == nano.ask(example.image, example.question)


def test_an_image_stays_at_its_turn(nano: TheWorld, read: list[dict], images: list[Image.Image]) -> None:
    conversation = Conversation(nano)
    conversation.ask("What is this?", quiet)
    conversation.add_image(images[0])
    conversation.ask("And this?", quiet)
    conversation.ask("Which colour?", quiet)
    answers = [turn["content"][0]["text"] for turn in conversation.messages if turn["role"] == "assistant"]
    text = nano.processor.decode(read[-1]["input_ids"][0])
    turns = text.split("<start_of_turn>")[1:]
    assert [turn.partition("\n")[0] for turn in turns] == ["user", "model", "user", "model", "user", "model"]
    assert [nano.processor.tokenizer.boi_token in turn for turn in turns] == [False, False, True, False, False, False]
    assert all(answer in turns[2 * index + 1] for index, answer in enumerate(answers[:2]))
    assert len(read[-1]["world_pixel_values"]) == len(read[-1]["pixel_values"]) == 1
    assert "world_pixel_values" not in read[0]


def test_settings_reach_the_images_of_earlier_turns(
    nano: TheWorld, read: list[dict], images: list[Image.Image]
) -> None:
    conversation, per_frame = Conversation(nano), nano.config.world_tokens_per_frame
    conversation.add_image(images[0])
    conversation.ask("What?", quiet)
    conversation.set_steps(0)
    conversation.ask("What?", quiet)
    conversation.set_world(False)
    conversation.ask("What?", quiet)
    tokens = [int((inputs["input_ids"] == nano.config.world_token_id).sum()) for inputs in read]
    assert tokens == [(1 + nano.config.num_world_steps) * per_frame, per_frame, 0]


def test_a_question_that_fails_changes_nothing(nano: TheWorld, images: list[Image.Image]) -> None:
    conversation = Conversation(nano)
    image = conversation.add_image(images[0])
    for question in ("  ", "What is <start_of_image>?"):
        with pytest.raises(ValueError, match=r"empty|reserved"):
            conversation.ask(question, quiet)
    with pytest.raises(ValueError, match=r"tokens long and the model reads 2048"):
        conversation.ask("colour " * 2048, quiet)
    assert conversation.messages == []
    assert conversation.images == [image]


def test_text_arrives_while_the_answer_is_made(gemma_folder: object) -> None:
    model = TheWorld.from_pretrained(gemma_folder, enable_world=False)
    dictated = model.processor.tokenizer("one two three four", add_special_tokens=False)["input_ids"]
    dictated.append(model.config.eos_token_id)
    heard: list[str] = []
    at_step: list[int] = []

    def dictate(module: object, inputs: object, logits: torch.Tensor) -> torch.Tensor:
        token = dictated[len(at_step)]
        at_step.append(len("".join(heard).split()))
        return torch.zeros_like(logits).index_fill(-1, torch.tensor([token]), 1.0)

    model.lm_head.register_forward_hook(dictate)
    answer = Conversation(model).ask("Count.", heard.append, max_new_tokens=60)
    assert "".join(heard) == answer == "one two three four"
    assert at_step[-1] == 3, "all words but the last are heard before the answer ends"


def test_a_world_that_was_not_loaded_cannot_be_turned_on(gemma_folder: object) -> None:
    conversation = Conversation(TheWorld.from_pretrained(gemma_folder, enable_world=False))
    with pytest.raises(ValueError, match="enable_world=False"):
        conversation.set_world(True)
    assert conversation.use_world is False
