"""The labels are the answers and their ends, whatever the example; what cannot be learned from is named, not hidden."""

import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from tests.model.helpers import WORLD
from theworld import TheWorld, TheWorldConfig, TheWorldProcessor
from theworld.constants import IGNORE_INDEX
from theworld.data.collator import TheWorldCollator
from theworld.data.regions import draw_regions
from theworld.data.schema import Example, Message, Skipped

EOT = "<end_of_turn>"
USER, ANSWER = Message("user", "Which bin?"), Message("assistant", "The red bin.")


@pytest.fixture(scope="module")
def processor() -> TheWorldProcessor:
    gemma = tiny.tiny_processor()
    config = TheWorldConfig(**tiny.tiny_gemma_config().to_dict() | WORLD | {"model_type": "theworld"})
    for token, field in (("<unused0>", "start"), ("<unused1>", "end")):
        setattr(config, f"{field}_of_world_token_id", gemma.tokenizer.convert_tokens_to_ids(token))
    return TheWorldProcessor.from_gemma(gemma, config)


@pytest.fixture(scope="module")
def collator(processor: TheWorldProcessor) -> TheWorldCollator:
    return TheWorldCollator(processor)


@pytest.fixture
def picture(tmp_path: Path, images: list[Image.Image]) -> Path:
    images[0].save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def example(*turns: str, images: Sequence[Any] = (), id: str = "a", system: str | None = None, **more: Any) -> Example:
    """User and assistant by turns."""
    messages = [Message(("user", "assistant")[place % 2], text) for place, text in enumerate(turns)]
    if system is not None:
        messages.insert(0, Message("system", system))
    return Example(id, tuple(messages), tuple(images), **more)


def supervised(collator: TheWorldCollator, batch: dict[str, Any]) -> list[str]:
    """What each row learns to say."""
    rows = [row[row != IGNORE_INDEX] for row in batch["labels"]]
    return [collator.processor.tokenizer.decode(row) for row in rows]


def skipped(collator: TheWorldCollator, *examples: Example) -> list[tuple[str, str]]:
    return [(row.id, row.cause) for row in collator(examples)["skipped"]]


# ---------------------------------------------------------------------------------------------------------- labels


def kinds(images: list[Image.Image]) -> dict[str, Example]:
    """An example of each shape that a source yields."""
    region = {"box": [4, 4, 30, 30], "size": [images[0].height, images[0].width]}
    return {
        "vsr": example("Is the ball red? Answer 0 or 1.", "1", images=images[:1], choices=("0", "1")),
        "spatial_rgpt": example(
            "<image>\nHow wide is Region [0]?",
            "About 3.5 metres.",
            "Is it taller than Region [0]?",
            "Yes, it is.",
            images=images[:1],
            metadata={"regions": [region], "draw_regions": True},
        ),
        "llava_pretrain": example("Describe it.\n<image>", "a ball in a bin ", images=images[:1]),
        "datacomp": example("<image>", "A ball, “quoted” — naïve café 😀", images=images[:1]),
        "blink": example("Which is closer? (A) or (B)", "(A)", images=images[:2], choices=("(A)", "(B)")),
        "micro_world": example("Where will it land?", "left", images=images[:1], choices=("left", "right")),
        "between": example("First <image> then <image>: same?", "No.\nNot at all.", images=images[:2]),
        "text": example("What colour is the ball?", "Red."),
        "system": example("Which?", "That.", images=images[:1], system="Answer in a word."),
        "open end": example("Which?", "That.", "Why?"),
    }


KINDS = tuple(kinds([Image.new("RGB", (8, 8))] * 3))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", KINDS)
def test_supervised_text_is_the_answers(
    processor: TheWorldProcessor, images: list[Image.Image], kind: str, side: Any
) -> None:
    chosen = kinds(images)[kind]
    collator = TheWorldCollator(processor, padding_side=side, num_world_steps=1)
    batch = collator([chosen])
    answers = [message.content.strip() + EOT for message in chosen.messages if message.role == "assistant"]
    assert batch["skipped"] == []
    assert supervised(collator, batch) == ["".join(answers)]
    given = batch["labels"] != IGNORE_INDEX
    assert torch.equal(batch["labels"][given], batch["input_ids"][given])


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_mixed_batch_is_its_samples_padded(
    processor: TheWorldProcessor, images: list[Image.Image], side: Any
) -> None:
    collator = TheWorldCollator(processor, padding_side=side)
    chosen = list(kinds(images).values())
    batch, alone = collator(chosen), [collator([one]) for one in chosen]
    assert batch["input_ids"].shape[0] == len(chosen)
    assert [row.shape for row in batch["input_ids"]] == [row.shape for row in batch["labels"]]
    for name in ("input_ids", "labels", "token_type_ids"):
        rows = zip(batch[name], batch["attention_mask"].bool(), strict=True)
        assert [row[mask].tolist() for row, mask in rows] == [one[name][0].tolist() for one in alone]
    padding = ~batch["attention_mask"].bool()
    assert (batch["labels"][padding] == IGNORE_INDEX).all()
    assert padding[:, 0 if side == "left" else -1].any()
    assert not padding[:, -1 if side == "left" else 0].any()
    for name in ("pixel_values", "world_pixel_values"):
        assert torch.equal(batch[name], torch.cat([one[name] for one in alone if name in one]))


def test_what_a_batch_holds(collator: TheWorldCollator, images: list[Image.Image]) -> None:
    batch = collator([example("Hi?", "Yes.", images=images[:1])])
    assert set(batch) == {
        *("input_ids", "attention_mask", "token_type_ids", "pixel_values", "world_pixel_values", "labels", "skipped")
    }
    assert next(iter(batch)) == "input_ids"
    text = collator([example("Hi?", "Yes.")])
    assert set(text) == {"input_ids", "attention_mask", "token_type_ids", "labels", "skipped"}


def test_image_tokens_are_marked(collator: TheWorldCollator, images: list[Image.Image]) -> None:
    """Without these marks image tokens would be causal in training and bidirectional in use."""
    batch = collator([example("Hi?", "Yes.", images=images[:2])])
    image = collator.processor.tokenizer.image_token_id
    assert torch.equal(batch["token_type_ids"] == 1, batch["input_ids"] == image)
    assert int((batch["input_ids"] == image).sum()) == 2 * tiny.IMAGE_TOKENS


def test_only_the_answer_is_learned(collator: TheWorldCollator, images: list[Image.Image]) -> None:
    """Neither the header of the turn nor its trailing newline, and nothing before it."""
    batch = collator([example("Which bin?", "The red bin.", images=images[:1])])
    learned = (batch["labels"][0] != IGNORE_INDEX).nonzero().flatten()
    decode = collator.processor.tokenizer.decode
    ids = batch["input_ids"][0]
    assert decode(ids[: learned[0]]).endswith("<start_of_turn>model\n")
    assert decode(ids[learned[-1] + 1 :]) == "\n"
    assert learned.tolist() == list(range(int(learned[0]), int(learned[-1]) + 1))


def test_batches_are_deterministic(collator: TheWorldCollator, images: list[Image.Image]) -> None:
    chosen = list(kinds(images).values())
    one, two = collator(chosen), pickle.loads(pickle.dumps(collator))(chosen)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one if name != "skipped")


# ---------------------------------------------------------------------------------------------------------- images


def where_images_stand(collator: TheWorldCollator, batch: dict[str, Any]) -> str:
    """The prompt with `@` for an image, its world blocks left out."""
    tokenizer = collator.processor.tokenizer
    text = tokenizer.decode(batch["input_ids"][0][batch["attention_mask"][0].bool()])
    for token in ("<unused0>", "<unused1>", "<unused2>", tokenizer.image_token, tokenizer.eoi_token, "\n\n"):
        text = text.replace(token, "")
    return text.replace(tokenizer.boi_token, "@")


@pytest.mark.parametrize(
    ("question", "count", "expected"),
    [
        ("one <image>two <image> three", 2, "user\none@two@three<"),
        ("<image>\nWhat?", 1, "user\n@What?<"),
        ("What?<image>", 1, "user\nWhat?@<"),
        ("What?", 2, "user\n@@What?<"),
        ("What?", 0, "user\nWhat?<"),
        ("<image>", 1, "user\n@<"),
    ],
)
def test_images_stand_at_their_markers(
    collator: TheWorldCollator, images: list[Image.Image], question: str, count: int, expected: str
) -> None:
    batch = collator([example(question, "Yes.", images=images[:count])])
    assert batch["skipped"] == []
    assert expected in where_images_stand(collator, batch)


def test_images_of_later_turns(collator: TheWorldCollator, images: list[Image.Image]) -> None:
    batch = collator([example("<image> one", "1", "two <image>", "2", images=images[:2])])
    assert "user\n@one<" in (text := where_images_stand(collator, batch))
    assert "user\ntwo@<" in text
    assert torch.equal(batch["world_pixel_values"], collator.processor.world_pixels(images[:2]))


def test_images_of_a_conversation_with_a_system_message(collator: TheWorldCollator, images: list[Image.Image]) -> None:
    batch = collator([example("What?", "1", images=images[:1], system="Be brief.")])
    assert "user\nBe brief.@What?<" in where_images_stand(collator, batch)
    empty = collator([example("What?", "1", images=images[:1], system=" ")])
    assert "user\n@What?<" in where_images_stand(collator, empty)


@pytest.mark.parametrize(("markers", "count"), [(1, 0), (1, 2), (2, 1), (3, 1)])
def test_markers_and_images_must_agree(
    collator: TheWorldCollator, images: list[Image.Image], markers: int, count: int
) -> None:
    row = collator([example("<image>" * markers + "What?", "1", images=images[:count])])["skipped"][0]
    assert row.cause == "image_count"
    assert f"{markers} <image>" in row.detail
    assert f"{count} images" in row.detail


def test_pictures_are_opened_in_the_folder(processor: TheWorldProcessor, picture: Path) -> None:
    collator = TheWorldCollator(processor, image_folder=picture.parent)
    by_name = collator([example("What?", "1", images=[picture.name])])
    given = collator([example("What?", "1", images=[Image.open(picture)])])
    assert torch.equal(by_name["pixel_values"], given["pixel_values"])
    outside = example("What?", "1", images=["../picture.png"])
    absent = example("What?", "1", images=["none.png"], id="b")
    assert skipped(collator, outside, absent) == [("a", "outside_folder"), ("b", "missing")]


def test_regions_are_drawn(collator: TheWorldCollator, images: list[Image.Image]) -> None:
    drawn = kinds(images)["spatial_rgpt"]
    expected = collator.processor.world_pixels([draw_regions(images[0], drawn.metadata["regions"])])
    assert torch.equal(collator([drawn])["world_pixel_values"], expected)
    plain = replace(drawn, metadata={**drawn.metadata, "draw_regions": False})
    assert torch.equal(collator([plain])["world_pixel_values"], collator.processor.world_pixels(images[:1]))


# ------------------------------------------------------------------------------------------------------ bad samples


@pytest.mark.parametrize(
    "text",
    [
        *(
            "<start_of_turn>",
            EOT,
            "<start_of_image>",
            "<end_of_image>",
            "<image_soft_token>",
            "<bos>",
            "<eos>",
            "<pad>",
        ),
        *("<unused0>", "<unused1>", "<unused2>", "<unused7>", "<unused99>", "<mask>"),
    ],
)
@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_structure_inside_a_text_is_refused(
    collator: TheWorldCollator, images: list[Image.Image], role: str, text: str
) -> None:
    texts = {"system": "Be brief.", "user": "Which?", "assistant": "That."}
    texts[role] += f" x{text}y"
    bad = example(texts["user"], texts["assistant"], images=images[:1], system=texts["system"])
    row = collator([bad])["skipped"][0]
    assert row.cause == "special_token"
    assert text in row.detail
    assert role in row.detail


def test_marker_outside_of_a_question(collator: TheWorldCollator, images: list[Image.Image]) -> None:
    assert skipped(collator, example("Which?", "<image>", images=images[:1])) == [("a", "special_token")]


@pytest.mark.parametrize(
    "roles", [(), ("assistant",), ("user", "user"), ("user", "assistant", "assistant"), ("user", "system"), ("system",)]
)
def test_order_of_turns(collator: TheWorldCollator, roles: tuple[Any, ...]) -> None:
    turns = [Message(role, "text") for role in roles]
    if "assistant" not in roles:
        turns = [*turns, Message("user", "more"), Message("assistant", "text")] if roles else []
    cause = "turn_order" if turns else "no_answer"
    assert skipped(collator, Example("a", tuple(turns))) == ([("a", cause)] if roles != ("system",) else [])


@pytest.mark.parametrize("turns", [("Why?",), ("Why?", ""), ("Why?", " \n"), ("Why?", "So.", "And?", "")])
def test_nothing_to_learn(collator: TheWorldCollator, turns: tuple[str, ...]) -> None:
    assert skipped(collator, example(*turns)) == [("a", "no_answer")]


def test_answer_that_the_tokenizer_does_not_reproduce(collator: TheWorldCollator) -> None:
    """The sign that stands for a space inside the tokenizer comes back as a space."""
    row = collator([example("Why?", "a\N{LOWER ONE EIGHTH BLOCK}b")])["skipped"][0]
    assert row.cause == "not_reproduced"
    assert "'a b<end_of_turn>'" in row.detail


@pytest.mark.parametrize("steps", [0, 2])
def test_long_samples_are_skipped_whole(processor: TheWorldProcessor, images: list[Image.Image], steps: int) -> None:
    """Images and worlds count, and are never cut."""
    chosen = [example("Why?", "So.", id="short"), example("Why?", "So.", images=images[:1], id="long")]
    lengths = [int(TheWorldCollator(processor, num_world_steps=steps)([one])["attention_mask"].sum()) for one in chosen]
    exact = TheWorldCollator(processor, num_world_steps=steps, max_length=lengths[1])
    assert exact(chosen)["skipped"] == []
    batch = TheWorldCollator(processor, num_world_steps=steps, max_length=lengths[1] - 1)(chosen)
    assert batch["skipped"] == [Skipped("long", "too_long", f"{lengths[1]} tokens, but max_length is {lengths[1] - 1}")]
    assert batch["input_ids"].shape == (1, lengths[0])
    assert "pixel_values" not in batch
    strict = TheWorldCollator(processor, num_world_steps=steps, max_length=lengths[1] - 1, overlong="error")
    with pytest.raises(ValueError, match=rf"long: {lengths[1]} tokens, but max_length is {lengths[1] - 1}"):
        strict(chosen)


def test_a_text_that_no_tokens_of_the_length_hold_is_not_tokenised(
    processor: TheWorldProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TheWorldCollator, "supervise", lambda *_: pytest.fail("tokenised"))
    large = "why is it so " * 2_000_000
    for row in (example(large, "So."), example("Why?", large), replace(example("Why?", "So."), choices=("So.", large))):
        with pytest.raises(ValueError, match=r"2\d,\d+,\d+ characters, but max_length is 2048 tokens; raise it"):
            TheWorldCollator(processor, overlong="error")([row])
    monkeypatch.undo()
    batch = TheWorldCollator(processor)([example(large, "So.", id="large"), example(" " * 200_000 + "Why?", "So.")])
    assert [(row.id, row.cause) for row in batch["skipped"]] == [("large", "too_long")]


def test_what_remains_is_the_batch_of_the_good_ones(collator: TheWorldCollator, images: list[Image.Image]) -> None:
    good = [example("Why?", "So.", images=images[:1], choices=("So.", "No.")), example("Why not?", "Never.", id="c")]
    bad = [
        Skipped("x", "bad_row", "line 3"),
        example("<eos>", "So.", id="y", choices=("a", "b", "c")),
        example("Why?", "a\N{LOWER ONE EIGHTH BLOCK}b", images=images[1:2], id="z", choices=("a", "b", "c")),
    ]
    batch = collator([bad[0], good[0], bad[1], bad[2], good[1]])
    assert [row.id for row in batch.pop("skipped")] == ["x", "y", "z"]
    expected = collator(good)
    expected.pop("skipped")
    assert batch.keys() == expected.keys()
    assert all(torch.equal(batch[name], expected[name]) for name in batch)


@pytest.mark.parametrize("items", [[Skipped("x", "bad_row", "line 3")], [example("Why?", "")], []], ids=str)
def test_a_batch_of_nothing_is_blank(collator: TheWorldCollator, items: list[Any]) -> None:
    batch = collator(items)
    assert len(batch["skipped"]) == len(items)
    assert batch["input_ids"].shape[0] == 1
    assert (batch["labels"] == IGNORE_INDEX).all()
    assert "choice_ids" not in batch


def test_details_are_one_line(collator: TheWorldCollator) -> None:
    rows = collator([example("a\nb<eos>\n", "So."), example("Why?", "a\n\N{LOWER ONE EIGHTH BLOCK}b" * 99)])["skipped"]
    assert len(rows) == 2
    assert all("\n" not in row.detail and len(row.detail) < 400 for row in rows)


# --------------------------------------------------------------------------------------------------------- choices


def test_choices_are_the_first_tokens_of_the_answers(collator: TheWorldCollator) -> None:
    chosen = [
        example("Which?", "1", choices=("0", "1"), id="a"),
        example("Which?", "That.", id="b"),
        example("Which?", "yellow", choices=("red", "yellow", "blue"), id="c"),
    ]
    batch = collator(chosen)
    assert batch["choice_ids"].shape == (3, 3)
    assert batch["choice_ids"].dtype == torch.long
    assert batch["choice_ids"][1].tolist() == [-1, -1, -1]
    assert batch["choice_ids"][0, 2] == -1
    for row, place in ((0, 1), (2, 1)):
        labels = batch["labels"][row]
        assert batch["choice_ids"][row, place] == labels[labels != IGNORE_INDEX][0]
    assert "choice_ids" not in collator(chosen[1:2])


# ---------------------------------------------------------------------------------------------------- latent cache


class Latents:
    """Every frame's mean, so that places can be checked."""

    def lookup(self, world_pixel_values: torch.Tensor) -> torch.Tensor:
        return world_pixel_values.mean((1, 2, 3)).view(-1, 1, 1, 1, 1).expand(-1, 16, 1, 4, 4)


class NoLatents:
    def lookup(self, world_pixel_values: torch.Tensor) -> torch.Tensor:
        raise KeyError("run `theworld precompute`")


def test_latents_stand_in_for_frames(processor: TheWorldProcessor, images: list[Image.Image]) -> None:
    cached = TheWorldCollator(processor, latent_cache=Latents())
    chosen = list(kinds(images).values())
    batch, plain = cached(chosen), TheWorldCollator(processor)(chosen)
    assert torch.equal(batch.pop("world_latents"), Latents().lookup(plain.pop("world_pixel_values")))
    assert batch.keys() == plain.keys()
    assert "world_latents" not in cached([example("Why?", "So.")])


def test_a_missing_latent_is_an_error(processor: TheWorldProcessor, images: list[Image.Image]) -> None:
    with pytest.raises(KeyError, match="theworld precompute"):
        TheWorldCollator(processor, latent_cache=NoLatents())([example("Why?", "So.", images=images[:1])])


def test_a_batch_draws_its_number_of_latent_frames_from_the_ids_of_its_rows(
    processor: TheWorldProcessor, images: list[Image.Image]
) -> None:
    own = processor.num_world_steps
    cached = TheWorldCollator(processor, drawn_world_steps=[own, own + 1], latent_cache=Latents())

    def rows(number: int) -> list[Example]:
        return [example("Why?", "So.", images=images[:1], id=f"{number}-{place}") for place in range(2)]

    lengths = {s: TheWorldCollator(processor, num_world_steps=s)(rows(0))["input_ids"].shape for s in (own, own + 1)}
    found: dict[torch.Size, set[str]] = {}
    shapes = []
    for number in range(12):
        batch = cached(rows(number))
        found.setdefault(batch["input_ids"].shape, set()).update(batch.keys() & {"world_latents", "world_pixel_values"})
        shapes.append(batch["input_ids"].shape)
    # The cache holds rollouts of the processor's own length; of another length the model makes its own
    assert found == {lengths[own]: {"world_latents"}, lengths[own + 1]: {"world_pixel_values"}}
    # A resumed run gives the same batches
    torch.manual_seed(5)
    assert [cached(rows(number))["input_ids"].shape for number in range(12)] == shapes
    told = cached.for_evaluation()
    assert {told(rows(number))["input_ids"].shape for number in range(6)} == {lengths[own]}


def test_a_number_and_drawn_numbers_contradict_each_other(processor: TheWorldProcessor) -> None:
    with pytest.raises(ValueError, match="num_world_steps=1 and drawn_world_steps=\\[0, 1\\] contradict each other"):
        TheWorldCollator(processor, num_world_steps=1, drawn_world_steps=[0, 1])


# ------------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(("name", "value"), [("padding_side", "top"), ("overlong", "cut"), ("max_length", 0)])
def test_arguments_out_of_range(processor: TheWorldProcessor, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        TheWorldCollator(processor, **{name: value})


def test_stock_gemma_is_fed_as_well(images: list[Image.Image]) -> None:
    collator = TheWorldCollator(tiny.tiny_processor())
    batch = collator([example("Which?", "That.", images=images[:1])])
    assert supervised(collator, batch) == ["That." + EOT]
    assert "world_pixel_values" not in batch


# ------------------------------------------------------------------------------------------------- with the model


@pytest.fixture(scope="module")
def model() -> TheWorld:
    return TheWorld.from_pretrained("nano")


def pictures(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(1)
    return [Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(count)]


def loss(model: TheWorld, collator: TheWorldCollator, *examples: Example, **change: Any) -> torch.Tensor:
    batch = collator(examples)
    del batch["skipped"]
    return model(**{**batch, **change}, supervised_logits_only=True).loss


def test_loss_is_of_the_answer(model: TheWorld) -> None:
    """It is the cross-entropy of the answer's tokens, which the prompt's ids only condition."""
    collator = TheWorldCollator(model.processor)
    batch = collator([example("Which bin?", "red", images=pictures(1))])
    del batch["skipped"]
    logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits[0].log_softmax(-1)
    places = (batch["labels"][0] != IGNORE_INDEX).nonzero().flatten()
    expected = -torch.stack([logits[place - 1, batch["labels"][0, place]] for place in places]).mean()
    torch.testing.assert_close(model(**batch).loss, expected, rtol=1e-5, atol=1e-5)


def test_padding_and_batch_mates_change_no_loss(model: TheWorld) -> None:
    frames = pictures(2)
    chosen = [example("Which bin?", "red", images=frames[:1]), example("Why is it so, do you think?", "blue blue")]
    for side in ("left", "right"):
        collator = TheWorldCollator(model.processor, padding_side=side)
        batch = collator(chosen)
        counts = [int((row != IGNORE_INDEX).sum()) for row in batch["labels"]]
        alone = [loss(model, collator, one) * count for one, count in zip(chosen, counts, strict=True)]
        torch.testing.assert_close(loss(model, collator, *chosen), sum(alone) / sum(counts), rtol=1e-4, atol=1e-5)


def test_a_bad_batch_has_a_loss_of_exactly_zero(model: TheWorld) -> None:
    assert loss(model, TheWorldCollator(model.processor), example("Why?", "")).item() == 0.0
