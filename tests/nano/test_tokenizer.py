"""The toy tokenizer and processor behave as Gemma 3's own."""

from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pytest
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer, Gemma3Processor, GemmaTokenizer

from theworld.nano.tokenizer import UNUSED_TOKENS, build_processor, build_tokenizer

TEXTS = ["Which bin will the ball land in?", "red", "blue", "How many ramps are there?"]
SEQ = 4


@pytest.fixture(scope="module")
def tokenizer() -> GemmaTokenizer:
    return build_tokenizer(TEXTS)


@pytest.fixture(scope="module")
def processor(tokenizer: GemmaTokenizer) -> Gemma3Processor:
    return build_processor(tokenizer, image_size=32, image_seq_length=SEQ)


def image(value: int) -> Image.Image:
    return Image.fromarray(np.full((32, 32, 3), value, np.uint8))


def turn(role: str, text: str, images: int = 0) -> dict[str, Any]:
    pictures = [{"type": "image", "image": image(255 * index)} for index in range(images)]
    return {"role": role, "content": [*pictures, {"type": "text", "text": text}]}


def test_marker_ids_follow_gemma(tokenizer: GemmaTokenizer) -> None:
    assert tokenizer.convert_tokens_to_ids(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]) == [0, 1, 2, 3, 4]
    for token in (*UNUSED_TOKENS, "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<image_soft_token>"):
        assert tokenizer.encode(token, add_special_tokens=False) == [tokenizer.convert_tokens_to_ids(token)]
    assert tokenizer.convert_ids_to_tokens(tokenizer.boi_token_id) == "<start_of_image>"
    assert tokenizer.convert_ids_to_tokens(tokenizer.eoi_token_id) == "<end_of_image>"
    assert tokenizer.convert_ids_to_tokens(tokenizer.image_token_id) == "<image_soft_token>"
    assert tokenizer("red").input_ids[0] == tokenizer.bos_token_id
    assert len(tokenizer.get_vocab()) == len(tokenizer) == max(tokenizer.get_vocab().values()) + 1


@pytest.mark.parametrize("text", ["The Red bin?", "  two  spaces\n\n\ttab", "naïve 漢字 🙂", "x = {1: 'a'} <unused1>~"])
def test_any_text_survives(tokenizer: GemmaTokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text


def test_words_of_the_corpus_are_whole_tokens(tokenizer: GemmaTokenizer) -> None:
    for word in ("red", " red", "Red", " ball", "\n\n", "user", "model"):
        assert len(tokenizer.encode(word, add_special_tokens=False)) == 1


def test_small_vocabulary_is_respected_and_too_small_refused() -> None:
    assert len(build_tokenizer(TEXTS, vocab_size=400)) == 400
    with pytest.raises(ValueError, match="vocab_size must be at least"):
        build_tokenizer(TEXTS, vocab_size=100)


def test_chat_format(processor: Gemma3Processor) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        turn("user", " Where? ", images=2),
        turn("assistant", "left"),
        {"role": "user", "content": "Now?"},
    ]
    assert processor.apply_chat_template(messages, add_generation_prompt=True) == (
        "<bos><start_of_turn>user\nBe brief.\n\n<start_of_image><start_of_image>Where?<end_of_turn>\n"
        "<start_of_turn>model\nleft<end_of_turn>\n"
        "<start_of_turn>user\nNow?<end_of_turn>\n<start_of_turn>model\n"
    )


def test_roles_must_alternate(processor: Gemma3Processor) -> None:
    with pytest.raises(jinja2.TemplateError, match="alternate"):
        processor.apply_chat_template([turn("user", "a"), turn("user", "b")])


def test_answers_are_marked_for_training(tokenizer: GemmaTokenizer) -> None:
    messages = [{"role": "user", "content": "which?"}, {"role": "assistant", "content": "red"}]
    out = tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
    answer = [token for token, mask in zip(out["input_ids"], out["assistant_masks"], strict=True) if mask]
    assert tokenizer.decode(answer) == "red<end_of_turn>\n"


def test_processor_round_trip(processor: Gemma3Processor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, Gemma3Processor)
    assert isinstance(loaded.tokenizer, GemmaTokenizer)
    assert AutoTokenizer.from_pretrained(tmp_path).get_vocab() == processor.tokenizer.get_vocab()
    conversations = [[turn("user", "Which bin?", images=2)], [turn("user", "Which ball, <unused0>?", images=1)]]
    kwargs = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "processor_kwargs": {"padding": True}}
    before, after = (
        p.apply_chat_template(conversations, add_generation_prompt=True, **kwargs) for p in (processor, loaded)
    )
    assert before.keys() == after.keys() >= {"input_ids", "attention_mask", "token_type_ids", "pixel_values"}
    assert all(before[key].equal(after[key]) for key in before)
    assert (after["input_ids"] == loaded.tokenizer.image_token_id).sum(1).tolist() == [2 * SEQ, SEQ]
    assert (after["input_ids"] == loaded.tokenizer.bos_token_id).sum(1).tolist() == [1, 1]
    assert after["pixel_values"].shape == (3, 3, 32, 32)
    assert (after["pixel_values"][0].unique().item(), after["pixel_values"][1].unique().item()) == (-1.0, 1.0)
    assert after["token_type_ids"].sum(1).tolist() == [2 * SEQ, SEQ]
