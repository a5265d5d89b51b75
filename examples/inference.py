"""One question, three answers: plain Gemma 3, with the current frame's world tokens, and with a rollout.

python examples/inference.py                      # a scene that ships with the nano model
python examples/inference.py --scene stack
python examples/inference.py --model google/gemma-3-4b-it --image photo.jpg --question "What happens next?"
"""

import argparse
from pathlib import Path

from theworld import TheWorld
from theworld.analysis.imagine import contact_sheet, imagine
from theworld.analysis.scenarios import answer_three_ways, rollout_steps
from theworld.model.image_processing_world import to_pil
from theworld.nano.examples import EXAMPLES, load_example
from theworld.utils.devices import best_device


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
        show(args)
    except (ValueError, OSError, ImportError) as error:
        parser.exit(2, f"inference.py: error: {error}\n")


def show(args: argparse.Namespace) -> None:
    example = load_example(args.scene)
    image = to_pil(args.image) if args.image else example.image
    question = args.question or ("What happens next?" if args.image else example.question)
    device, dtype = best_device()
    model = TheWorld.from_pretrained(args.model, dtype=dtype, device_map={"": device})

    print(f"question        {question}")
    for name, answer in answer_three_ways(model, image, question, args.steps).items():
        print(f"{name:<16}{answer}")
    if not args.image and not args.question:
        print(f"truth           {example.answer}")

    rows = [imagine(model, image, rollout_steps(model, args.steps))]
    if not args.image:
        rows.append(example.clip)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(rows).save(args.output)
    print(
        f"picture         {args.output}: imagined frames" + ("" if args.image else " above, the simulated ones below")
    )


if __name__ == "__main__":
    main()
