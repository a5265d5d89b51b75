"""Questions per second of an evaluation, against one `generate` per question: same questions, model and worlds.

    python benchmarks/evaluation.py               # 96 held-out questions of the micro-world, the nano model
    python benchmarks/evaluation.py --pairs 7 --json

All sides go from items to answers, including opening images and the processor. Rows (ours against the other side):
    from images          worlds encoded once into an empty latent cache, then choices compared with a shared prefill, in
                         batches; against one `generate` per question, which encodes its image itself
    worlds given         the same scorer against one `generate` per question, both with world tokens from the cache
    generate             `generate` in batches against one `generate` per question, with the same world tokens
    shared prefix        the scorer against one forward per prompt and choice, in the same batches
"""

import argparse
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from side_by_side import paired, seconds
from transformers.utils import logging as transformers_logging

from theworld import TheWorld
from theworld.data.schema import SourceSettings
from theworld.evaluation.ask.arms import ARMS
from theworld.evaluation.ask.prompts import PromptBuilder
from theworld.evaluation.ask.scorers import choices, generate, world_inputs
from theworld.evaluation.ask.worlds import encode_worlds
from theworld.evaluation.store.predictions import Item
from theworld.evaluation.tasks.micro_world import MICRO_WORLD
from theworld.model.answers import answer_ids
from theworld.nano.scenes import generate as simulate
from theworld.utils.devices import best_device

SCENES = {"drop": 24, "race": 12, "stack": 12}  # for `ITEMS` questions
ITEMS = 96
NEW_TOKENS = 6


class Sides:
    """Ways to answer the same items with the same worlds."""

    def __init__(self, model: TheWorld, items: Sequence[Item], batch_size: int, folder: Path) -> None:
        self.model, self.items, self.batch_size = model, items, batch_size
        self.steps = model.config.num_world_steps
        self.builder = PromptBuilder(model, self.steps)
        self.worlds = encode_worlds(model, items, None, folder, 16)

    def ask(self, size: int, score: Callable[..., Any]) -> list[str]:
        """Answers of all items, `size` at a time."""
        answers: list[str] = []
        for start in range(0, len(self.items), size):
            batch, _ = self.builder.build(self.items[start : start + size])
            assert batch is not None
            world = self.worlds.tokens(batch.items, ARMS["world"], self.steps)
            answers += [answer.output for answer in score(self.model, batch, world)]
        return answers

    def choices(self) -> list[str]:
        return self.ask(self.batch_size, choices)

    def from_images(self) -> list[str]:
        with tempfile.TemporaryDirectory() as folder:
            return Sides(self.model, self.items, self.batch_size, Path(folder)).choices()

    def plain(self) -> list[str]:
        """A plain loop over questions, without this package's evaluation."""
        answers: list[str] = []
        for item in self.items:
            inputs = self.model.processor.apply_chat_template(
                self.builder.turns(item),
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            ).to(self.model.device)
            output = self.model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
            said = output[0, inputs["input_ids"].shape[1] :]
            answers.append(self.model.processor.decode(said, skip_special_tokens=True).strip())
        return answers

    def generate(self) -> list[str]:
        return self.ask(self.batch_size, lambda *batch: generate(*batch, NEW_TOKENS))

    def one_by_one(self) -> list[str]:
        return self.ask(1, lambda *batch: generate(*batch, NEW_TOKENS))

    @torch.no_grad()
    def whole_prompts(self) -> list[str]:
        """The most probable choice, with the whole prompt run for every choice."""
        tokenizer = self.model.processor.tokenizer
        scores: dict[str, list[float]] = {item.id: [] for item in self.items}
        pairs = [(item, choice) for item in self.items for choice in item.choices]
        for start in range(0, len(pairs), self.batch_size):
            part = pairs[start : start + self.batch_size]
            copies = [replace(item, id=f"{place}") for place, (item, _) in enumerate(part)]
            batch, _ = self.builder.build(copies)
            assert batch is not None
            answers = [answer_ids(tokenizer, choice) for _, choice in part]
            longest = max(map(len, answers))
            behind = torch.tensor([ids + [0] * (longest - len(ids)) for ids in answers], device=self.model.device)
            inputs = dict(batch.inputs)
            inputs["input_ids"] = torch.cat([inputs["input_ids"], behind], dim=1)
            for name, fill in (("attention_mask", 1), ("token_type_ids", 0)):
                inputs[name] = torch.cat([inputs[name], torch.full_like(behind, fill)], dim=1)
            world = self.worlds.tokens([item for item, _ in part], ARMS["world"], self.steps)
            logits = self.model(**inputs, **world_inputs(world), logits_to_keep=longest + 1).logits[:, :-1]
            logprobs = logits.float().log_softmax(-1).gather(-1, behind[..., None]).squeeze(-1)
            for (item, _), ids, row in zip(part, answers, logprobs, strict=True):
                scores[item.id].append(row[: len(ids)].sum().item())
        found = ((item.choices, scores[item.id]) for item in self.items)
        return [allowed[values.index(max(values))] for allowed, values in found]


def measure(count: int, batch_size: int, pairs: int) -> dict[str, dict[str, float]]:
    """Every row: times of both sides, questions per second, and number of equal answers."""
    device, dtype = best_device()
    model = TheWorld.from_pretrained("nano", dtype=dtype, device_map={"": device})
    with tempfile.TemporaryDirectory() as folder:
        scenes = {kind: math.ceil(number * count / ITEMS) for kind, number in SCENES.items()}
        simulate(Path(folder) / "scenes", "test", scenes)
        asked = MICRO_WORLD.load(SourceSettings(path=f"{folder}/scenes", num_samples=2 * count)).items
        # Answers of one word: a generated sentence may be none of the choices
        items = tuple(item for item in asked if not item.family.startswith("conversational"))[:count]
        sides = Sides(model, items, batch_size, Path(folder) / "latents")
        rows: dict[str, dict[str, float]] = {}
        for name, ours, other in (
            ("from images", sides.from_images, sides.plain),
            ("worlds given", sides.choices, sides.one_by_one),
            ("generate", sides.generate, sides.one_by_one),
            ("shared prefix", sides.choices, sides.whole_prompts),
        ):
            same = sum(a == b for a, b in zip(ours(), other(), strict=True))
            row = paired(
                partial(seconds, ours, device), partial(seconds, other, device), pairs
            )  # both sides have warmed up
            rates = {f"{side}_per_s": 1000 * len(items) / row[f"{side}_ms"] for side in ("ours", "stock")}
            rows[name] = {**row, **rates, "times": 1 / row["ratio"], "same": same, "items": len(items)}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    transformers_logging.set_verbosity_error()
    rows = measure(args.items, args.batch_size, args.pairs)
    if args.json:
        print(json.dumps(rows, indent=2))
        return
    device, dtype = best_device()
    name = str(dtype).removeprefix("torch.")
    threads = torch.get_num_threads()
    print(f"{device}, {name}, {threads} threads, median of {args.pairs} pairs, batches of {args.batch_size}\n")
    print(f"{'':<16}{'ours / s':>10}{'other / s':>11}{'times':>8}{'same answers':>15}")
    for name, row in rows.items():
        same = f"{row['same']} of {row['items']}"
        print(f"{name:<16}{row['ours_per_s']:>10,.1f}{row['stock_per_s']:>11,.1f}{row['times']:>8.2f}{same:>15}")


if __name__ == "__main__":
    main()
