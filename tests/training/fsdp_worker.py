"""Train a tiny model for a few steps, in one process or sharded over several, and write losses, delta and logits."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch.distributed.device_mesh import init_device_mesh

from tests.model.helpers import assistant, encode, load_world, user
from theworld import TheWorld
from theworld.training.distributed import gather_delta, shard

STEPS = 3
WORLD_SIZE = 2


def batches(model: TheWorld) -> list[list[Any]]:
    """Per step one batch a process; in the second step one of them holds text alone."""
    rng = np.random.default_rng(0)
    image = [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(2 * STEPS)]
    found = []
    for step in range(STEPS):
        rows = [[image[2 * step + rank]] if (step, rank) != (1, 1) else [] for rank in range(WORLD_SIZE)]
        turns = [[user("Which bin will the ball land in?", *pictures), assistant("The red bin.")] for pictures in rows]
        found.append([encode(model.processor, turn, add_generation_prompt=False) for turn in turns])
    return found


def loss_of(model: TheWorld, inputs: Any) -> torch.Tensor:
    """Sum over tokens: all processes' tokens weigh the same, whoever has more."""
    labels = inputs["input_ids"].clone()
    return model(**inputs, labels=labels, num_items_in_batch=torch.tensor(100)).loss


def train(model: TheWorld, ranks: list[int], scale: float) -> list[float]:
    """Loss of every step over all processes; `ranks` are those whose batches this process takes."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for step in batches(model):
        loss = torch.stack([loss_of(model, step[rank]) for rank in ranks]).sum()
        (loss * scale).backward()  # FSDP averages over processes, one process sums
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        total = loss.detach().clone()
        if dist.is_initialized():
            dist.all_reduce(total)
        losses.append(float(total))
    return losses


def run(job: dict[str, Any], ranks: list[int], scale: float = 1.0, mesh: Any = None) -> None:
    model = load_world(job["gemma"], job["cosmos"], **job["options"]).train()
    if mesh is not None:
        shard(model, mesh)
    losses = train(model, ranks, scale)
    delta = gather_delta(model)
    model.eval()
    with torch.no_grad():
        logits = model(**batches(model)[0][0]).logits
    if 0 in ranks:
        out = Path(job["out"])
        model.save_pretrained(out, state_dict=delta)
        torch.save({"losses": losses, "logits": logits}, out / "trained.pt")


def main(jobs: list[dict[str, Any]]) -> None:
    """All jobs, in one process of a launch."""
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for job in jobs:
        run(job, [dist.get_rank()], scale=dist.get_world_size(), mesh=mesh)
    dist.destroy_process_group()
