"""Operations of the full-size model by number of images, future frames, tokens per frame, batch size and length.

    python benchmarks/growth.py               # print the table
    python benchmarks/growth.py --write       # also update docs/performance.md and docs/growth.svg

`torch.utils.flop_counter` counts on the real configurations on the meta device: no weights, no downloads, and the same
result on every machine. Attention is counted in full, even with masks and sliding windows. All layers are equal, so the
counts for one and two layers give the total.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, CosmosTransformer3DModel
from full_size import cosmos, gemma
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import Gemma3Config, Gemma3TextModel, SiglipVisionModel

from theworld.model.world_encoders.single_frame import posterior_mode

DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- growth:begin -->\n", "<!-- growth:end -->"
PHASES = {"encode": "#4477aa", "rollout": "#ee6677", "vision": "#ccbb44", "prefill": "#228833"}
META = torch.device("meta")


@dataclass(frozen=True)
class Call:
    """One batch of prompts."""

    images: int = 1  # per prompt
    num_world_steps: int = 1
    world_pooling: int = 1  # 1, 2, 4: 784, 196, 49 tokens a frame at 224 px
    batch: int = 1
    text: int = 256
    inference_steps: int = 35
    size: int = 224

    @property
    def tokens_per_frame(self) -> int:
        return (self.size // 8 // self.world_pooling) ** 2

    @property
    def length(self) -> int:
        """Tokens of a prompt: BOS, text, and for each image its world tokens, 256 image tokens and four markers."""
        world = (1 + self.num_world_steps) * self.tokens_per_frame
        return 1 + self.images * (world + 256 + 4) + self.text


SWEEPS: dict[str, tuple[str, tuple[int, ...]]] = {
    "images per prompt": ("images", (1, 2, 4, 8)),
    "future latent frames K": ("num_world_steps", (0, 1, 2, 4)),
    "tokens per frame": ("world_pooling", (4, 2, 1)),
    "prompts in a batch": ("batch", (1, 2, 4, 8)),
    "text tokens of a prompt": ("text", (64, 256, 1024, 4096)),
}


def counted(build: Callable[[int], nn.Module], run: Callable[[Any], object], layers: int) -> float:
    """TFLOP of `run` on a model with `layers` layers, extrapolated from one and two layers."""
    found = []
    for depth in (1, 2):
        with META:
            model = build(depth).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            run(model)
        found.append(counter.get_total_flops())
    return (found[0] + (layers - 1) * (found[1] - found[0])) / 1e12


def empty(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device=META)


@cache
def encode(size: int) -> float:
    """TFLOP of one frame in the VAE's encoder."""
    return counted(lambda _: AutoencoderKLWan(), lambda vae: posterior_mode(vae, empty(1, 3, 1, size, size)), 1)


@cache
def forward(size: int, frames: int) -> float:
    """TFLOP of one forward of the diffusion transformer on `frames` latent frames, with 512 prompt tokens."""
    side = size // 8

    def build(depth: int) -> nn.Module:
        return CosmosTransformer3DModel(**{**cosmos(depth, 1), "in_channels": 18, "concat_padding_mask": False})

    def run(transformer: Any) -> None:
        transformer(
            hidden_states=empty(1, 16, frames, side, side), timestep=empty(1, 1, frames, 1, 1), fps=16,
            encoder_hidden_states=empty(1, 512, 1024), condition_mask=empty(1, 2, frames, side, side),
        )  # fmt: skip

    return counted(build, run, cosmos(None, 1)["num_layers"])


@cache
def vision() -> float:
    """TFLOP of one image in SigLIP."""

    def build(depth: int) -> nn.Module:
        return SiglipVisionModel(Gemma3Config(**gemma(depth, 1)).vision_config)

    return counted(
        build, lambda tower: tower(empty(1, 3, 896, 896)), gemma(None, 1)["vision_config"]["num_hidden_layers"]
    )


@cache
def prefill(length: int) -> float:
    """TFLOP of `length` tokens in the language model, without logits."""
    unmasked = {"full_attention": None, "sliding_attention": None}

    def run(language: Any) -> None:
        language(inputs_embeds=empty(1, length, 2560), attention_mask=unmasked, use_cache=False)

    def build(depth: int) -> nn.Module:
        return Gemma3TextModel(Gemma3Config(**gemma(depth, 1)).text_config)

    return counted(build, run, gemma(None, 1)["text_config"]["num_hidden_layers"])


def cost(call: Call) -> dict[str, float]:
    """TFLOP of each phase of a call."""
    images = call.batch * call.images
    forwards = call.inference_steps if call.num_world_steps else 0
    return {
        "encode": images * encode(call.size),
        "rollout": images * forwards * (forward(call.size, 1 + call.num_world_steps) if forwards else 0),
        "vision": images * vision(),
        "prefill": call.batch * prefill(call.length),
    }


def measure() -> dict[str, list[dict[str, float]]]:
    """Rows of every sweep: `x`, the prompt's `length`, and TFLOP by phase."""
    rows = {}
    for name, (field, values) in SWEEPS.items():
        calls = [replace(Call(), **{field: value}) for value in values]
        shown = [call.tokens_per_frame for call in calls] if field == "world_pooling" else values
        rows[name] = [{"x": x, "length": call.length, **cost(call)} for x, call in zip(shown, calls, strict=True)]
    return rows


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    """Markdown of the generated block of docs/performance.md: the figure and a table."""
    lines = ["![TFLOP of each phase, by what makes it grow](growth.svg)", ""]
    lines += [f"| | | prompt tokens | {' | '.join(PHASES)} | all |", f"|---|---|---|{'---|' * (len(PHASES) + 1)}"]
    for name, found in rows.items():
        for row in found:
            costs = [row[phase] for phase in PHASES]
            numbers = " | ".join(f"{value:.3g}" for value in (*costs, sum(costs)))
            lines.append(f"| {name} | {row['x']:,} | {row['length']:,} | {numbers} |")
    return "\n".join(lines) + "\n"


def figure(rows: dict[str, list[dict[str, float]]]) -> str:
    """SVG with one panel per sweep: stacked bars of TFLOP by phase, each panel with its own scale."""
    width, height, left, top = 176, 150, 12, 46
    drawn = [f'<text x="{left}" y="18" font-size="14">TFLOP of one call, by phase</text>']
    for index, (phase, colour) in enumerate(PHASES.items()):
        x = left + 240 + 90 * index
        drawn.append(
            f'<rect x="{x}" y="9" width="10" height="10" fill="{colour}"/><text x="{x + 14}" y="18">{phase}</text>'
        )
    for panel, (name, found) in enumerate(rows.items()):
        x0, highest = left + panel * width, max(sum(row[phase] for phase in PHASES) for row in found)
        drawn.append(f'<text x="{x0}" y="{top}">{name}</text>')
        for index, row in enumerate(found):
            x, y = x0 + index * 38, top + 24 + height
            for phase, colour in PHASES.items():
                tall = height * row[phase] / highest
                y -= tall
                drawn.append(f'<rect x="{x}" y="{y:.1f}" width="30" height="{tall:.1f}" fill="{colour}"/>')
            total = sum(row[phase] for phase in PHASES)
            middle = f'text-anchor="middle" x="{x + 15}"'
            drawn.append(f'<text {middle} y="{y - 3:.1f}" font-size="9">{total:.3g}</text>')
            drawn.append(f'<text {middle} y="{top + 38 + height}">{row["x"]}</text>')
    size = f'width="{left + len(rows) * width}" height="{top + height + 48}"'
    style = 'font-family="sans-serif" font-size="11" fill="#222"'
    background = '<rect width="100%" height="100%" fill="#fff"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n' + "\n".join([background, *drawn]) + "\n</svg>\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--write",
        type=Path,
        nargs="?",
        const=DOCS,
        metavar="DIR",
        help="write performance.md and growth.svg (default: docs)",
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = measure()
    if args.write:
        page = args.write / "performance.md"
        before, rest = page.read_text(encoding="utf-8").split(BEGIN)
        page.write_text(before + BEGIN + table(rows) + END + rest.split(END)[1], encoding="utf-8")
        (args.write / "growth.svg").write_text(figure(rows), encoding="utf-8")
    print(json.dumps(rows, indent=2) if args.json else table(rows))


if __name__ == "__main__":
    main()
