"""Ask a question about an image."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from .loading import add_model_arguments, add_world_arguments, check_world_arguments

if TYPE_CHECKING:
    from PIL import Image

    from theworld.analysis.explain import Explanation
    from theworld.model import TheWorld


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("image", help="path or URL of an image")
    parser.add_argument("question")
    add_model_arguments(parser)
    add_world_arguments(parser)
    parser.add_argument("--use_world", action="store_true", help="use world tokens even if they were never trained")
    parser.add_argument("--max_new_tokens", type=int, default=100, help="longest answer, in tokens (default: 100)")
    parser.add_argument("--explain", type=Path, metavar="OUT.png", help="draw what the answer attends to; and OUT.json")
    parser.add_argument("--layer", type=int, help="draw this layer's attention (default: the mean over all layers)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the answer."""
    from theworld.utils.images import open_image

    from .loading import load_model

    check(args)
    image = open_image(args.image)  # before the model: a wrong path costs no loading
    model = load_model(args, enable_world=not args.no_world)
    steps = model.config.num_world_steps if args.num_world_steps is None else args.num_world_steps
    described = {"image": args.image, "question": args.question, "answer": "", "model": args.model}
    described |= {"num_world_steps": steps if model.config.enable_world and uses_world(model, args) else None}
    if args.explain is None:
        options = {"num_world_steps": args.num_world_steps, "max_new_tokens": args.max_new_tokens, "do_sample": False}
        described["answer"] = model.ask(image, args.question, use_world=args.use_world or None, **options)
    else:
        explanation = draw(model, image, args)
        described |= {"answer": explanation.answer, "explained": str(args.explain), "shares": explanation.shares()}
    print(json.dumps(described, ensure_ascii=False) if args.json else described["answer"])
    return 0


def uses_world(model: TheWorld, args: argparse.Namespace) -> bool:
    """Whether the answer uses the world: tokens that were never trained are left out unless they are asked for."""
    return args.use_world or args.explain is not None or model.world_is_trained


def check(args: argparse.Namespace) -> None:
    """Refuse options that contradict each other, before a model is loaded."""
    check_world_arguments(args)
    if args.no_world and args.use_world:
        raise ValueError("--no_world and --use_world contradict each other: drop one")
    if args.no_world and args.explain is not None:
        raise ValueError(f"--no_world and --explain {args.explain} contradict each other: drop one")
    if args.layer is not None and args.explain is None:
        raise ValueError(f"--layer {args.layer} chooses what --explain draws: give --explain OUT.png as well")
    if args.explain is not None:
        from theworld.analysis.explain_plots import check_ending

        check_ending(args.explain)


def draw(model: TheWorld, image: Image.Image, args: argparse.Namespace) -> Explanation:
    """Answer, and write the picture of what the answer looks at, with its numbers beside it."""
    from theworld.analysis.explain import explain
    from theworld.analysis.explain_plots import draw_explanation, frames_behind, save_explanation
    from theworld.utils.io import write_json

    options = {"num_world_steps": args.num_world_steps, "max_new_tokens": args.max_new_tokens}
    explanation = explain(model, image, args.question, **options)
    figure = draw_explanation(explanation, frames_behind(model, image, explanation), args.layer)
    save_explanation(figure, args.explain)
    write_json(args.explain.with_suffix(".json"), explanation.to_dict())
    return explanation
