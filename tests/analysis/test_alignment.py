"""The measures of alignment on tokens whose answers are known, and that the tokens are those of the model."""

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.model.helpers import FRAME_TOKENS
from theworld import TheWorld
from theworld.analysis.alignment import (
    AlignmentTokens,
    alignment_metrics,
    collect_tokens,
    cosine_at_place,
    effective_rank,
    ordinary_tokens,
)
from theworld.analysis.alignment_plots import figure_path, save_alignment, tsne


@pytest.fixture(scope="module")
def tokens(world: TheWorld, images: list[Image.Image]) -> AlignmentTokens:
    return collect_tokens(world, images[:2], 2, text_tokens=60)


def made(world: torch.Tensor, image: torch.Tensor) -> AlignmentTokens:
    return AlignmentTokens(world, image, torch.ones(4, world.shape[-1]), (2, 2))


@pytest.mark.parametrize(
    ("matrix", "rank"),
    [
        (torch.eye(5), 5),
        (torch.ones(7, 3), 1),
        (torch.zeros(4, 4), 0),
        (torch.diag(torch.tensor([3.0, 1.0])), math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))),
    ],
)
def test_effective_rank(matrix: torch.Tensor, rank: float) -> None:
    assert effective_rank(matrix) == pytest.approx(rank)


def test_tokens_are_those_that_enter_the_language_model(
    world: TheWorld, images: list[Image.Image], tokens: AlignmentTokens
) -> None:
    inputs = world.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image", "image": images[0]}, {"type": "text", "text": "bin"}]}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        num_world_steps=2,
    )
    seen: list[torch.Tensor] = []
    hook = world.model.language_model.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(kwargs["inputs_embeds"][0]), with_kwargs=True
    )
    with torch.no_grad():
        world(**inputs)
    hook.remove()
    ids = inputs["input_ids"][0]
    assert torch.allclose(seen[0][ids == world.config.world_token_id], tokens.world[0].flatten(0, 1), atol=1e-5)
    assert torch.allclose(seen[0][ids == world.config.image_token_index], tokens.image[0], atol=1e-5)
    chosen = ordinary_tokens(world, 10_000)
    everything = collect_tokens(world, images[:1], 0, text_tokens=10_000).text
    shared = [index for index, token in enumerate(chosen.tolist()) if token in ids.tolist()]
    assert shared
    for index in shared:
        assert torch.allclose(seen[0][ids == chosen[index]], everything[index], atol=1e-6)


def test_text_has_no_special_tokens(world: TheWorld) -> None:
    tokenizer = world.processor.tokenizer
    names = tokenizer.convert_ids_to_tokens(ordinary_tokens(world, 10_000).tolist())
    assert "ball" in " ".join(names)
    assert not [name for name in names if name.startswith("<") and name.endswith(">")]
    assert torch.equal(ordinary_tokens(world, 50), ordinary_tokens(world, 50))
    assert not torch.equal(ordinary_tokens(world, 50), ordinary_tokens(world, 50, seed=1))


def test_metrics_count_compare_and_are_json(tokens: AlignmentTokens) -> None:
    metrics = alignment_metrics(tokens, count=1000)
    assert metrics["tokens"] == {"world": 2 * 3 * FRAME_TOKENS, "image": 8, "text": 60}
    assert metrics["sampled"] == 8, "as many as the smallest kind has"
    norms = tokens.image.flatten(0, 1).norm(dim=-1)
    assert metrics["magnitude"]["image"]["mean"] == pytest.approx(float(norms.mean()))
    centre = tokens.world.flatten(0, 2).mean(0) - tokens.text.mean(0)
    assert metrics["centroid_distance"]["world-text"] == pytest.approx(float(centre.norm()), rel=1e-4)
    assert 1 <= metrics["effective_rank"]["world"] <= 8
    json.dumps(metrics, allow_nan=False)


def test_a_kind_is_compared_with_itself_without_the_pairs_of_one_token() -> None:
    corners = torch.eye(4)
    metrics = alignment_metrics(made(corners.view(1, 1, 4, 4), corners.view(1, 4, 4)))
    assert metrics["cosine"]["world-world"]["mean"] == 0
    assert metrics["distance"]["image-image"]["mean"] == pytest.approx(math.sqrt(2))
    assert metrics["cosine"]["text-text"]["mean"] == pytest.approx(1)


def test_same_place_is_told_from_other_places_and_pictures() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(3, 4, 64, generator=generator)
    learned = cosine_at_place(made(5 * image[:, None] + 2, image))
    assert learned["same_place"] == pytest.approx(1, abs=1e-5)
    assert abs(learned["other_place"] or 1) < 0.3
    assert abs(learned["other_image"] or 1) < 0.3
    shifted = cosine_at_place(made(image.roll(1, 0)[:, None], image))
    assert abs(shifted["same_place"] or 1) < 0.3
    assert cosine_at_place(made(image[:1, None], image[:1]))["other_image"] is None


def test_frames_of_a_sample_follow_it(tokens: AlignmentTokens) -> None:
    sample, frames = tokens.sample(6, seed=3)["world"], tokens.frames_of_sample(6, seed=3)
    for token, frame in zip(sample, frames.tolist(), strict=True):
        assert (tokens.world[:, frame] == token).all(-1).any()


def test_figure_and_numbers_lie_side_by_side(tokens: AlignmentTokens, tmp_path: Path) -> None:
    described = save_alignment(tokens, tmp_path / "new", {"model": "tiny"}, count=20)
    assert json.loads((tmp_path / "new" / "alignment.json").read_text(encoding="utf-8")) == described
    assert described["model"] == "tiny"
    with Image.open(tmp_path / "new" / "alignment.png") as picture:
        assert picture.size == (1800, 1080)


@pytest.mark.parametrize(("name", "begins"), [("a.svg", b"<?xml"), ("a.PDF", b"%PDF-"), ("a.png", b"\x89PNG")])
def test_the_ending_says_the_format(tokens: AlignmentTokens, tmp_path: Path, name: str, begins: bytes) -> None:
    save_alignment(tokens, tmp_path / name, {}, count=20)
    assert {path.name for path in tmp_path.iterdir()} == {name, "a.json"}
    assert (tmp_path / name).read_bytes().startswith(begins)


def test_other_formats_are_refused(tmp_path: Path) -> None:
    assert figure_path(tmp_path / "v1.2") == tmp_path / "v1.2" / "alignment.png"
    with pytest.raises(ValueError, match=r"a\.jpg: expected a file that ends in \.png, \.svg or \.pdf"):
        figure_path(tmp_path / "a.jpg")


def test_projections_are_repeatable(tokens: AlignmentTokens) -> None:
    points = tokens.text[:12].numpy()
    assert (tsne(points) == tsne(points)).all()


def test_no_image_is_an_error(world: TheWorld) -> None:
    with pytest.raises(ValueError, match="no image"):
        collect_tokens(world, [])
