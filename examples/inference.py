"""One question, three answers: plain Gemma 3, with the current frame's world tokens, and with a rollout.

python examples/inference.py                      # the three scenes in the package
python examples/inference.py --scene stack
python examples/inference.py --model google/gemma-3-4b-it --image photo.jpg --question "What happens next?"
"""

import argparse
from pathlib import Path

from PIL import Image

from theworld import TheWorld
from theworld.analysis.imagine import contact_sheet, imagine
from theworld.analysis.scenarios import answer_three_ways, rollout_steps
from theworld.nano.examples import EXAMPLES, load_example
from theworld.utils.devices import best_device
from theworld.utils.images import open_image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--scene", choices=EXAMPLES, help="one of the shipped scenes (default: all)")
    parser.add_argument("--image", help="your own image, instead of the shipped scenes")
    parser.add_argument("--question")
    parser.add_argument("--num_world_steps", type=int, help="future latent frames (default: the model's own)")
    parser.add_argument("--output", type=Path, default=Path("runs/inference.png"))
    args = parser.parse_args()
    try:
        show(args)
    except (ValueError, OSError, ImportError) as error:
        parser.exit(2, f"inference.py: error: {error}\n")


def show(args: argparse.Namespace) -> None:
    device, dtype = best_device()
    model = TheWorld.from_pretrained(args.model, dtype=dtype, device_map={"": device})
    rows = []
    if args.image:
        image = open_image(args.image)
        print_answers(model, image, args.question or "What happens next?", args.num_world_steps)
        rows.append(imagine(model, image, rollout_steps(model, args.num_world_steps)))
    else:
        for example in map(load_example, [args.scene] if args.scene else EXAMPLES):
            print_answers(model, example.image, args.question or example.question, args.num_world_steps)
            print("" if args.question else f"truth           {example.answer}\n")
            rows += [imagine(model, example.image, rollout_steps(model, args.num_world_steps)), example.clip]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(rows).save(args.output)
    shown = "imagined frames" if args.image else "imagined frames above, the simulated ones below"
    print(f"image           {args.output}: {shown}")


def print_answers(model: TheWorld, image: Image.Image, question: str, steps: int | None) -> None:
    print(f"question        {question}")
    for name, answer in answer_three_ways(model, image, question, steps).items():
        print(f"{name:<16}{answer}")


if __name__ == "__main__":
    main()
