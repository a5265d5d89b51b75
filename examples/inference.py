"""One question, three answers: plain Gemma 3, with the current frame's world tokens, and with a rollout.

python examples/inference.py                      # a scene that ships with the nano model
python examples/inference.py --scene stack
python examples/inference.py --model google/gemma-3-4b-it --image photo.jpg --question "What happens next?"
"""

import argparse
from pathlib import Path

from theworld import TheWorld
from theworld.analysis.imagine import contact_sheet, imagine
from theworld.model.image_processing_world import to_pil
from theworld.nano.examples import EXAMPLES, load_example
from theworld.utils.devices import best_device

SCENARIOS = {
    "plain Gemma 3": {"use_world": False},
    "current frame": {"num_world_steps": 0},
    "rollout": {},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--scene", default=EXAMPLES[0], choices=EXAMPLES)
    parser.add_argument("--image", help="your own image, in place of a shipped scene")
    parser.add_argument("--question")
    parser.add_argument("--steps", type=int, help="future latent frames of the rollout (default: the model's own)")
    parser.add_argument("--output", type=Path, default=Path("runs/inference.png"))
    args = parser.parse_args()
    try:
        answer_three_ways(args)
    except (ValueError, OSError) as error:
        parser.exit(2, f"inference.py: error: {error}\n")


def answer_three_ways(args: argparse.Namespace) -> None:
    example = load_example(args.scene)
    image = to_pil(args.image) if args.image else example.image
    question = args.question or ("What happens next?" if args.image else example.question)
    device, dtype = best_device()
    model = TheWorld.from_pretrained(args.model, dtype=dtype, device_map={"": device})

    steps_ahead = max(1, model.config.num_world_steps) if args.steps is None else args.steps
    print(f"question        {question}")
    for name, options in SCENARIOS.items():
        steps = options.get("num_world_steps", steps_ahead)
        answer = model.ask(image, question, **{**options, "num_world_steps": steps}, do_sample=False)
        print(f"{name:<16}{answer}")
    if not args.image and not args.question:
        print(f"truth           {example.answer}")

    rows = [imagine(model, image, steps_ahead)]
    if not args.image:
        rows.append(example.clip)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(rows).save(args.output)
    print(
        f"picture         {args.output}: imagined frames" + ("" if args.image else " above, the simulated ones below")
    )


if __name__ == "__main__":
    main()
