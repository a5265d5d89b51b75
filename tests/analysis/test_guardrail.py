"""Pictures from NVIDIA's weights pass NVIDIA's guardrail, or are not made."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from theworld import TheWorld
from theworld.analysis import guardrail
from theworld.analysis.guardrail import can_show, load_guardrail, needs_guardrail
from theworld.analysis.imagine import imagine
from theworld.model.world_encoders import CosmosWorldEncoder

TELLING_FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "a safety checker": ("model_index.json", {"safety_checker": ["cosmos_guardrail", "CosmosSafetyChecker"]}),
    "where it came from": ("model_index.json", {"_name_or_path": "nvidia/Cosmos-Predict2-2B-Video2World"}),
    "the published size": (
        "transformer/config.json",
        {"num_layers": 28, "num_attention_heads": 16, "attention_head_dim": 128},
    ),
}


class FakeChecker:
    """Blackens the frames, as a postprocessor that is easy to see; refuses what it is told to."""

    refuses_frames = refuses_prompt = False
    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.places: list[str] = []

    def to(self, device: Any) -> None:
        torch.set_grad_enabled(False)
        self.places.append(str(device))

    def check_text_safety(self, prompt: str) -> bool:
        return not self.refuses_prompt

    def check_video_safety(self, frames: np.ndarray) -> np.ndarray | None:
        assert frames.dtype == np.uint8
        assert frames.ndim == 4
        assert frames.shape[-1] == 3
        return None if self.refuses_frames else np.zeros_like(frames)


@pytest.fixture
def encoder(world: TheWorld, monkeypatch: pytest.MonkeyPatch) -> CosmosWorldEncoder:
    """The model's encoder, which says for this test that it came from NVIDIA."""
    encoder = world.model.world_encoder
    assert isinstance(encoder, CosmosWorldEncoder)
    source = {"model": "nvidia/Cosmos-Predict2-2B-Video2World", "revision": None}
    monkeypatch.setattr(encoder, "source", source)
    return encoder


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[FakeChecker]]:
    """A package that turns gradients off when it is imported, as the real one does."""
    (tmp_path / "cosmos_guardrail.py").write_text(
        "import torch\nfrom tests.analysis.test_guardrail import FakeChecker as CosmosSafetyChecker\n"
        "torch.set_grad_enabled(False)\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cosmos_guardrail", raising=False)
    load_guardrail.cache_clear()
    monkeypatch.setattr(FakeChecker, "made", 0)
    yield FakeChecker
    load_guardrail.cache_clear()
    sys.modules.pop("cosmos_guardrail", None)


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        guardrail.importlib.util, "find_spec", lambda name: None if name == guardrail.PACKAGE else find(name)
    )


def test_weights_of_our_own_need_none(world: TheWorld, images: list[Image.Image], absent: None) -> None:
    encoder = world.model.world_encoder
    assert isinstance(encoder, CosmosWorldEncoder)
    assert not needs_guardrail(encoder)
    assert len(imagine(world, images[0])) == 5


@pytest.mark.parametrize("name", ["nvidia/Cosmos-Predict2-14B-Video2World", "hub/models--nvidia--Cosmos/snapshots/0a1"])
def test_a_repository_of_nvidia_is_known_by_its_name(encoder: CosmosWorldEncoder, name: str) -> None:
    encoder.source = {"model": name, "revision": None}
    assert needs_guardrail(encoder)


@pytest.mark.parametrize("sign", TELLING_FILES)
@pytest.mark.parametrize("subfolder", ["", "base"])
def test_a_copy_is_known_by(encoder: CosmosWorldEncoder, tmp_path: Path, sign: str, subfolder: str) -> None:
    encoder.source = {"model": str(tmp_path), "revision": None}
    assert not needs_guardrail(encoder, subfolder)
    file, content = TELLING_FILES[sign]
    path = tmp_path / subfolder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    assert needs_guardrail(encoder, subfolder)


def test_without_the_package_nothing_is_rolled_out(
    world: TheWorld,
    encoder: CosmosWorldEncoder,
    images: list[Image.Image],
    absent: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encoder, "encode", lambda *_: pytest.fail("rolled out what cannot be shown"))
    with pytest.raises(ImportError, match=r"NVIDIA Open Model Licence.*pip install \"theworld\[cosmos-guardrail\]\""):
        imagine(world, images[0])
    assert not can_show(encoder)


@pytest.mark.parametrize("gradients", [True, False])
def test_frames_pass_the_guardrail_and_gradients_stay(
    world: TheWorld,
    encoder: CosmosWorldEncoder,
    images: list[Image.Image],
    installed: type[FakeChecker],
    gradients: bool,
) -> None:
    assert can_show(encoder)
    with torch.set_grad_enabled(gradients):
        frames = imagine(world, images[0])
        assert torch.is_grad_enabled() is gradients
        load_guardrail.cache_clear()
        sys.modules.pop("cosmos_guardrail")
        load_guardrail()
        assert torch.is_grad_enabled() is gradients
    assert len(frames) == 5
    assert not any(np.asarray(frame).any() for frame in frames)


def test_it_is_loaded_once_and_leaves_the_device(
    world: TheWorld, encoder: CosmosWorldEncoder, images: list[Image.Image], installed: type[FakeChecker]
) -> None:
    imagine(world, images[0])
    imagine(world, images[1])
    assert installed.made == 1
    assert load_guardrail().places == ["cpu", "cpu"] * 2


def test_refusals_are_errors(
    world: TheWorld,
    encoder: CosmosWorldEncoder,
    images: list[Image.Image],
    installed: type[FakeChecker],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(installed, "refuses_frames", True)
    with pytest.raises(ValueError, match="refuses the frames"):
        imagine(world, images[0])
    monkeypatch.setattr(encoder, "prompt", "something vile")
    monkeypatch.setattr(encoder, "_prompt_embeds", encoder.prompt_embeds())
    monkeypatch.setattr(installed, "refuses_prompt", True)
    with pytest.raises(ValueError, match="world_prompt='something vile'"):
        imagine(world, images[0])


def test_a_dependency_that_is_missing_is_named(encoder: CosmosWorldEncoder, installed: type[FakeChecker]) -> None:
    path = Path(sys.path[0]) / "cosmos_guardrail.py"
    path.write_text("import a_dependency_of_it", encoding="utf-8")
    importlib.invalidate_caches()
    with pytest.raises(ModuleNotFoundError, match="a_dependency_of_it"):
        load_guardrail()


def test_the_stock_pipeline_brings_the_guardrail_and_gradients_stay(tmp_path: Path) -> None:
    """In a process of its own: the pipeline is imported once."""
    package = tmp_path / "cosmos_guardrail"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import torch\ntorch.set_grad_enabled(False)\nclass CosmosSafetyChecker: pass\n", encoding="utf-8"
    )
    metadata = tmp_path / "cosmos_guardrail-0.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: cosmos_guardrail\nVersion: 0.1\n", encoding="utf-8"
    )
    code = (
        "import sys, torch\nfrom theworld.model.world_encoders.prompt_embeds import stock_negative_prompt\n"
        "stock_negative_prompt()\n"
        "print('cosmos_guardrail' in sys.modules, torch.is_grad_enabled())"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "True"], done.stderr
