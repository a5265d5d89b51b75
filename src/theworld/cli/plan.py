"""Compute downloads, memory and time of a model from its configuration files, without downloading weights."""

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from .loading import add_json, add_key, add_options, report

if TYPE_CHECKING:
    from theworld.analysis.plan import Cost


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options, and one for every field of the model's config."""
    from theworld.utils.settings import keys
    from theworld.utils.world_settings import WorldSettings

    parser.usage = "%(prog)s [--model MODEL] [--operating_point NAME] [--gpu GPU] [--FIELD VALUE ...]"
    add_options(parser, "model", "operating_point")
    parser.add_argument("--gpu", default="H200", help="H200 (the default), H100, A100, L40S or RTX4090")
    parser.add_argument("--share", type=float, default=0.4, help="share of the GPU's peak (default: 0.4)")
    parser.add_argument("--text_tokens", type=int, default=64, help="tokens of the question (default: 64)")
    parser.add_argument("--answer_tokens", type=int, default=16, help="tokens of a training answer (default: 16)")
    add_json(parser)
    group = parser.add_argument_group(
        "fields of TheWorldConfig (defaults are those of a new fusion; a checkpoint keeps its own)"
    )
    for key in keys(WorldSettings).values():
        if key.refused is None:
            add_key(group, key)


def run(args: argparse.Namespace) -> int:
    """Print the costs."""
    from theworld.analysis.plan import plan
    from theworld.utils.settings import keys
    from theworld.utils.world_settings import WorldSettings

    known = keys(WorldSettings)
    fields = {name: known[name].parse(value) for name, value in vars(args).items() if name in known}
    sizes = {name: getattr(args, name) for name in ("gpu", "share", "text_tokens", "answer_tokens")}
    cost = plan(args.model, operating_point=args.operating_point, **sizes, **fields)
    values = {**asdict(cost), "seconds": cost.seconds, "loaded_gb": cost.total.loaded_gb}
    return report(args, {**values, "training_gb": cost.total.training_gb}, *lines(cost))


def lines(cost: "Cost") -> list[str]:
    """The tables as lines of text."""
    from theworld.analysis.plan import GPUS
    from theworld.utils.tables import text_table

    gpu, total = GPUS[cost.gpu], cost.total
    # 1. Settings and downloads
    shown = [", ".join(f"{name}={value}" for name, value in cost.settings.items())]
    downloads: list[tuple[str, ...]] = []
    for one in cost.downloads:
        name = f"{one.repository}{f': {one.component}' if one.component else ''}"
        size = "?" if one.gigabytes is None else f"{one.gigabytes:.2f}"
        downloads.append((name, str(one.files or "?"), size, f"{one.known}; {one.licence}"))
    shown.append("\n" + text_table(("download", "files", "GB", "size, licence"), downloads, left=(0, 3)))
    # 2. Parameters and memory
    sizes = [
        (s.component, f"{s.parameters:,}", f"{s.trainable:,}", f"{s.loaded_gb:.2f}", f"{s.training_gb:.2f}")
        for s in (*cost.components, total)
    ]
    titles = ("component", "parameters", "trainable", "GB, bf16", "GB, training")
    shown.append("\n" + text_table(titles, sizes))
    shown.append(
        f"Training holds frozen weights in bf16, and trained weights, gradients and Adam's moments in fp32. "
        f"Activations are not included. {cost.gpu} has {gpu.memory:g} GB."
    )
    # 3. Tokens, operations and time
    shown.append(
        "\ntokens of a prompt with one image: " + ", ".join(f"{n:,} {kind}" for kind, n in cost.tokens.items())
    )
    times = [(phase, f"{value:.4g}", f"{cost.seconds[phase]:.2g}") for phase, value in cost.tflop.items()]
    shown.append("\n" + text_table(("one image", "TFLOP", "seconds"), times))
    shown.append(f"Seconds at {cost.share:.0%} of the {gpu.tflops:g} TFLOPS that {cost.gpu} has in bf16.")
    return shown
