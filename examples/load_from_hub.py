"""Load a published TheWorld model, or one of the checkpoints in its repository, and ask it a question.

python examples/load_from_hub.py                                        # the model in the package, no network
python examples/load_from_hub.py you/model
python examples/load_from_hub.py you/model --checkpoint last-checkpoint --image photo.jpg --question "What falls?"

A private repository needs a token: HF_TOKEN, or `hf auth login`.
"""

import argparse

from theworld import TheWorld
from theworld.nano.examples import EXAMPLES, load_example
from theworld.utils.devices import best_device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repo_id", nargs="?", default="nano", help="Hub id or folder")
    parser.add_argument("--checkpoint", help="a folder in the repository, or a file in that folder")
    parser.add_argument("--image", help="your own image, instead of a shipped scene")
    parser.add_argument("--question")
    args = parser.parse_args()
    example = load_example(EXAMPLES[0])
    device, dtype = best_device()
    try:
        model = TheWorld.from_checkpoint_hub(args.repo_id, args.checkpoint, dtype=dtype, device_map={"": device})
        question = args.question or ("What happens next?" if args.image else example.question)
        answer = model.ask(args.image or example.image, question)
    except (ValueError, OSError) as error:
        parser.exit(2, f"load_from_hub.py: error: {error}\n")
    config = model.config
    print(f"base models   {config.gemma_model_name}, {config.cosmos_model_name}")
    print(f"changed       {', '.join(config.changed or ['nothing'])}")
    print(f"question      {question}")
    print(f"answer        {answer}")


if __name__ == "__main__":
    main()
