"""Train a TheWorld model with TRL's `SFTTrainer`: the projector, and with --lora adapters of the language model too.

python examples/trl_sft.py                                        # the nano model on three images
python examples/trl_sft.py --lora
python examples/trl_sft.py --model google/gemma-3-4b-it --data you/dataset    # columns: images, prompt, completion

TRL's own collator works: `model.processor` gives it the world block, `world_pixel_values` and `token_type_ids`.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, load_dataset
from peft import LoraConfig, PeftModel
from trl import SFTConfig, SFTTrainer

from theworld import TheWorld
from theworld.nano.examples import EXAMPLES, load_example
from theworld.utils.devices import best_device

# The projector and the block markers train in full beside the adapters, and are saved with them
LORA = LoraConfig(
    r=8,
    lora_alpha=16,
    target_modules=r".*language_model\.layers\.\d+\.self_attn\.(q|v)_proj",
    modules_to_save=["world_projector", "world_markers"],
)


def shipped_rows() -> Dataset:
    """The images in the package in TRL's format: images, prompt and completion."""
    rows = []
    for example in map(load_example, EXAMPLES):
        prompt = [{"role": "user", "content": example.question}]
        completion = [{"role": "assistant", "content": example.answer}]
        rows.append({"images": [example.image], "prompt": prompt, "completion": completion})
    return Dataset.from_list(rows)


def make_trainer(model: TheWorld, rows: Dataset, output: Path, lora: LoraConfig | None = None, **settings: Any) -> Any:
    """An `SFTTrainer` of `model`. The model's freeze flags apply; with `lora`, PEFT decides what trains."""
    defaults = {
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 3,
        "bf16": best_device()[1] == torch.bfloat16,
        "report_to": "none",
        "save_strategy": "no",
    }
    # No max_length, because it would cut images and world blocks
    config = SFTConfig(output_dir=str(output), max_length=None, **{**defaults, **settings})
    return SFTTrainer(model, args=config, train_dataset=rows, processing_class=model.processor, peft_config=lora)


def reload(name: str, output: Path, *, lora: bool) -> Any:
    """Load the checkpoint in `output`: a delta checkpoint, or PEFT's adapters for the model `name`."""
    return (
        PeftModel.from_pretrained(TheWorld.from_pretrained(name), output) if lora else TheWorld.from_pretrained(output)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--data", help="a dataset on the Hub, instead of the shipped images")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path("runs/trl_sft"))
    args = parser.parse_args()

    rows = load_dataset(args.data, split="train") if args.data else shipped_rows()
    model = TheWorld.from_pretrained(args.model)
    trainer = make_trainer(model, rows, args.output, LORA if args.lora else None, max_steps=args.steps)
    trainer.train()
    trainer.save_model()
    print(f"{args.steps} steps, loss {trainer.state.log_history[-1]['train_loss']:.4f}: {args.output}")
    trained = reload(args.model, args.output, lora=args.lora)
    for example in map(load_example, EXAMPLES):
        answer = trained.ask(example.image, example.question, do_sample=False, max_new_tokens=8)
        print(f"{example.question} {answer} (truth: {example.answer})")


if __name__ == "__main__":
    main()
