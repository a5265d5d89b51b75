"""One question, three answers: plain Gemma 3, with the current frame's world tokens, and with a rollout.

python examples/inference.py                      # the scenes in the package
python examples/inference.py --scene stack
python examples/inference.py --model google/gemma-3-4b-it --image photo.jpg --question "What happens next?"
"""

import argparse
from pathlib import Path
from typing import Any

from PIL import Image

from theworld import TheWorld
from theworld.analysis.imagine import imagine
from theworld.analysis.scenarios import answer_three_ways, rollout_steps
from theworld.analysis.sheet import SheetScene, labelled_sheet
from theworld.nano.examples import EXAMPLES, FRAME_SECONDS, load_example
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

    def scene(image: Image.Image, question: str, **known: Any) -> SheetScene:
        answers = print_answers(model, image, question, args.num_world_steps)
        imagined = imagine(model, image, rollout_steps(model, args.num_world_steps))
        return SheetScene(question, answers, imagined, FRAME_SECONDS if known else 1 / model.config.world_fps, **known)

    if args.image:
        scenes = [scene(open_image(args.image), args.question or "What happens next?")]
    else:
        scenes = []
        for example in map(load_example, [args.scene] if args.scene else EXAMPLES):
            truth = "" if args.question else example.answer
            question = args.question or example.question
            scenes.append(scene(example.image, question, simulated=example.clip, truth=truth))
            print(f"truth           {truth}\n" if truth else "")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    labelled_sheet(scenes).save(args.output)
    print(f"image           {args.output}")
    if args.image is None:
        print("These scenes were selected; docs/results.md has the accuracy on held-out scenes.")


def print_answers(model: TheWorld, image: Image.Image, question: str, steps: int | None) -> dict[str, str]:
    print(f"question        {question}")
    answers = answer_three_ways(model, image, question, steps)
    for name, answer in answers.items():
        print(f"{name:<16}{answer}")
    return answers


if __name__ == "__main__":
    main()
