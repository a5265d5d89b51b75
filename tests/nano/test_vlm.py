"""The nano Gemma's recipe at smoke scale: the real classes, the real chat format, a folder that loads."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, Gemma3ForConditionalGeneration, Gemma3Processor

from theworld.constants import IGNORE_INDEX
from theworld.nano.asking import answer_items, draw_items, score
from theworld.nano.batches import Batches
from theworld.nano.conversations import (
    ChatEncoder,
    Conversation,
    draw_conversation,
    draw_views,
    place_questions,
)
from theworld.nano.questions import all_texts
from theworld.nano.render import CLASSES
from theworld.nano.scenes import KINDS, SceneSet, generate, load
from theworld.nano.tokenizer import build_processor, build_tokenizer
from theworld.nano.vision import cell_classes, encode_images, image_tokens, take_vision, to_pixels
from theworld.nano.vlm import build_gemma, save_vlm, train_vlm
from theworld.nano.words import EIGHTHS

SMALL_TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
SMALL_VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    for split in ("train", "validation"):
        generate(root / split, split, dict.fromkeys(KINDS, 3), workers=1)
    return root


@pytest.fixture(scope="module")
def scenes(folder: Path) -> SceneSet:
    return load(folder / "train")


@pytest.fixture(scope="module")
def processor() -> Gemma3Processor:
    return build_processor(build_tokenizer(all_texts()), image_size=32, image_seq_length=16)


@pytest.fixture
def model(processor: Gemma3Processor) -> Gemma3ForConditionalGeneration:
    torch.manual_seed(0)
    return build_gemma(processor.tokenizer, text=SMALL_TEXT, vision=SMALL_VISION).eval()


def conversation(scenes: SceneSet, views: tuple[int, ...], clip: int = 0, turns: int = 4) -> Conversation:
    return draw_conversation(clip, scenes.records[clip], views, turns, np.random.default_rng(0))


@pytest.mark.parametrize("views", [(0,), (12, 0), (0, 4, 8, 12, 0)])
def test_training_ids_are_what_the_processor_renders(
    scenes: SceneSet, processor: Gemma3Processor, views: tuple[int, ...]
) -> None:
    chat = conversation(scenes, views)
    pictures = [{"type": "image", "image": Image.fromarray(scenes.frames[0, view])} for view in views]
    messages = []
    for index, turn in enumerate(chat.turns):
        content = [*(pictures if index == 0 else []), {"type": "text", "text": turn.text}]
        messages += [
            {"role": "user", "content": content},
            {"role": "assistant", "content": [{"type": "text", "text": turn.answer}]},
        ]
    rendered = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
    ids, labels = ChatEncoder(processor)(chat)
    assert ids == rendered["input_ids"][0].tolist()
    supervised = processor.tokenizer.decode([label for label in labels if label != IGNORE_INDEX])
    assert supervised == "".join(f"{turn.answer}<end_of_turn>" for turn in chat.turns)
    assert torch.equal(rendered["pixel_values"], to_pixels(scenes.frames[0, list(views)]))


def test_predictive_questions_need_the_final_frame(scenes: SceneSet) -> None:
    for clip, record in enumerate(scenes.records):
        first = draw_conversation(clip, record, (0,), 99, np.random.default_rng(0))
        final = draw_conversation(clip, record, (12, 0), 99, np.random.default_rng(0))
        about_the_end = {turn.family for turn in final.turns if turn.kind != "static" and turn.family != "describe"}
        assert {turn.kind for turn in first.turns if turn.family != "describe"} == {"static"}
        assert about_the_end == set(record["outcomes"]) or len(about_the_end) == 1  # one as people ask
        facts = [(turn.family, turn.answer) for turn in final.turns]
        assert len(set(facts)) == len(facts)
        closed = [turn.family for turn in final.turns if len(turn.choices) == 2]
        assert len(set(closed)) == len(closed)


def test_exercises_ask_where_each_named_ball_of_a_race_is(scenes: SceneSet) -> None:
    record = next(record for record in scenes.records if record["kind"] == "race")
    asked = place_questions(record, 4, np.random.default_rng(0))
    for ball, (x, y) in zip(record["scene"]["balls"], record["ball_xy"][4], strict=True):
        answers = {turn.family: turn.answer for turn in asked if f"the {ball['colour']} ball" in turn.text}
        assert answers["row"] == EIGHTHS[int(y // 4)]
        assert answers["wall_distance"] == EIGHTHS[int(abs(x - 16) // 2)]
    assert not place_questions({**record, "kind": "stack"}, 4, np.random.default_rng(0))


def test_cells_follow_the_order_of_image_tokens() -> None:
    classes = np.zeros((1, 32, 32), np.uint8)
    classes[0, 8:16, 24:32] = 5  # second row, last column: token 7
    classes[0, 0:2, 2:4] = 3  # token 0, cell 1
    shares = cell_classes(classes)
    assert shares.shape == (1, 16, 16, len(CLASSES))
    assert torch.equal(shares.sum(-1), torch.ones(1, 16, 16))
    assert shares[0, 7, :, 5].eq(1).all()
    assert shares[0, 0, 1, 3] == 1
    assert shares[..., 5].sum() == 16


def test_images_are_encoded_once_and_in_order(scenes: SceneSet, model: Gemma3ForConditionalGeneration) -> None:
    with torch.no_grad():
        tokens = encode_images(model, scenes, [(0, 12), (1, 0), (0, 12)])
        alone = image_tokens(model, to_pixels(scenes.frames[1, [0]]))
    assert torch.equal(tokens[0], tokens[2])
    torch.testing.assert_close(tokens[1], alone[0])


def test_saved_folder_is_small_rounded_and_loads(
    model: Gemma3ForConditionalGeneration, processor: Gemma3Processor, scenes: SceneSet, tmp_path: Path
) -> None:
    save_vlm(model, processor, tmp_path)
    loaded = Gemma3ForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.dtype == torch.float32
    assert loaded.generation_config.eos_token_id == [1, processor.tokenizer.convert_tokens_to_ids("<end_of_turn>")]
    for name, value in model.state_dict().items():
        assert torch.equal(value.bfloat16().float(), loaded.state_dict()[name]), name
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert (tmp_path / "model.safetensors").stat().st_size < 2 * parameters + 20_000
    items = draw_items(scenes, (12, 0), 2, predictive=True)
    again = AutoProcessor.from_pretrained(tmp_path)
    alone = [answer_items(loaded, again, [item])[0] for item in items]
    assert alone == answer_items(loaded, again, items)


def test_score_counts_exact_answers(scenes: SceneSet) -> None:
    items = draw_items(scenes, (0,), 3, predictive=False)
    figures = score(items, [item.question.answer for item in items])
    assert all(row["accuracy"] == 1 and row["n"] <= 3 for row in figures.values())
    assert all(row["accuracy"] == 0 for row in score(items, ["?"] * len(items)).values())


@pytest.mark.parametrize("taken", [1, 3, 4, 6])
def test_batches_continue_where_they_were(scenes: SceneSet, processor: Gemma3Processor, taken: int) -> None:
    def batches(seed: int) -> Batches:
        return Batches(scenes, ChatEncoder(processor), 2, 3, {"drop": 0.5, "race": 0.5}, np.random.default_rng(seed))

    first, second = batches(0), batches(1)
    for _ in range(taken):
        next(first)
    second.load_state_dict(first.state_dict())
    for _ in range(5):
        expected, found = next(first), next(second)
        assert torch.equal(expected.ids, found.ids)
        assert expected.images == found.images


def test_kinds_without_scenes_are_not_drawn(scenes: SceneSet, processor: Gemma3Processor) -> None:
    shares = {"drop": 0.2, "race": 0.2, "marbles": 0.6}
    batches = Batches(scenes, ChatEncoder(processor), 2, 3, shares, np.random.default_rng(0))
    chances = dict(zip(batches.clips, batches.chances, strict=True))
    assert chances["drop"] == pytest.approx(chances["race"])
    assert chances["pegs"] == pytest.approx(chances["drop"] * (1 / 3) / 0.2)  # not named: the mean share
    assert set(chances) == set(KINDS)


@pytest.mark.parametrize("frames", [5, 9, 13])
def test_views_lie_in_the_clip_and_end_with_the_present_one(frames: int) -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_views(frames, rng) for _ in range(200)]
    assert all(0 <= view < frames for views in drawn for view in views)
    assert (*range(0, frames, 4), 0) in drawn
    assert max(map(len, drawn)) == (frames - 1) // 4 + 2


def test_vision_of_other_weights_has_to_fit(
    model: Gemma3ForConditionalGeneration, processor: Gemma3Processor, tmp_path: Path
) -> None:
    save_vlm(model, processor, tmp_path)
    other = build_gemma(processor.tokenizer, text=SMALL_TEXT, vision=SMALL_VISION)
    take_vision(other, tmp_path)
    own, given = (one.model.vision_tower.state_dict() for one in (other, model))
    assert all(torch.equal(own[name], value.bfloat16().float()) for name, value in given.items())
    wider = build_gemma(processor.tokenizer, text=SMALL_TEXT, vision={**SMALL_VISION, "hidden_size": 48})
    with pytest.raises(ValueError, match="leave start_from out"):
        take_vision(wider, tmp_path)


def test_recipe_runs(folder: Path, tmp_path: Path) -> None:
    figures = train_vlm(folder, tmp_path, vision_steps=1, language_steps=1, comparison_steps=1, per_family=1)
    assert list(figures) == ["vision", "language", "comparison", "validation"]
    assert (tmp_path / "vlm.json").is_file()
    assert Gemma3ForConditionalGeneration.from_pretrained(tmp_path).config.mm_tokens_per_image == 16
