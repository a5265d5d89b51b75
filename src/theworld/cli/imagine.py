"""Show what the world model imagines after an image: a GIF, an MP4 or a contact sheet."""

import argparse
from pathlib import Path

from .loading import add_json, add_options, report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("image", help="path or URL of an image")
    add_options(parser, "model", "cosmos_model_name", "operating_point", "num_world_steps")
    parser.add_argument("--world_seed", type=int, help="seed of the rollout (default: the model's own)")
    output = ".gif, .mp4, or .png for a sheet (default: %(default)s)"
    parser.add_argument("-o", "--output", type=Path, default=Path("imagined.gif"), help=output)
    parser.add_argument("--fps", type=float, default=8, help="frames per second of GIF and MP4 (default: 8)")
    parser.add_argument("--question", help="ask this too, and write the answer below the frames")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Write the file, and print a description of it."""
    from theworld.analysis.animate import check_ending, save_rollout
    from theworld.analysis.imagine import imagine
    from theworld.model.configuration_theworld import check_world_seed
    from theworld.utils.images import open_image

    from .loading import load_model

    check_ending(args.output)
    check_world_seed(args.world_seed)
    image = open_image(args.image)
    model = load_model(args)
    steps = model.config.num_world_steps if args.num_world_steps is None else args.num_world_steps
    frames = imagine(model, image, steps, args.world_seed)
    answer = caption = None
    if args.question is not None:
        answer = model.ask(image, args.question, num_world_steps=steps, world_seed=args.world_seed)
        caption = f"{args.question}\nAnswer: {answer}"
    compression = model.config.world_temporal_compression
    save_rollout(frames, args.output, fps=args.fps, frames_per_step=compression, caption=caption or "")
    described = {"output": str(args.output), "frames": len(frames), "num_world_steps": steps, "answer": answer}
    text = f"{args.output}: the current frame and {len(frames) - 1} imagined frames ({steps} latent frames)"
    return report(args, described, text, "" if answer is None else f"answer: {answer}")
