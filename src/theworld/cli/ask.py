"""Ask a question about an image."""

import argparse
import json

from theworld.constants import NANO


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("image", help="path or URL of an image")
    parser.add_argument("question")
    parser.add_argument("--model", default=NANO, help="folder or Hub id of a TheWorld checkpoint or a Gemma 3")
    parser.add_argument("--cosmos", help="folder or Hub id of the base world model, in place of the checkpoint's own")
    parser.add_argument("--steps", type=int, help="future latent frames to imagine (default: the model's own)")
    parser.add_argument("--no-world", action="store_true", help="ask plain Gemma 3")
    parser.add_argument("--max-new-tokens", type=int, default=100)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the answer."""
    from theworld.model import TheWorld
    from theworld.utils.devices import best_device

    if args.no_world and args.steps is not None:
        raise ValueError(f"--no-world and --steps {args.steps} contradict each other: drop one")
    device, dtype = best_device()
    options: dict[str, object] = {"cosmos_model_name": args.cosmos} if args.cosmos else {}
    options["device_map"] = {"": device}
    model = TheWorld.from_pretrained(args.model, dtype=dtype, enable_world=not args.no_world, **options)
    answer = model.ask(
        args.image, args.question, num_world_steps=args.steps, max_new_tokens=args.max_new_tokens, do_sample=False
    )
    if not args.json:
        print(answer)
        return 0
    steps = model.config.num_world_steps if args.steps is None else args.steps
    described = {"image": args.image, "question": args.question, "answer": answer, "model": args.model}
    print(json.dumps({**described, "num_world_steps": None if args.no_world else steps}, ensure_ascii=False))
    return 0
