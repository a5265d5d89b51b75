"""Every way of generating sees the same world, once, and hands back the caller's prompt."""

import threading
from itertools import product
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import (
    DynamicCache,
    Gemma3ForConditionalGeneration,
    GenerationConfig,
    TextIteratorStreamer,
    set_seed,
)

from tests import tiny
from tests.model.conftest import Load
from tests.model.helpers import ANSWER, FRAME_TOKENS, Message, answer_ids, encode, images_of, user
from theworld import TheWorld

BLOCKS = tuple(product(("after_bos", "before_image"), ("causal", "bidirectional")))


@pytest.fixture(scope="module", params=BLOCKS, ids="-".join)
def model(request: pytest.FixtureRequest, shared: Load) -> TheWorld:
    """Every place of the block, and both kinds of attention inside it."""
    position, attention = request.param
    return shared(world_position=position, world_attention=attention)


@pytest.fixture(scope="module")
def prompt(model: TheWorld, images: list[Image.Image]) -> Any:
    return encode(model.processor, [user("Which bin will the ball land in?", images[0])], num_world_steps=1)


@pytest.fixture
def encoded(world: TheWorld, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Frames of each call of the world encoder."""
    calls: list[int] = []
    encode_world = world.model.world_encoder.encode

    def spy(pixels: torch.Tensor, *arguments: Any) -> Any:
        calls.append(len(pixels))
        return encode_world(pixels, *arguments)

    monkeypatch.setattr(world.model.world_encoder, "encode", spy)
    return calls


def uncached_greedy(model: TheWorld, inputs: Any, length: int) -> torch.Tensor:
    """The definition of greedy decoding: the whole sequence through `forward` for each token."""
    inputs = dict(inputs)
    eos = model.generation_config.eos_token_id
    start = inputs["input_ids"].shape[1]
    for _ in range(length):
        logits = model(**inputs).logits[:, -1].clone()
        logits[:, eos] = -torch.inf  # as min_new_tokens does
        for name, column in (
            ("input_ids", logits.argmax(-1, keepdim=True)),
            ("attention_mask", torch.ones(len(logits), 1, dtype=torch.long)),
            ("token_type_ids", torch.zeros(len(logits), 1, dtype=torch.long)),
        ):
            inputs[name] = torch.cat([inputs[name], column], dim=1)
    return inputs["input_ids"][:, start:]


@pytest.mark.parametrize(
    "how",
    [
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"cache_implementation": "dynamic"},
        {"prefill_chunk_size": 500},
    ],
    ids=str,
)
def test_cached_equals_the_definition_of_greedy(model: TheWorld, prompt: Any, how: dict[str, Any]) -> None:
    expected = uncached_greedy(model, prompt, ANSWER["max_new_tokens"])
    assert torch.equal(answer_ids(model, prompt, **how), expected)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("size", [3, 9, 16, 34])
@pytest.mark.parametrize("position", ["after_bos", "before_image"])
def test_chunks_may_cut_the_block(
    shared: Load, images: list[Image.Image], position: str, size: int, cache: str
) -> None:
    """With causal attention inside; both ways, a chunk would miss what follows it, as with Gemma's image tokens."""
    model = shared(world_position=position)
    prompt = encode(model.processor, [user("Which bin will the ball land in?", images[0])], num_world_steps=1)
    whole = answer_ids(model, prompt)
    assert torch.equal(answer_ids(model, prompt, prefill_chunk_size=size, cache_implementation=cache), whole)


def test_chunked_prefill_of_a_batch(world: TheWorld, conversations: dict[str, list[Message]]) -> None:
    batch = encode(world.processor, *conversations.values())
    whole = answer_ids(world, batch)
    for size in (5, 16, 33):
        assert torch.equal(answer_ids(world, batch, prefill_chunk_size=size), whole)


def test_answer_depends_on_the_world(model: TheWorld, images: list[Image.Image], prompt: Any) -> None:
    answers = [model.generate(**prompt, **ANSWER, output_logits=True, return_dict_in_generate=True)]
    other = {**prompt, "world_pixel_values": -prompt["world_pixel_values"]}
    answers.append(model.generate(**other, **ANSWER, output_logits=True, return_dict_in_generate=True))
    for first, second in zip(answers[0].logits, answers[1].logits, strict=True):  # late steps too
        assert not torch.equal(first, second)


@pytest.mark.parametrize(
    "batch",
    [
        ("text", "image"),
        ("image", "text"),
        ("two images", "image"),
        ("text", "image", "two images"),
        ("two images", "text", "image", "image"),
    ],
)
def test_answer_does_not_depend_on_batch_mates(
    model: TheWorld, conversations: dict[str, list[Message]], batch: tuple[str, ...]
) -> None:
    together = encode(model.processor, *(conversations[name] for name in batch), num_world_steps=1)
    output = model.generate(**together, **ANSWER, output_logits=True, return_dict_in_generate=True)
    for row, name in enumerate(batch):
        alone = encode(model.processor, conversations[name], num_world_steps=1)
        expected = model.generate(**alone, **ANSWER, output_logits=True, return_dict_in_generate=True)
        length = together["input_ids"].shape[1]
        assert torch.equal(output.sequences[row, length:], expected.sequences[0, alone["input_ids"].shape[1] :])
        for ours, theirs in zip(output.logits, expected.logits, strict=True):
            torch.testing.assert_close(ours[row], theirs[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "how",
    [
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 3},
        {"num_beams": 2, "num_return_sequences": 2, "prefill_chunk_size": 1000},
        {"do_sample": True, "top_k": 1, "num_return_sequences": 3},
    ],
    ids=str,
)
def test_every_sequence_keeps_its_own_prompts_world(
    world: TheWorld, conversations: dict[str, list[Message]], how: dict[str, Any]
) -> None:
    batch = encode(world.processor, *conversations.values())
    together = answer_ids(world, batch, **how).split(how.get("num_return_sequences", 1))
    for conversation, ours in zip(conversations.values(), together, strict=True):
        assert torch.equal(ours, answer_ids(world, encode(world.processor, conversation), **how))


@pytest.mark.parametrize("how", [{"num_beams": 2}, {"do_sample": True, "num_return_sequences": 3}], ids=str)
def test_expanded_logits_are_those_of_each_prompt_alone(
    world: TheWorld, conversations: dict[str, list[Message]], how: dict[str, Any]
) -> None:
    """Two images a prompt, so that neither their order nor the prompts' may change."""
    first, second = conversations["two images"], conversations["two images"]
    second = [user("Which falls?", *reversed(images_of([second])))]
    repeats = how.get("num_beams", how.get("num_return_sequences"))
    options: dict[str, Any] = {**ANSWER, **how, "output_logits": True, "return_dict_in_generate": True}
    batch = encode(world.processor, first, second, num_world_steps=1)
    together = world.generate(**batch, **options).logits[0].unflatten(0, (2, repeats))
    alone = [world(**encode(world.processor, chat, num_world_steps=1)).logits[0, -1] for chat in (first, second)]
    assert (alone[0] - alone[1]).abs().max() > 1e-2  # the two do differ
    for row, expected in enumerate(alone):
        for repeat in range(repeats):
            torch.testing.assert_close(together[row, repeat], expected, rtol=1e-4, atol=1e-4)


def test_beams_differ_from_those_of_another_world(world: TheWorld, inputs: Any) -> None:
    other = {**inputs, "world_pixel_values": -inputs["world_pixel_values"]}
    scores = [
        world.generate(**given, **ANSWER, num_beams=3, output_scores=True, return_dict_in_generate=True)
        for given in (inputs, other)
    ]
    assert not torch.equal(scores[0].sequences_scores, scores[1].sequences_scores)


def test_sampling_repeats_with_the_seed(world: TheWorld, inputs: Any) -> None:
    def sample(seed: int) -> torch.Tensor:
        set_seed(seed)
        return answer_ids(world, inputs, do_sample=True, num_return_sequences=4)

    assert torch.equal(sample(1), sample(1))
    assert not torch.equal(sample(1), sample(2))
    assert len(torch.unique(sample(1), dim=0)) > 1


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"num_beams": 3},
        {"do_sample": True, "num_return_sequences": 3},
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"prefill_chunk_size": 10},
        {"assistant_model": tiny.tiny_gemma(seed=1), "min_new_tokens": None},
    ],
    ids=str,
)
def test_world_encoder_runs_once_per_image(
    world: TheWorld, conversations: dict[str, list[Message]], encoded: list[int], how: dict[str, Any]
) -> None:
    chosen = [conversations["image"]] if "assistant_model" in how else list(conversations.values())
    given = encode(world.processor, *chosen, num_world_steps=1)
    answer_ids(world, given, **how)
    assert encoded == [len(images_of(chosen))]
    encoded.clear()
    plain = encode(world.processor, *chosen, use_world=False)
    answer_ids(world, plain, images=images_of(chosen), **how)
    assert encoded == [len(images_of(chosen))]


def test_world_off_runs_no_encoder(world: TheWorld, inputs: Any, encoded: list[int]) -> None:
    answer_ids(world, inputs, use_world=False)
    assert encoded == []


def test_rollout_seed_of_a_call(world: TheWorld, conversations: dict[str, list[Message]]) -> None:
    given = encode(world.processor, conversations["image"], num_world_steps=2)

    def first_logits(**how: Any) -> torch.Tensor:
        return world.generate(**given, **ANSWER, **how, output_logits=True, return_dict_in_generate=True).logits[0]

    assert torch.equal(first_logits(world_seed=world.config.world_seed), first_logits())
    assert not torch.equal(first_logits(world_seed=7), first_logits())


@pytest.mark.parametrize(
    ("steps", "how"),
    [(0, {"world_seed": -1}), (2, {"world_seed": -1}), (2, {"world_seed": 2**63 - 1, "num_futures": 2})],
)
def test_a_rollout_seed_out_of_range(
    world: TheWorld, conversations: dict[str, list[Message]], steps: int, how: dict[str, int]
) -> None:
    given = encode(world.processor, conversations["image"], num_world_steps=steps)
    with pytest.raises(ValueError, match=r"world_seed=-?\d+: expected 0 to 9223372036854775807"):
        world.generate(**given, **ANSWER, **how)


# ------------------------------------------------------------------------------------------- assisted and streamed


@pytest.fixture(scope="module")
def helper() -> Gemma3ForConditionalGeneration:
    return tiny.tiny_gemma(seed=1)


@pytest.fixture(scope="module")
def eager_helper() -> Gemma3ForConditionalGeneration:
    """One whose guesses are always right: the same weights."""
    return tiny.tiny_gemma()


@pytest.mark.parametrize("name", ["helper", "eager_helper"])
def test_assisted_by_gemma(world: TheWorld, inputs: Any, name: str, request: pytest.FixtureRequest) -> None:
    greedy = answer_ids(world, inputs, min_new_tokens=None)
    assisted = answer_ids(world, inputs, min_new_tokens=None, assistant_model=request.getfixturevalue(name))
    assert torch.equal(assisted, greedy)


def test_assisted_by_itself(world: TheWorld, inputs: Any) -> None:
    greedy = answer_ids(world, inputs, min_new_tokens=None)
    assert torch.equal(answer_ids(world, inputs, min_new_tokens=None, assistant_model=world), greedy)


@pytest.mark.parametrize("given_as", ["processor", "images"])
def test_prompt_lookup(world: TheWorld, images: list[Image.Image], given_as: str) -> None:
    # The image last but one: what the prompt's last word followed before must not be a placeholder, which stock Gemma
    # does not survive either.
    content = [{"type": "text", "text": "the ball the ball the ball"}, {"type": "image", "image": images[0]}]
    conversation = [{"role": "user", "content": [*content, {"type": "text", "text": "the ball the ball"}]}]
    with_block = encode(world.processor, conversation)
    greedy = answer_ids(world, with_block, max_new_tokens=12, min_new_tokens=None)
    how: dict[str, Any] = {"max_new_tokens": 12, "min_new_tokens": None, "prompt_lookup_num_tokens": 3}
    if given_as == "images":
        plain = encode(world.processor, conversation, use_world=False)
        assert torch.equal(answer_ids(world, plain, images=[images[0]], **how), greedy)
    else:
        assert torch.equal(answer_ids(world, with_block, **how), greedy)


def test_guessed_world_tokens_are_no_error(world: TheWorld, inputs: Any) -> None:
    """Prompt lookup may propose what followed the same words before: a world block."""
    cache = DynamicCache(config=world.config.get_text_config())
    world(**inputs, past_key_values=cache, use_cache=True)
    block = [world.config.start_of_world_token_id, world.config.world_token_id, world.config.world_token_id]
    output = world(input_ids=torch.tensor([[5, *block]]), past_key_values=cache, use_cache=True)
    assert output.logits.shape[1] == 4
    assert output.num_world_tokens == 0


@pytest.mark.parametrize("given_as", ["processor", "images"])
def test_streaming(world: TheWorld, images: list[Image.Image], given_as: str) -> None:
    conversation = [user("Which bin will the ball land in?", images[0])]
    given = encode(world.processor, conversation, use_world=given_as == "processor")
    extra = {} if given_as == "processor" else {"images": [images[0]]}
    answer = world.processor.decode(answer_ids(world, given, **extra)[0], skip_special_tokens=True)
    streamer = TextIteratorStreamer(world.processor.tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=60)
    thread = threading.Thread(target=world.generate, kwargs={**given, **ANSWER, **extra, "streamer": streamer})
    thread.start()
    streamed = "".join(streamer)
    thread.join()
    assert streamed == answer


# ------------------------------------------------------------------------------------------------------- images=


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("names", [("image",), ("two images",), ("text", "image", "two images")])
def test_images_argument_gives_the_processors_answer(
    model: TheWorld, conversations: dict[str, list[Message]], names: tuple[str, ...], steps: int
) -> None:
    chosen = [conversations[name] for name in names]
    given = encode(model.processor, *chosen, num_world_steps=steps)
    plain = encode(model.processor, *chosen, use_world=False)
    assert torch.equal(
        answer_ids(model, plain, images=images_of(chosen), num_world_steps=steps), answer_ids(model, given)
    )


def test_default_steps_of_the_images_argument(shared: Load, images: list[Image.Image]) -> None:
    model = shared(num_world_steps=1)
    plain = encode(model.processor, [user("Where?", images[0])], use_world=False)
    assert model(**plain, images=images[:1]).num_world_tokens == 2 * FRAME_TOKENS
    assert model(**encode(model.processor, [user("Where?", images[0])])).num_world_tokens == 2 * FRAME_TOKENS


@pytest.mark.parametrize("form", ["ids", "dict"])
def test_sequences_begin_with_the_callers_prompt(world: TheWorld, images: list[Image.Image], form: str) -> None:
    conversations = [[user("Hi?", images[0])], [user("What colour is the ball?", images[1])]]
    plain = encode(world.processor, *conversations, use_world=False)
    output = world.generate(
        **plain,
        images=images[:2],
        **ANSWER,
        num_beams=2,
        num_return_sequences=2,
        return_dict_in_generate=form == "dict",
    )
    sequences = output.sequences if form == "dict" else output
    length = plain["input_ids"].shape[1]
    assert torch.equal(sequences[:, :length], plain["input_ids"].repeat_interleave(2, dim=0))
    assert sequences.shape == (4, length + ANSWER["max_new_tokens"])


def test_max_length_counts_the_callers_prompt(world: TheWorld, images: list[Image.Image]) -> None:
    plain = encode(world.processor, [user("Hi?", images[0])], use_world=False)
    length = plain["input_ids"].shape[1] + 3
    output = world.generate(**plain, images=images[:1], max_length=length, min_length=length, do_sample=False)
    assert output.shape[1] == length


def test_ids_alone_are_enough(world: TheWorld, images: list[Image.Image]) -> None:
    plain = encode(world.processor, [user("Hi?", images[0])], use_world=False)
    short = {"input_ids": plain["input_ids"], "pixel_values": plain["pixel_values"]}
    named = world.generate(**short, images=images[:1], **ANSWER)
    positional = world.generate(plain["input_ids"], images=images[:1], pixel_values=plain["pixel_values"], **ANSWER)
    assert torch.equal(positional, named)
    with_block = encode(world.processor, [user("Hi?", images[0])])
    del with_block["attention_mask"], with_block["token_type_ids"]
    assert torch.equal(named[:, plain["input_ids"].shape[1] :], answer_ids(world, with_block))


# ---------------------------------------------------------------------------------------------------------- ask


def test_ask_is_the_long_form(world: TheWorld, images: list[Image.Image]) -> None:
    question = "What colour is the ball?"
    for how in ({}, {"num_world_steps": 1}, {"use_world": False}):
        given = encode(world.processor, [user(question, images[0])], **how)
        asked = {"use_world": how.get("use_world")}
        expected = world.processor.decode(answer_ids(world, given, **asked)[0], skip_special_tokens=True).strip()
        assert world.ask(images[0], question, **how, **ANSWER) == expected


@pytest.mark.parametrize("question", ["", "  \n"])
def test_ask_nothing_is_an_error(world: TheWorld, images: list[Image.Image], question: str) -> None:
    with pytest.raises(ValueError, match="question is empty"):
        world.ask(images[0], question)


@pytest.fixture
def suppressed(world: TheWorld, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """`suppress_tokens` of every `generate` call of the test."""
    seen: list[Any] = []
    prepare = type(world)._get_logits_processor

    def spy(self: Any, generation_config: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(generation_config.suppress_tokens)
        return prepare(self, generation_config, *args, **kwargs)

    monkeypatch.setattr(type(world), "_get_logits_processor", spy)
    return seen


def test_markers_are_suppressed_beside_both_kinds_of_settings(
    world: TheWorld, images: list[Image.Image], suppressed: list[Any]
) -> None:
    prompt = encode(world.processor, [user("Which bin will the ball land in?", images[0])])
    given = {"generation_config": GenerationConfig(**ANSWER), "suppress_tokens": [9]}
    world.generate(**prompt, **given)
    config = world.config
    markers = {config.start_of_world_token_id, config.end_of_world_token_id, config.world_token_id}
    assert suppressed
    assert set(suppressed[0]) == {9, *markers}


def test_markers_are_not_suppressed_with_the_world_off(
    world: TheWorld, images: list[Image.Image], suppressed: list[Any]
) -> None:
    prompt = encode(world.processor, [user("Which bin will the ball land in?", images[0])])
    world.generate(**prompt, use_world=False, **ANSWER)
    assert suppressed == [None]


def test_ask_obeys_the_settings_it_is_given(world: TheWorld, images: list[Image.Image]) -> None:
    given = GenerationConfig(max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert world.ask(images[0], "Hi?", generation_config=given) == world.ask(
        images[0], "Hi?", max_new_tokens=3, min_new_tokens=3
    )
    with pytest.raises(ValueError, match="ask returns one answer"):
        world.ask(images[0], "Hi?", num_return_sequences=2, do_sample=True, max_new_tokens=2)
    with pytest.raises(ValueError, match="not Unicode text"):
        world.ask(images[0], "What \ud83d?")


@pytest.mark.parametrize("wrong", [(1, 3, 8, 8), (1, 1, 16, 16)])
def test_world_pixels_of_another_shape_are_refused(
    world: TheWorld, images: list[Image.Image], wrong: tuple[int, ...]
) -> None:
    prompt = encode(world.processor, [user("Hi?", images[0])])
    right = prompt["world_pixel_values"]
    for pixels in (right.new_zeros(wrong), right.to(torch.uint8)):
        with pytest.raises(ValueError, match=r"world_pixel_values .*expected \(images, 3"):
            world.generate(**{**prompt, "world_pixel_values": pixels}, **ANSWER)
