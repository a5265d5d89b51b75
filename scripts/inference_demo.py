"""The three scenarios for an image and a question: plain Gemma 3, the current frame, a rollout.

python scripts/inference_demo.py                                                    # a shipped scene, the nano model
python scripts/inference_demo.py --model google/gemma-3-4b-it --image photo.jpg --question "What happens next?"
"""

import argparse
import json

from theworld import TheWorld
from theworld.analysis.scenarios import answer_three_ways, rollout_steps
from theworld.nano.examples import EXAMPLES, load_example
from theworld.utils.devices import best_device
from theworld.utils.images import open_image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="folder or Hub id of a TheWorld checkpoint or a Gemma 3")
    parser.add_argument("--image", help="path or URL (default: a shipped scene)")
    parser.add_argument("--question", help="default: the shipped scene's question, or: What happens next?")
    parser.add_argument("--num_world_steps", type=int, help="future latent frames (default: the model's own)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    try:
        show(args)
    except (ValueError, OSError) as error:
        parser.exit(2, f"inference_demo.py: error: {error}\n")


def show(args: argparse.Namespace) -> None:
    example = load_example(EXAMPLES[0])
    image = open_image(args.image) if args.image else example.image
    question = args.question or ("What happens next?" if args.image else example.question)
    device, dtype = best_device()
    model = TheWorld.from_pretrained(args.model, dtype=dtype, device_map={"": device})
    answers = answer_three_ways(model, image, question, args.num_world_steps)
    if args.json:
        described = {"model": args.model, "image": args.image or EXAMPLES[0], "question": question}
        described["num_world_steps"] = rollout_steps(model, args.num_world_steps)
        print(json.dumps({**described, "answers": answers}))
        return
    print(f"question        {question}")
    for name, answer in answers.items():
        print(f"{name:<16}{answer}")
    if not args.image and not args.question:
        print(f"truth           {example.answer}")


if __name__ == "__main__":
    main()
