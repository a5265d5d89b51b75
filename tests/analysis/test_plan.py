"""Costs from configuration files alone: those of the published models, and against operations counted in real runs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests import tiny
from tests.hub_server import Hub
from tests.model.helpers import encode, user
from tests.replicas import write
from theworld import TheWorld
from theworld.analysis.plan import GPUS, TRAINED, plan
from theworld.analysis.plan_files import KNOWN, hub_info, licence_of
from theworld.cli.main import main
from theworld.cli.plan import lines
from theworld.model.world_encoders import WORLD_ENCODERS
from theworld.utils.hub import NANO_WEIGHTS, Source, resolve

ROOT = Path(__file__).parents[2]
GEMMA_PARAMETERS, VAE_PARAMETERS, TRANSFORMER_PARAMETERS = 4_300_079_472, 126_892_531, 1_956_413_440
WORLD: dict[str, Any] = {"world_image_size": 32, "world_inference_steps": 3, "max_world_steps": 2}


@pytest.fixture(scope="module")
def gemma_4b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of Gemma 3 4B as Google published it, without weights or tokenizer."""
    text = {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34}
    text |= {"sliding_window": 1024, "vocab_size": 262208}
    vision = {"hidden_size": 1152, "image_size": 896, "intermediate_size": 4304, "model_type": "siglip_vision_model"}
    vision |= {"num_attention_heads": 16, "num_hidden_layers": 27, "patch_size": 14, "vision_use_head": False}
    folder = tmp_path_factory.mktemp("real") / "gemma-3-4b-it"
    folder.mkdir()
    tokens = {"boi_token_index": 255999, "eoi_token_index": 256000, "image_token_index": 262144}
    config = {"model_type": "gemma3", "mm_tokens_per_image": 256, "text_config": text, "vision_config": vision}
    write(folder / "config.json", config | tokens)
    (folder / "README.md").write_text("---\nlicense: gemma\n---\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def cosmos_2b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configurations of Cosmos-Predict2-2B-Video2World as NVIDIA published them, without weights."""
    folder = tmp_path_factory.mktemp("real") / "Cosmos-Predict2-2B-Video2World"
    transformer = {
        "_class_name": "CosmosTransformer3DModel",
        "adaln_lora_dim": 256,
        "attention_head_dim": 128,
        "concat_padding_mask": True,
        "extra_pos_embed_type": None,
        "in_channels": 17,
        "max_size": [128, 240, 240],
        "mlp_ratio": 4.0,
        "num_attention_heads": 16,
        "num_layers": 28,
        "out_channels": 16,
        "patch_size": [1, 2, 2],
        "rope_scale": [1.0, 3.0, 3.0],
        "text_embed_dim": 1024,
    }
    vae = {"_class_name": "AutoencoderKLWan", "base_dim": 96, "dim_mult": [1, 2, 4, 4], "z_dim": 16}
    scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_karras_sigmas": True}
    files = {"vae/config.json": vae, "transformer/config.json": transformer}
    for name, content in {**files, "scheduler/scheduler_config.json": scheduler}.items():
        (folder / name).parent.mkdir(parents=True)
        write(folder / name, content)
    return folder


def by_component(cost: Any) -> dict[str, int]:
    return {one.component: one.parameters for one in cost.components}


def test_published_models_have_the_measured_memory(gemma_4b: Path, cosmos_2b: Path) -> None:
    cost = plan(gemma_4b, cosmos_model_name=str(cosmos_2b), gpu="H100", share=0.5)
    counts = by_component(cost)
    assert counts["language"] + counts["vision"] == GEMMA_PARAMETERS
    assert sum(count for name, count in counts.items() if name.startswith("vae")) == VAE_PARAMETERS
    assert "world_transformer" not in counts
    assert cost.total.loaded_gb == pytest.approx(8.87, rel=0.02)
    assert cost.total.trainable == counts["projector"]
    assert cost.total.training_gb == pytest.approx(8.87 + (TRAINED - 2) * counts["projector"] / 1e9, rel=0.02)
    assert cost.tokens == {"world": 786, "image": 258, "text": 64, "answer": 16}
    assert cost.tflop["rollout"] == 0
    assert cost.seconds["prefill"] == pytest.approx(cost.tflop["prefill"] / (GPUS["H100"].tflops * 0.5))


def test_page_shows_what_the_command_prints(gemma_4b: Path, cosmos_2b: Path) -> None:
    """Nothing but configuration files is there; the README of one folder says its licence."""
    cost = plan(gemma_4b, cosmos_model_name=str(cosmos_2b), operating_point="full")
    assert by_component(cost)["world_transformer"] == TRANSFORMER_PARAMETERS
    assert cost.tflop["rollout"] == pytest.approx(1_500, rel=0.05)
    sizes = {one.component: (one.gigabytes, one.known) for one in cost.downloads}
    assert sizes[""][0] == pytest.approx(8.60, rel=0.01)
    assert sizes["transformer"][0] == pytest.approx(3.91, rel=0.01)
    assert sizes["text_encoder"][0] == pytest.approx(9.7, rel=0.01)
    assert {known for _, known in sizes.values()} == {"at 2 bytes per parameter"}
    page = (ROOT / "docs" / "plan.md").read_text(encoding="utf-8")
    assert page.split("<!-- plan:begin -->\n```text\n")[1].split("\n```\n<!-- plan:end -->")[0] == "\n".join(
        lines(cost)
    )


def counted(run: Any) -> float:
    """TFLOP of a real run."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return counter.get_total_flops() / 1e12


@pytest.mark.parametrize("world_encoder", sorted(WORLD_ENCODERS))
def test_encoding_costs_what_a_real_run_counts(
    gemma_folder: Path, cosmos_folder: Path, tmp_path: Path, world_encoder: str
) -> None:
    # 1. A repository of the encoder, and the most future frames that it has
    name, steps = cosmos_folder, 0 if world_encoder in ("wan_latents", "vjepa2") else 2
    if world_encoder == "vjepa2":
        tiny.tiny_vjepa2().save_pretrained(name := tmp_path)
    elif world_encoder.startswith("wan"):
        name = tiny.write_tiny_wan(tmp_path, "Wan2.2-TI2V")
    fields = {**WORLD, "world_encoder": world_encoder, "cosmos_model_name": str(name), "num_world_steps": steps}
    # 2. What the plan counts and what a run counts
    cost = plan(gemma_folder, **fields)
    encoder = TheWorld.from_pretrained(gemma_folder, **fields).model.world_encoder
    assert encoder is not None
    pixels = torch.zeros(1, 3, 32, 32)
    present = counted(lambda: encoder.encode(pixels, 0))
    assert cost.tflop["encode"] == pytest.approx(present, rel=0.05)
    if world_encoder == "vjepa2":
        with pytest.raises(ValueError, match="without future frames only"):
            plan(gemma_folder, **{**fields, "num_world_steps": 1})
    rollout = counted(lambda: encoder.encode(pixels, steps)) - present
    assert cost.tflop["rollout"] == pytest.approx(rollout, rel=0.05)


SETTINGS: list[dict[str, Any]] = [
    {},
    {"num_world_steps": 1, "world_guidance_scale": 3.0, "world_prompt": "a ball"},
    {"fusion": "gated"},
    {"enable_world": False, "freeze_gemma_language": False},
    {"freeze_gemma_language": False, "freeze_gemma_vision": False, "freeze_cosmos_vae": False},
    {"lora": {"r": 4}, "projector": "transformer"},
]


@pytest.mark.parametrize("fields", SETTINGS, ids=str)
def test_prompts_and_training_cost_what_real_runs_count(
    gemma_folder: Path, cosmos_folder: Path, images: list[Any], fields: dict[str, Any]
) -> None:
    # 1. A real model and prompt, and the plan for as many tokens
    fields = {**WORLD, "cosmos_model_name": str(cosmos_folder), **fields}
    model = TheWorld.from_pretrained(gemma_folder, **fields)
    inputs = encode(model.processor, [user("Which bin will the ball land in?", images[0])])
    ids, config = inputs["input_ids"], model.config
    block = config.world_tokens(config.num_world_steps) + 2 if config.world_token_id in ids else 0
    text_tokens = ids.shape[1] - block - tiny.IMAGE_TOKENS - 2
    cost = plan(gemma_folder, text_tokens=text_tokens, answer_tokens=4, **fields)
    assert (cost.tokens["world"], cost.tokens["image"]) == (block, tiny.IMAGE_TOKENS + 2)
    assert cost.total.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert cost.total.trainable == model.get_trainable_parameters()[0]
    # 2. A prompt
    encoding, options = cost.tflop["encode"] + cost.tflop["rollout"], {"use_world": model.config.enable_world}
    with torch.no_grad():
        model(**inputs, **options)  # the embedding of the prompt is computed once, by the first call
        prefill = counted(lambda: model(**inputs, **options, logits_to_keep=1, use_cache=False))
    assert cost.tflop["prefill"] == pytest.approx(prefill - encoding, rel=0.05)
    # 3. A training step on the prompt and an answer of 4 tokens
    for name, value in (("input_ids", ids[0, -1]), ("attention_mask", 1), ("token_type_ids", 0)):
        inputs[name] = torch.cat([inputs[name], torch.full((1, 4), int(value))], dim=1)
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -4:] = inputs["input_ids"][:, -4:]
    model.train()

    def step() -> None:
        outputs = model(**inputs, **options, labels=labels, supervised_logits_only=True, use_cache=False)
        outputs.loss.backward()

    assert cost.tflop["training step"] == pytest.approx(counted(step), rel=0.05)


def test_a_model_of_which_nothing_trains_is_planned() -> None:
    cost = plan("nano", enable_world=False)
    assert cost.total.trainable == 0
    assert (cost.tflop["encode"], cost.tflop["rollout"], cost.tokens["world"]) == (0, 0, 0)
    assert cost.tflop["training step"] > cost.tflop["prefill"] > 0


def test_a_repository_on_the_hub_is_listed_not_fetched(
    hub: Hub,
    gemma_folder: Path,
    cosmos_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    gemma = hub.publish("tester/gemma", gemma_folder, gated=True)
    hub.publish("tester/cosmos", cosmos_folder)
    command = ["plan", "--model", "tester/gemma", "--cosmos_model_name", "tester/cosmos", "--world_image_size", "32"]
    assert main(command) == 2
    assert "tester/gemma: you have no access to this gated repository" in capsys.readouterr().err
    gemma.granted.add(hub.token)
    assert main([*command, "--num_world_steps", "1", "--gpu", "A100", "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    whole, vae, transformer = described["downloads"]
    assert [one["repository"] for one in (whole, vae, transformer)] == [
        "tester/gemma",
        "tester/cosmos",
        "tester/cosmos",
    ]
    assert "gated: accept its terms at https://huggingface.co/tester/gemma" in whole["licence"]
    assert (vae["files"], vae["known"]) == (2, "listed by the Hub")
    weights = cosmos_folder / "transformer" / "diffusion_pytorch_model.safetensors"
    assert transformer["gigabytes"] == pytest.approx(weights.stat().st_size / 1e9)
    assert not [request for request in hub.requests if "safetensors" in request]


def test_licences_are_known_without_the_hub() -> None:
    names = ("google/gemma-3-4b-it", "nvidia/Cosmos-Predict2-2B-Video2World", "nano/gemma", "you/model")
    sources = [Source(resolve(name)) for name in names]
    assert [hub_info(source) for source in sources] == [None] * 4
    assert [licence_of(source, None) for source in sources] == [*KNOWN.values(), "see its README"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--gpu", "H300"], "gpu='H300': expected one of H200, H100, A100, L40S, RTX4090"),
        (["--share", "0"], "share=0.0: expected a share of the GPU's peak, above 0 and at most 1"),
        (["--text_tokens", "0"], "text_tokens=0: expected a whole number from 1 to 131072"),
        (["--world_image_size", "33"], "world_image_size=33: expected a multiple of 8"),
        (["--num_world_steps", "99"], "num_world_steps=99: expected 0 to max_world_steps=3"),
        (["--model", "./nowhere"], "./nowhere: no such folder"),
        (["--world_encoder", "none"], "world_encoder='none': expected one of cosmos"),
    ],
)
def test_errors_are_one_line(options: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *options]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "how", [{"gpu": ["H200"]}, {"share": "a"}, {"text_tokens": 1.5}, {"answer_tokens": "3"}, {"text_tokens": 10**9}]
)
def test_wrong_types_and_sizes_are_told_in_a_line(how: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(how))}=.*: expected"):
        plan("nano", **how)


def test_a_rollout_larger_than_the_position_embeddings_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    nano = ["--model", str(NANO_WEIGHTS / "gemma"), "--cosmos_model_name", str(NANO_WEIGHTS / "cosmos")]
    assert main(["plan", *nano, "--operating_point", "fast", "--num_world_steps", "1"]) == 2
    assert (
        "a rollout of 28 x 28 latents and num_world_steps=1: this transformer has positions" in capsys.readouterr().err
    )


def test_so_are_features_of_a_larger_grid(capsys: pytest.CaptureFixture[str]) -> None:
    nano = ["--model", str(NANO_WEIGHTS / "gemma"), "--cosmos_model_name", str(NANO_WEIGHTS / "cosmos")]
    assert main(["plan", *nano, "--world_encoder", "cosmos_features", "--num_world_steps", "1"]) == 2
    assert "28 x 28 latents" in (told := capsys.readouterr().err)
    assert "this transformer has positions for world_image_size=[64, 64]" in told
