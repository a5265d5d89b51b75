"""Write the results of the nano recipe as the package ships them: in bf16, with relative paths to the base models."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, CosmosTransformer3DModel
from diffusers.models.modeling_utils import ModelMixin
from safetensors.torch import load_file, save_file

from theworld.model.world_encoders.prompt_embeds import save_prompt_embeds
from theworld.nano.dynamics import prompt_embedding
from theworld.utils.errors import TheWorldError
from theworld.utils.folders import made_whole
from theworld.utils.hub import forget_origin
from theworld.utils.io import write_text

CONTROLS = "controls"
"""Folder of the controls, next to the folder of the fusion."""

# Files of a checkpoint that are not part of the model, or that `package_delta` writes again
_NOT_PACKAGED = (
    "README.md",
    "checksums.json",
    "model.safetensors",
    "stage.json",
    "trainer_state.json",
    "*.pt",
    "*.pth",
    "*.bin",
)
_PROCESSOR = ("tokenizer*", "processor_config.json", "chat_template.jinja")

CARD = """\
---
license: mit
library_name: transformers
pipeline_tag: image-text-to-text
tags:
- theworld
- world-model
---

# Nano TheWorld

A toy-size TheWorld of the real classes, trained from random weights on a simulated world by `theworld nano train`:

| folder | what |
|---|---|
| `gemma` | Gemma 3 with SigLIP, {gemma:,} parameters |
| `cosmos` | Wan VAE and Cosmos diffusion transformer, {cosmos:,} parameters |
| `theworld` | the fusion: projector and block markers, {delta:,} parameters; looks {steps} latent frames ahead |
| `controls/current_frame` | trained alike, with the current latent in place of the predicted ones |
| `controls/random_encoder` | trained alike, with a world encoder whose weights are random |
| `controls/other_source` | trained alike, with frequencies of the image's patches in place of a world |
| `controls/gemma_tuned` | Gemma 3 without a world, adapters trained on the same questions; {adapters:,} parameters |

No weights of Google or NVIDIA are in these folders; the classes are those of transformers and diffusers. Weights are
stored in bf16. It answers questions about its simulated scenes only.

## Held-out results

Right answers in percent with 95 % intervals; `theworld evaluate --task micro_world --arms all` prints them.

<!-- results:begin -->
<!-- results:end -->
"""


def digest(folder: Path) -> str:
    """Return a digest of the weights and configs below a folder: 12 hexadecimal digits."""
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors")):
        found.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:12]


def copy_base_models(source: Path, target: Path) -> None:
    """Copy the folders `gemma` and `cosmos` of `source` to `target`, each all or nothing.

    Raises:
        ValueError: `target` has other base models.
    """
    for name in ("gemma", "cosmos"):
        if not (target / name).exists():
            try:
                with made_whole(target / name) as partial:
                    shutil.copytree(source / name, partial, dirs_exist_ok=True)
            except OSError:
                if not (target / name).is_dir():  # else another process was first
                    raise
        if not (target / name).is_dir() or digest(target / name) != digest(source / name):
            raise TheWorldError(f"{target / name}: another base model than {source / name}; choose another folder")


def package_gemma(source: Path, target: Path) -> None:
    """Copy the files that loading needs. The weights are in bf16 already."""
    _copy(source, target, "vlm.json")
    shutil.copy(source / "config.json", target)


def _copy(source: Path, target: Path, *left_out: str) -> None:
    """Copy a model's folder, and write tokenizer.json in its shortest form, which halves the file.

    The caller writes config.json last, as the mark of a complete folder.
    """
    left_out = (*left_out, "config.json")
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*left_out), dirs_exist_ok=True)
    path = target / "tokenizer.json"
    if path.is_file():
        tokenizer = json.loads(path.read_text(encoding="utf-8"))
        model = tokenizer["model"]
        model["merges"] = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        write_text(path, json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")))


def package_cosmos(source: Path, target: Path, dynamics: Path | None = None) -> None:
    """Write a folder like a Cosmos-Predict2 repository: VAE and transformer in bf16, scheduler, prompt, and index.

    `dynamics` is the folder that holds `transformer`, if it is not `source`.
    """
    models: dict[str, type[ModelMixin]] = {"vae": AutoencoderKLWan, "transformer": CosmosTransformer3DModel}
    folders = {"vae": source, "transformer": dynamics or source}
    for name, cls in models.items():
        cls.from_pretrained(folders[name] / name, torch_dtype=torch.bfloat16).save_pretrained(target / name)
    forget_origin(target)
    shutil.copytree(source / "scheduler", target / "scheduler", dirs_exist_ok=True)
    save_prompt_embeds(target, "", prompt_embedding())
    components = {name: ["diffusers", cls.__name__] for name, cls in models.items()}
    components["scheduler"] = ["diffusers", "FlowMatchEulerDiscreteScheduler"]
    index = {"_class_name": "Cosmos2VideoToWorldPipeline", "safety_checker": [None, None], **components}
    write_text(target / "model_index.json", json.dumps(index, indent=2) + "\n")


def package_delta(source: Path, target: Path, weights: Path, cosmos: str = "cosmos") -> None:
    """Write the checkpoint of a fusion: stored in bf16, loaded in fp32, with relative paths to its base models.

    `weights` can therefore be moved. The base models are the folders `gemma` and `cosmos` in `weights`. Controls use
    the processor of `gemma`.
    """
    of_gemma = _PROCESSOR if target.parent.name == CONTROLS else ()
    _copy(source, target, *_NOT_PACKAGED, *of_gemma)
    tensors = load_file(source / "model.safetensors")
    save_file(
        {name: value.bfloat16() for name, value in tensors.items()},
        target / "model.safetensors",
        metadata={"format": "pt"},
    )
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    bases = {
        name: os.path.relpath(weights / folder, target) for name, folder in (("gemma", "gemma"), ("cosmos", cosmos))
    }
    config |= {**{f"{name}_model_name": folder for name, folder in bases.items()}, "dtype": "float32"}
    write_text(target / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")


def write_card(weights: Path) -> None:
    """Write the model card of all folders. The results are inserted later, after the evaluation."""

    def parameters(folder: str) -> int:
        files = [file for file in (weights / folder).rglob("*.safetensors") if "prompt_embeds" not in file.parts]
        return sum(value.numel() for file in files for value in load_file(file).values())

    sizes = {"gemma": parameters("gemma"), "cosmos": parameters("cosmos"), "delta": parameters("theworld")}
    sizes["adapters"] = parameters(f"{CONTROLS}/gemma_tuned")
    steps = json.loads((weights / "theworld" / "config.json").read_text(encoding="utf-8"))["num_world_steps"]
    write_text(weights / "README.md", CARD.format(**sizes, steps=steps))
