"""`torch.export` and `torch.compile(fullgraph=True)` work where they work on stock Gemma 3, which is checked beside.

The cache is off where a model is exported: stock Gemma 3's cannot be exported either.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import Gemma3ForConditionalGeneration, StaticCache

from tests.model.helpers import encode, load_world, user
from tests.tiny import tiny_gemma_config, tiny_processor

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
PAIRS = [
    ("stock", "image"),
    ("world off", "text"),
    ("world off", "image"),
    ("world on", "text"),
    ("world on", "image"),
]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Gemma 3 repository of few layers, one of each kind: a layer more is only traced again."""
    config: Any = tiny_gemma_config()
    config.text_config.num_hidden_layers, config.text_config.layer_types = 2, ["sliding_attention", "full_attention"]
    config.vision_config.num_hidden_layers = 1
    folder = tmp_path_factory.mktemp("gemma")
    Gemma3ForConditionalGeneration(config).save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.fixture
def case(
    request: pytest.FixtureRequest, gemma: Path, cosmos_folder: Path, images: list[Image.Image]
) -> tuple[Any, dict[str, Any]]:
    """A model and the inputs of one prompt."""
    kind, prompt = request.param
    ours = load_world(gemma, cosmos_folder, enable_world=kind == "world on")
    model = Gemma3ForConditionalGeneration.from_pretrained(gemma).eval() if kind == "stock" else ours
    chat = [user("Hi?", *images[: int(prompt == "image")])]
    return model, dict(encode(ours.processor, chat))


def cases(*prompts: str) -> list[Any]:
    return [pytest.param(pair, id=" ".join(pair)) for pair in PAIRS if pair[1] in prompts]


@pytest.mark.parametrize("case", cases("text", "image"), indirect=True)
@torch.no_grad()
def test_export(case: tuple[Any, dict[str, Any]]) -> None:
    model, inputs = case
    expected = model(**inputs).logits
    exported = torch.export.export(model, (), {**inputs, "use_cache": False}, strict=False)
    actual = exported.module()(**inputs, use_cache=False).logits
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", cases("text", "image"), indirect=True)
@torch.no_grad()
def test_full_graph(case: tuple[Any, dict[str, Any]]) -> None:
    model, inputs = case
    expected = model(**inputs)
    compiled = torch.compile(model, fullgraph=True, backend="eager")(**inputs)
    torch.testing.assert_close(compiled.logits, expected.logits, rtol=1e-4, atol=1e-4)
    if model.config.model_type == "theworld":
        assert compiled.num_world_tokens == expected.num_world_tokens


@pytest.mark.parametrize("case", cases("image"), indirect=True)
@torch.no_grad()
def test_full_graph_of_a_decoding_step(case: tuple[Any, dict[str, Any]]) -> None:
    model, inputs = case
    length = inputs["input_ids"].shape[1]
    cache = StaticCache(config=model.config, max_cache_len=128)
    token = model(**inputs, past_key_values=cache).logits[:, -1:].argmax(-1)
    step = {
        "input_ids": token,
        "attention_mask": torch.ones(1, length + 1, dtype=torch.long),
        "position_ids": torch.tensor([[length]]),
    }
    compiled = torch.compile(model, fullgraph=True, backend="eager")(**step, past_key_values=cache)
    whole = {key: torch.cat([inputs[key], torch.zeros_like(token)], 1) for key in ("token_type_ids",)}
    whole |= {"input_ids": torch.cat([inputs["input_ids"], token], 1), "attention_mask": step["attention_mask"]}
    expected = model(**{**inputs, **whole}).logits[:, -1:]
    torch.testing.assert_close(compiled.logits, expected, rtol=1e-4, atol=1e-4)
