"""A checkpoint of a stranger cannot hang the loader, exhaust its memory, or bring in other types of weights."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor

from tests.model.conftest import Load
from theworld import TheWorld, TheWorldConfig, TheWorldProcessor
from theworld.model.world_encoders import CosmosWorldEncoder
from theworld.nano.tokenizer import IMAGE_TOKEN
from theworld.utils.chat_template import check_template
from theworld.utils.errors import TheWorldError, is_users
from theworld.utils.hub import Source


@pytest.fixture(scope="module")
def checkpoint(load: Load, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with adapters; tests change copies of it."""
    folder = tmp_path_factory.mktemp("untrusted") / "checkpoint"
    load(lora={"r": 2, "target_modules": ["q_proj"]}).save_pretrained(folder)
    return folder


@pytest.fixture
def hostile(checkpoint: Path, tmp_path: Path) -> Callable[..., Path]:
    """A checkpoint with fields of its config changed; a dotted name reaches into a nested config."""

    def change(file: str = "config.json", **fields: Any) -> Path:
        folder = Path(shutil.copytree(checkpoint, tmp_path / "hostile"))
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
        ("world_unpooling", 10**6),
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


def check_refusal(error: Exception, expected: str) -> None:
    """One line of an error that users understand, which gives `expected`."""
    message = str(error)
    assert is_users(error)
    assert expected in message
    assert len(message.splitlines()) == 1
    assert len(message) < 1500


def refused_by_name(
    folder: Path, expected: str, action: Callable[[Path], object] = TheWorld.from_pretrained
) -> Exception:
    """The error that `action` raises, which gives `expected`."""
    with pytest.raises((ValueError, OSError)) as caught:
        action(folder)
    check_refusal(caught.value, expected)
    return caught.value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("world_image_size", "x"),
        ("world_image_size", "x" * 10_000),
        ("world_image_size", ["x", 8]),
        ("lora", 3),
        ("lora__target_modules", 3),
        ("changed", 5),
        ("changed", [[]]),
        ("trained_steps", 1),
        ("text_config", 7),
        ("text_config", []),
        ("text_config__hidden_size", "x"),
        ("vision_config", "x"),
        ("gemma_model_name", 3),
        ("cosmos_model_name", []),
        ("enable_world", "yes"),
        ("image_token_index", "x"),
        ("tie_word_embeddings", 0.5),
        ("model_type", []),
    ],
)
def test_types_of_fields(hostile: Callable[..., Path], name: str, value: Any) -> None:
    folder = hostile(**{name: value})
    message = str(refused_by_name(folder, ""))
    assert name.split("__")[0] in message or str(folder) in message


FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "processor_config.json", "generation_config.json")
DAMAGE = {
    "a list": b"[1, 2]",
    "a text": b'"model_type"',
    "a number": b"3",
    "not UTF-8": b'{"model_type": "\xff"}',
    "cut": b'{"model_type": ',
    "empty": b"",
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize("file", FILES)
def test_damaged_files(hostile: Callable[..., Path], file: str, damage: bytes) -> None:
    folder = hostile()
    (folder / file).write_bytes(damage)
    refused_by_name(folder, str(folder))
    if file != "generation_config.json":  # which no processor has
        refused_by_name(folder, str(folder), TheWorldProcessor.from_pretrained)


@pytest.mark.parametrize(
    ("file", "name", "value"),
    [
        ("tokenizer_config.json", "extra_special_tokens", 3),
        ("tokenizer_config.json", "eos_token", 3),
        ("tokenizer_config.json", "added_tokens_decoder", "x"),
        ("tokenizer_config.json", "clean_up_tokenization_spaces", "x"),
        ("tokenizer.json", "model", False),
        ("tokenizer.json", "added_tokens", 3),
        ("tokenizer.json", "pre_tokenizer", {"a": None}),
        ("processor_config.json", "image_seq_length", "x"),
        ("processor_config.json", "image_processor", 3),
        ("processor_config.json", "num_world_steps", []),
        ("generation_config.json", "suppress_tokens", 3.5),
    ],
)
def test_types_in_files(hostile: Callable[..., Path], file: str, name: str, value: Any) -> None:
    folder = hostile(file, **{name: value})
    try:
        TheWorld.from_pretrained(folder)  # a value that nothing reads may pass
    except ValueError as error:
        assert f"{name}=" in str(error) or str(folder) in str(error)  # noqa: PT017


@pytest.mark.parametrize("file", ["chat_template.jinja", "chat_template.json"])
def test_a_chat_template_that_is_no_text(hostile: Callable[..., Path], file: str) -> None:
    folder = hostile()
    (folder / "chat_template.jinja").unlink()
    (folder / file).write_bytes(b"{{ '\xff' }}")
    refused_by_name(folder, str(folder))
    refused_by_name(folder, str(folder), TheWorldProcessor.from_pretrained)


@pytest.mark.parametrize(
    ("template", "match"),
    [
        ("{{ bos_token }}{{ messages[0].content[1].text }}", "leaves out the image or the question"),
        ("{{ bos_token }}<start_of_image>", "leaves out the image or the question"),
        ("{{ raise_exception('no images') }}", "TemplateError: no images"),
        ("{{ messages[0].content.nothing.text }}", "UndefinedError"),
        (" ", "leaves out the image or the question"),
    ],
)
def test_a_chat_template_that_cannot_ask_about_an_image(
    hostile: Callable[..., Path], template: str, match: str
) -> None:
    folder = hostile()
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    error = refused_by_name(folder, match)
    assert str(folder) in str(error)


@pytest.mark.parametrize(
    ("file", "name", "value"),
    [
        ("config.json", "mm_tokens_per_image", 1000),
        ("config.json", "mm_tokens_per_image", 3),
        ("config.json", "image_token_index", 18),
        ("config.json", "image_token_index", -17),
        ("config.json", "eos_token_id", [14, 10**6]),
        ("config.json", "pad_token_id", "{"),
        ("generation_config.json", "eos_token_id", {}),
        ("generation_config.json", "eos_token_id", 2**70),
        ("generation_config.json", "pad_token_id", 10**6),
        ("processor_config.json", "image_seq_length", 256),
        ("processor_config.json", "image_processor__size", {"height": 32, "width": 32}),
        ("processor_config.json", "image_processor__resample", 2000),
        ("processor_config.json", "processor_class", "Other"),
        ("tokenizer_config.json", "model_max_length", [[]]),
        ("tokenizer_config.json", "image_token", "<pad>"),
    ],
)
def test_files_that_do_not_fit_each_other(hostile: Callable[..., Path], file: str, name: str, value: Any) -> None:
    folder = hostile(file, **{name: value})
    error = refused_by_name(folder, "")
    assert isinstance(error, ValueError)
    assert f"{name.split('__')[-1]}=" in str(error) or str(folder) in str(error)


def test_a_token_outside_the_vocabulary(hostile: Callable[..., Path]) -> None:
    folder = hostile()
    path = folder / "tokenizer.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["model"]["vocab"]["?"] = 10**6
    path.write_text(json.dumps(config), encoding="utf-8")
    refused_by_name(folder, "token 1000000, expected one below vocab_size=")


def test_an_image_placeholder_may_lie_outside_of_the_embedding_table(hostile: Callable[..., Path]) -> None:
    folder = hostile(image_token_index=420)  # the size of the table
    path = folder / "tokenizer.json"
    config = json.loads(path.read_text(encoding="utf-8").replace(IMAGE_TOKEN, "<other>"))
    config["added_tokens"].append({**config["added_tokens"][0], "id": 420, "content": IMAGE_TOKEN})
    path.write_text(json.dumps(config), encoding="utf-8")
    model = TheWorld.from_pretrained(folder)
    assert isinstance(model.ask(Image.new("RGB", (8, 8)), "What?", max_new_tokens=2), str)


def test_a_base_model_that_is_elsewhere(whole: Path) -> None:
    config = json.loads((whole / "config.json").read_text(encoding="utf-8"))
    config |= {"gemma_model_name": str(whole / "gemma"), "gemma_subfolder": "other"}
    (whole / "config.json").write_text(json.dumps(config), encoding="utf-8")
    refused_by_name(whole, f"{whole / 'gemma' / 'other'}: no config.json there")


def test_a_base_model_without_a_chat_template_loads(whole: Path) -> None:
    for path in whole.rglob("chat_template.jinja"):
        path.unlink()
    model = TheWorld.from_pretrained(whole)
    with pytest.raises(TheWorldError, match="no chat template: use an instruction-tuned Gemma 3"):
        model.ask(Image.new("RGB", (8, 8)), "What?")


@pytest.fixture(scope="module")
def whole_checkpoint(load: Load, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with its base models, one latent frame rolled out; tests change copies of it."""
    folder = tmp_path_factory.mktemp("untrusted") / "whole"
    load(num_world_steps=1).save_pretrained(folder, full=True)
    return folder


@pytest.fixture
def whole(whole_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_checkpoint, tmp_path / "whole"))


@pytest.mark.parametrize("part", ["cosmos/vae", "cosmos/transformer", "gemma"])
def test_damaged_weights_of_a_base_model(whole: Path, part: str) -> None:
    (path,) = (whole / part).glob("*.safetensors")
    data = path.read_bytes()
    for damaged in (data[: len(data) // 2], b"", b"\0" * 100, data[:8] + b"\xff" * 40 + data[48:]):
        path.write_bytes(damaged)
        refused_by_name(whole, str(whole))


@pytest.mark.parametrize("part", ["cosmos/vae", "cosmos/transformer", "cosmos/scheduler", "gemma"])
@pytest.mark.parametrize("damage", [b"[1, 2]", b'{"a": "\xff"}', b"{}", b'{"dim": "x", "z_dim": [], "num_layers": {}}'])
def test_damaged_configs_of_a_base_model(whole: Path, part: str, damage: bytes) -> None:
    (path,) = (*(whole / part).glob("config.json"), *(whole / part).glob("scheduler_config.json"))
    path.write_bytes(damage)
    try:
        TheWorld.from_pretrained(whole)  # defaults may fit
    except (ValueError, OSError) as error:
        check_refusal(error, str(whole))


def test_a_damaged_config_is_named_where_its_size_is_asked_for(whole: Path) -> None:
    (whole / "cosmos" / "vae" / "config.json").write_text('{"dim_mult": 3}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"cosmos \(vae\): cannot be loaded"):
        CosmosWorldEncoder.parameter_count(TheWorldConfig(), Source(str(whole / "cosmos")))


def test_weights_of_other_sizes_than_gemma_says(whole: Path) -> None:
    path = whole / "gemma" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["text_config"]["intermediate_size"] *= 2
    path.write_text(json.dumps(config), encoding="utf-8")
    saved = json.loads((whole / "config.json").read_text(encoding="utf-8"))
    saved["text_config"]["intermediate_size"] *= 2
    (whole / "config.json").write_text(json.dumps(saved), encoding="utf-8")
    refused_by_name(whole, "mismatched keys: model.language_model.layers.0.mlp.down_proj.weight")
