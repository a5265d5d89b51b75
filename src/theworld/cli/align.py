"""Compare projected world tokens with Gemma's image tokens and text embeddings: a figure and its numbers."""

import argparse
from pathlib import Path
from typing import Any

from theworld.utils.errors import MissingFileError, TheWorldError

from .loading import add_json, add_options, report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_options(parser, "model", "cosmos_model_name", "operating_point", "num_world_steps")
    images = "paths or URLs (default: the nano scenes)"
    parser.add_argument("--images", nargs="+", default=[], metavar="IMAGE", help=images)
    parser.add_argument("--folder", type=Path, help="every image in this folder")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/align"),
        help="a folder, or a .png, .svg or .pdf file; the numbers are written beside it",
    )
    parser.add_argument("--samples", type=int, default=500, help="largest number of tokens of each kind (default: 500)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample and of t-SNE")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Write the figure and the numbers; print their paths and the main numbers."""
    from theworld.analysis.alignment import collect_tokens
    from theworld.analysis.alignment_plots import figure_path, save_alignment

    from .loading import load_model

    if args.samples < 2:
        raise TheWorldError(f"--samples {args.samples}: expected at least 2 tokens of each kind")
    figure = figure_path(args.output)
    images = open_images(args)
    model = load_model(args)
    tokens = collect_tokens(model, list(images.values()), args.num_world_steps, args.samples, args.seed)
    about = {"model": args.model, "images": list(images), "num_world_steps": tokens.world.shape[1] - 1}
    metrics = save_alignment(tokens, figure, about, args.samples, args.seed)
    rows = {
        name: {key: f"{value['mean']:.2f}" for key, value in metrics[name].items()}
        for name in ("magnitude", "cosine", "distance")
    }
    rows["effective rank"] = {key: f"{value:.1f}" for key, value in metrics["effective_rank"].items()}
    place = {key.replace("_", " "): value for key, value in metrics["cosine_at_place"].items() if value is not None}
    rows["at its place"] = {key: f"{value:.2f}" for key, value in place.items()}
    lines = [f"{name:<16}" + "  ".join(f"{key} {text}" for key, text in row.items()) for name, row in rows.items()]
    first = f"{len(images)} images, {metrics['sampled']} tokens of each kind"
    last = f"{figure} and {figure.with_suffix('.json')}"
    return report(args, metrics, first, *lines, last)


def open_images(args: argparse.Namespace) -> dict[str, Any]:
    """The images of the options; without any, the scenes in the package."""
    from theworld.data.schema import IMAGE_SUFFIXES
    from theworld.nano.examples import EXAMPLES, load_example
    from theworld.utils.images import open_image

    names: list[str] = list(args.images)
    if args.folder is not None:
        if not args.folder.is_dir():
            raise MissingFileError(f"{args.folder}: no such folder of images")
        found = sorted(str(path) for path in args.folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise TheWorldError(f"{args.folder}: no images; expected files ending in {', '.join(IMAGE_SUFFIXES)}")
        names += found
    if not names:
        return {name: load_example(name).image for name in EXAMPLES}
    return {name: open_image(name) for name in names}
