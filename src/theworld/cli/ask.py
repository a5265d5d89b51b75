"""Ask a question about an image."""

import argparse
from pathlib import Path

from theworld.utils.errors import TheWorldError, brief

from .loading import add_json, add_options, check_world_arguments, report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("image", help="path or URL of an image")
    parser.add_argument("question", help="question about the image")
    add_options(parser, "model", "cosmos_model_name", "operating_point", "num_world_steps", "no_world")
    parser.add_argument("--use_world", action="store_true", help="use world tokens even if they were never trained")
    parser.add_argument("--auto_world", action="store_true", help="use the world only if the first answer is unsure")
    parser.add_argument("--choices", help="possible answers, comma-separated: print their probabilities")
    parser.add_argument("--num_futures", type=int, default=1, help="number of rollouts (default: 1)")
    parser.add_argument("--max_new_tokens", type=int, default=100, help="longest answer, in tokens (default: 100)")
    parser.add_argument(
        "--explain", type=Path, metavar="OUT.png", help="draw the attention of the answer; write it to OUT.json too"
    )
    parser.add_argument("--layer", type=int, help="layer whose attention is drawn (default: mean of all)")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print the answer."""
    from theworld.utils.images import open_image

    from .loading import load_model

    # 1. Check the options and open the image before the model is loaded
    check_world_arguments(args)
    several = [name for name in ("auto_world", "choices") if vars(args)[name]] + ["num_futures"] * (
        args.num_futures > 1
    )
    if args.explain is not None and several:
        raise TheWorldError(f"--explain draws one answer from one rollout: leave --{several[0]} out")
    if args.auto_world and args.use_world:
        raise TheWorldError("--auto_world and --use_world contradict each other: drop one")
    if args.layer is not None and args.explain is None:
        raise TheWorldError(f"--layer {args.layer} selects the layer that --explain draws: give --explain OUT.png too")
    if args.explain is not None:
        from theworld.analysis.figures import check_figure_ending

        check_figure_ending(args.explain)
    try:
        image = open_image(args.image)
    except FileNotFoundError as error:
        if is_image(args.question):
            told = f"no such image file: {brief(repr(args.image))}; {brief(repr(args.question))} is one"
            raise TheWorldError(f"{told}: give IMAGE before QUESTION") from error
        raise
    # 2. Ask the model
    model = load_model(args)
    # World tokens that were never trained are used only on request
    uses_world = model.config.enable_world and (args.use_world or args.explain or model.world_is_trained)
    steps = model.config.num_world_steps if args.num_world_steps is None else args.num_world_steps
    described = {"image": args.image, "question": args.question, "model": args.model}
    described["num_world_steps"] = steps if uses_world else None
    options = {"num_world_steps": args.num_world_steps}
    if args.choices is None:
        options["max_new_tokens"] = args.max_new_tokens
    else:
        options["choices"] = [choice.strip() for choice in args.choices.split(",")]
    if args.explain is None:
        options["use_world"] = "auto" if args.auto_world else args.use_world or None
        answer = model.ask(image, args.question, num_futures=args.num_futures, **options)
    else:
        from theworld.analysis.explain import explain
        from theworld.analysis.explain_plots import draw_explanation, frames_behind
        from theworld.analysis.figures import save_figure
        from theworld.utils.io import write_json

        explanation = explain(model, image, args.question, **options)
        figure = draw_explanation(explanation, frames_behind(model, image, explanation), args.layer)
        save_figure(figure, args.explain)
        write_json(args.explain.with_suffix(".json"), explanation.to_dict())
        described |= {"explained": str(args.explain), "shares": explanation.shares()}
        answer = explanation.answer
    if isinstance(answer, dict):
        ranked = sorted(answer.items(), key=lambda one: -one[1])
        return report(
            args, {**described, "probabilities": answer}, *(f"{share:.3f} {choice}" for choice, share in ranked)
        )
    return report(args, {**described, "answer": answer}, answer)


def is_image(path: str) -> bool:
    """Whether there is an image file at `path`."""
    from theworld.utils.images import open_image

    try:
        open_image(Path(path))
    except (OSError, ValueError):
        return False
    return True
