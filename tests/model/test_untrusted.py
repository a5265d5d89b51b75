"""A checkpoint of a stranger cannot hang the loader, exhaust its memory, or bring in other types of weights."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor

from tests.model.conftest import Load
from theworld import TheWorld, TheWorldConfig
from theworld.utils.chat_template import check_template


@pytest.fixture
def hostile(load: Load, tmp_path: Path) -> Callable[..., Path]:
    """A checkpoint with fields of its config changed; a dotted name reaches into a nested config."""
    load(lora={"r": 2, "target_modules": ["q_proj"]}).save_pretrained(tmp_path / "checkpoint")

    def change(file: str = "config.json", **fields: Any) -> Path:
        folder = Path(shutil.copytree(tmp_path / "checkpoint", tmp_path / "hostile"))
        config = json.loads((folder / file).read_text(encoding="utf-8"))
        for name, value in fields.items():
            *parents, leaf = name.split("__")
            node = config
            for parent in parents:
                node = node[parent]
            node[leaf] = value
        (folder / file).write_text(json.dumps(config), encoding="utf-8")
        return folder

    return change


def refused(action: Callable[[], object], match: str) -> None:
    begin = time.monotonic()
    with pytest.raises(ValueError, match=match):
        action()
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_world_steps", 10**9),
        ("world_image_size", 10**9),
        ("world_image_size", [8, 10**9]),
        ("world_pooling", 10**6),
        ("world_inference_steps", 10**9),
        ("projector_layers", 10**7),
        ("projector_heads", 10**7),
        ("projector_hidden_size", 10**9),
        ("projector_hidden_size", 60_000),
        ("world_latent_channels", 10**9),
        ("num_world_steps", 10**9),
        ("world_fps", 0),
        ("world_guidance_scale", float("inf")),
        ("text_config__num_hidden_layers", 10**9),
        ("text_config__hidden_size", 10**9),
        ("text_config__vocab_size", 10**12),
        ("text_config__sliding_window", 10**30),
        ("vision_config__num_hidden_layers", 10**9),
        ("vision_config__image_size", 10**9),
        ("mm_tokens_per_image", 10**9),
        ("text_config__num_key_value_heads", -3),
        ("vision_config__patch_size", 0),
        ("boi_token_index", 10**9),
        ("world_token_id", -3),
        ("lora__r", 10**9),
        ("lora__r", 4000),
        ("lora__alpha", 10**30),
    ],
)
def test_numbers(hostile: Callable[..., Path], name: str, value: Any) -> None:
    folder = hostile(**{name: value})
    refused(
        lambda: TheWorld.from_pretrained(folder), name.split("__")[-1].replace("alpha", "alpha|lora") + "|parameters"
    )


@pytest.mark.parametrize(("name", "value"), [("image_seq_length", 10**12), ("world_tokens_per_frame", 10**12)])
def test_numbers_of_the_processor(hostile: Callable[..., Path], name: str, value: int) -> None:
    folder = hostile("processor_config.json", **{name: value})
    refused(lambda: AutoProcessor.from_pretrained(folder), f"{name}={value}")


def test_regular_expression(hostile: Callable[..., Path]) -> None:
    folder = hostile(lora__target_modules="(.*)*(.*)*(.*)*(.*)*x", changed=["projector"])
    refused(lambda: TheWorld.from_pretrained(folder), "cannot be matched|matches no linear layer|missing|unexpected")


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8, torch.complex64], ids=str)
def test_types_of_tensors(hostile: Callable[..., Path], dtype: torch.dtype) -> None:
    folder = hostile()
    tensors = load_file(folder / "model.safetensors")
    tensors["model.world_markers.weight"] = tensors["model.world_markers.weight"].to(dtype)
    save_file(tensors, folder / "model.safetensors")
    refused(lambda: TheWorld.from_pretrained(folder), r"of another type: model\.world_markers\.weight")


BOMBS = {
    "nested ranges": "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
    "product": "{{ 'a' * 10**10 }}",
    "padding": "{{ 'a'.ljust(10000000000) }}",
    "format": "{{ '%1000000000s' % 'x' }}",
    "str.format": "{{ '{:>1000000000}'.format('x') }}",
    "doubling": "{% set x = messages[0].content %}" + "{% set x = x ~ x %}" * 40,
    "namespace": "{% set n = namespace(x='aa') %}{% for m in messages %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "quoting": "{% set n = namespace(x='\"') %}{% for m in messages %}{% set n.x = n.x|tojson %}{% endfor %}",
    "recursive macro": "{% macro a() %}{{ a() }}{{ a() }}{% endmacro %}{{ a() }}",
    "recursive loop": "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "square": "{% for a in messages %}{% for b in messages %}x{% endfor %}{% endfor %}",
    "recursive block": "{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}",
    "length": "x" * 200_000,
    "syntax": "{% for %}",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_templates(hostile: Callable[..., Path], bomb: str) -> None:
    folder = hostile()
    (folder / "chat_template.jinja").write_text(bomb, encoding="utf-8")
    refused(lambda: AutoProcessor.from_pretrained(folder), "its chat template .* could exhaust time or memory")
    refused(lambda: TheWorld.from_pretrained(folder), "its chat template")


def test_template_of_the_tokenizer(hostile: Callable[..., Path]) -> None:
    folder = hostile("tokenizer_config.json", chat_template=BOMBS["product"])
    (folder / "chat_template.jinja").unlink()
    refused(lambda: AutoProcessor.from_pretrained(folder), "its chat template uses mul")


def test_templates_of_gemma_pass() -> None:
    trl = pytest.importorskip("trl")
    for path in (Path(trl.__file__).parent / "chat_templates").glob("gemma3*.jinja"):
        check_template(path.read_text(encoding="utf-8"), path.name)


def test_a_config_checks_itself() -> None:
    with pytest.raises(
        ValueError, match="num_hidden_layers=1000000000: expected a number of at least 1 and at most 1024"
    ):
        TheWorldConfig(text_config={"num_hidden_layers": 10**9})
