"""A checkpoint in a process that has never seen it: through every door of transformers, and in silence."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.model.conftest import Load
from tests.model.helpers import answer_ids, encode, user

DOORS = ("TheWorld", "AutoModelForImageTextToText", "AutoModelForMultimodalLM")

SCRIPT = """
import json, sys
import theworld, torch, transformers
from safetensors.torch import load_file, save_file

checkpoint, inputs_file, image_file, results = sys.argv[1:]
inputs = load_file(inputs_file)
logits, classes = {}, {}
for name in ("AutoModelForImageTextToText", "AutoModelForMultimodalLM", "TheWorld"):
    door = theworld.TheWorld if name == "TheWorld" else getattr(transformers, name)
    model = door.from_pretrained(checkpoint)
    classes[name] = type(model).__name__
    with torch.no_grad():
        logits[name] = model(**inputs).logits
classes["AutoConfig"] = type(transformers.AutoConfig.from_pretrained(checkpoint)).__name__
classes["AutoProcessor"] = type(transformers.AutoProcessor.from_pretrained(checkpoint)).__name__
print("loaded", flush=True)
print("loaded", file=sys.stderr, flush=True)

pipe = transformers.pipeline("image-text-to-text", model=checkpoint)
classes["pipeline"] = type(pipe.model).__name__
content = [{"type": "image", "path": image_file}, {"type": "text", "text": "What colour is the ball?"}]
encoded = []
encode = pipe.model.model.world_encoder.encode
pipe.model.model.world_encoder.encode = lambda *given: encoded.append(1) or encode(*given)
answer = pipe(text=[{"role": "user", "content": content}], generate_kwargs={"max_new_tokens": 5, "min_new_tokens": 5,
    "do_sample": False}, return_full_text=False)[0]["generated_text"]
save_file(logits, results + ".safetensors")
with open(results + ".json", "w") as file:
    json.dump({"classes": classes, "answer": answer, "encoded": len(encoded)}, file)
"""


@pytest.fixture(scope="module")
def process(load: Load, images: list[Image.Image], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a new process made of a checkpoint, and what this one makes of it."""
    folder = tmp_path_factory.mktemp("process")
    model = load()
    with torch.no_grad():
        model.model.world_markers.weight += 0.1  # no base model has these
    model.save_pretrained(folder / "checkpoint")
    images[0].save(folder / "image.png")
    inputs = encode(model.processor, [user("What colour is the ball?", images[0])])
    save_file({name: value.contiguous() for name, value in inputs.items()}, folder / "inputs.safetensors")
    arguments = [str(folder / name) for name in ("checkpoint", "inputs.safetensors", "image.png", "results")]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "TRANSFORMERS_VERBOSITY": "warning"},
    )
    assert done.returncode == 0, done.stderr
    return {
        **json.loads((folder / "results.json").read_text(encoding="utf-8")),
        "logits": load_file(folder / "results.safetensors"),
        "stdout": done.stdout,
        "stderr": done.stderr,
        "expected": model(**inputs).logits,
        "expected answer": model.processor.decode(answer_ids(model, inputs)[0], skip_special_tokens=True),
    }


@pytest.mark.parametrize("door", DOORS)
def test_same_logits_through_every_door(process: dict[str, Any], door: str) -> None:
    assert process["classes"][door] == "TheWorld"
    assert torch.equal(process["logits"][door], process["expected"])


def test_loading_is_silent(process: dict[str, Any]) -> None:
    for stream in ("stdout", "stderr"):
        assert process[stream].partition("loaded\n")[0] == ""


def test_configuration_and_processor(process: dict[str, Any]) -> None:
    assert process["classes"]["AutoConfig"] == "TheWorldConfig"
    assert process["classes"]["AutoProcessor"] == "TheWorldProcessor"


def test_pipeline_answers_with_the_world(process: dict[str, Any]) -> None:
    assert process["classes"]["pipeline"] == "TheWorld"
    assert process["encoded"] == 1
    assert process["answer"] == process["expected answer"]


def test_no_path_of_this_machine_is_needed(load: Load, tmp_path: Path) -> None:
    """Only the names of the base models are paths, and only because these are folders."""
    load().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    config.pop("gemma_model_name")
    config.pop("cosmos_model_name")
    assert str(tmp_path.parent) not in json.dumps(config)
