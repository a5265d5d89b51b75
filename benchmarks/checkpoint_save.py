"""Time to save a checkpoint, with and without comparing all tensors to the base models (Gemma 3 4B, random weights).

    python benchmarks/checkpoint_save.py --layers 34 --pairs 5

All sides save the same delta, a projector. The first gets the list of tensors to save; the others compare every tensor
with its loaded value.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path
from string import ascii_lowercase
from unittest.mock import patch

import torch
from tokenizers import Tokenizer

from theworld import TheWorld, TheWorldConfig, TheWorldProcessor
from theworld.model.checkpoints import save
from theworld.model.checkpoints.delta import delta_names
from theworld.utils.tensors import snapshot

TEXT = {
    "vocab_size": 262_208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
}
VISION = {"model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "image_size": 896}
VISION |= {"num_attention_heads": 16, "patch_size": 14, "vision_use_head": False}
VISION_LAYERS = 27


def build(layers: int, width: int) -> TheWorld:
    """A random model in bfloat16, of which only the world's parameters are trainable."""
    text = {**TEXT, "num_hidden_layers": layers, "hidden_size": width, "intermediate_size": 4 * width}
    vision = {**VISION, "num_hidden_layers": min(layers, VISION_LAYERS)}
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        model = TheWorld(TheWorldConfig(text_config=text, vision_config=vision))
    torch.set_default_dtype(torch.float32)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.uniform_(-1, 1)
    model.tie_weights()
    model.processor = processor_of_real_size()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("world_" in name)
    return model


def processor_of_real_size() -> TheWorldProcessor:
    """The nano processor with a tokenizer of Gemma 3's size: 262,208 entries."""
    stock = TheWorld.from_pretrained("nano").processor
    described = json.loads(stock.tokenizer.backend_tokenizer.to_str())
    vocabulary, merges = described["model"]["vocab"], described["model"]["merges"]
    known = dict(vocabulary)
    for length in range(2, 6):
        for letters in itertools.product(ascii_lowercase, repeat=length):
            token = "".join(letters)
            if len(known) < TEXT["vocab_size"] and token not in known and token[:-1] in known:
                known[token] = len(known)
                merges.append([token[:-1], token[-1]])
    described["model"]["vocab"] = known
    stock.tokenizer._tokenizer = Tokenizer.from_str(json.dumps(described))
    return stock


def seconds(model: TheWorld, folder: Path, **how: bool) -> float:
    begin = time.perf_counter()
    model.save_pretrained(folder, **how)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=34)
    parser.add_argument("--width", type=int, default=2560, help="of the language model")
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()
    # 1. Build the model, and store snapshots of the base weights as loading does
    model = build(args.layers, args.width)
    begin = time.perf_counter()
    model.base_tensors = {n: snapshot(p) for n, p in model.named_parameters() if "world_" not in n}
    print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters; remembered in {time.perf_counter() - begin:.2f} s"
    )
    # 2. Time the three ways to save in turn
    model.train()
    given = delta_names(model)
    times: dict[str, list[float]] = {"given": [], "training": [], "thorough": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.pairs):
            with patch.object(save, "delta_names", lambda *_, **__: given), patch.object(save, "check_expressible"):
                times["given"].append(seconds(model, Path(folder) / "x"))
            times["training"].append(seconds(model.train(), Path(folder) / "x", is_main_process=True))
            times["thorough"].append(seconds(model.eval(), Path(folder) / "x"))
            model.train()
    # 3. Print medians and ratios
    base = statistics.median(times["given"])
    for name, label in (
        ("given", "without comparison"),
        ("training", "by a trainer"),
        ("thorough", "all bytes hashed"),
    ):
        median = statistics.median(times[name])
        print(f"save, {label:<20} {median:8.3f} s   ratio {median / base:.2f}")


if __name__ == "__main__":
    main()
