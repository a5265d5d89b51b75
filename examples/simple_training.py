"""Train the nano model on three answers in a minute, then ask it: training from Python on your own rows.

python examples/simple_training.py --output runs/simple_training
"""

import argparse
import json
from pathlib import Path

from theworld import TheWorld
from theworld.nano.examples import EXAMPLES, load_example
from theworld.training.config import TrainingConfig
from theworld.training.run import train


def write_rows(folder: Path) -> Path:
    """Write a JSONL file. JSON, CSV or Parquet work too; each row has an image, a question and an answer."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in EXAMPLES:
        example = load_example(name)
        example.image.save(folder / f"{name}.png")
        rows.append({"image": f"{name}.png", "question": example.question, "answer": example.answer})
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/simple_training"))
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    rows = write_rows(args.output / "data")
    result = train(
        TrainingConfig(
            model_name="nano",
            num_world_steps=0,
            train_dataset_path=str(rows),
            image_folder=str(rows.parent),
            batch_size=3,
            gradient_accumulation_steps=1,
            max_steps=args.steps,
            warmup_steps=5,
            learning_rate=1e-3,
            mixed_precision="no",
            output_dir=str(args.output),
            resume_from="auto",
        )
    )
    print(f"step {result.step}, loss {result.loss:.4f}: {result.checkpoint}")
    model = TheWorld.from_pretrained(result.checkpoint)
    for name in EXAMPLES:
        example = load_example(name)
        answer = model.ask(example.image, example.question, do_sample=False, max_new_tokens=8)
        print(f"{example.question} {answer} (truth: {example.answer})")


if __name__ == "__main__":
    main()
