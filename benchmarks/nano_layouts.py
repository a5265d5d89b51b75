"""Which layout of the world block a frozen nano Gemma reads best: four fusions, trained alike, on validation scenes.

    python benchmarks/nano_layouts.py runs/nano

Takes the folder of a finished recipe (`theworld nano train`). The world tokens are those of the true future, so that
the dynamics play no part.
"""

import argparse
import json
from itertools import product
from pathlib import Path

import torch

from theworld.nano.asking import draw_items
from theworld.nano.conversations import FIRST
from theworld.nano.evaluate import answer, by_family
from theworld.nano.fusion import ClipFeatures, align, assemble, encode_features, train_questions
from theworld.nano.scenes import SceneSet, load
from theworld.nano.vae import encode_clips


def subset(scenes: SceneSet, count: int) -> SceneSet:
    """Every so-manieth scene, so that all kinds stay in."""
    picked = slice(None, None, max(1, len(scenes) // count))
    return SceneSet(scenes.folder, scenes.frames[picked], scenes.classes[picked], scenes.records[picked])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=3000)
    parser.add_argument("--align-steps", type=int, default=500)
    parser.add_argument("--question-steps", type=int, default=250)
    parser.add_argument("--items", type=int, default=300, help="questions per family")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    gemma, cosmos = args.folder / "weights" / "gemma", args.folder / "weights" / "cosmos"
    scenes, validation = (
        subset(load(args.folder / "scenes" / "fusion"), args.clips),
        load(args.folder / "scenes" / "validation"),
    )
    still = {"world_encoder": "still"}  # no rollout is needed
    model = assemble(gemma, cosmos, **still)
    features = encode_features(model, scenes)
    features = ClipFeatures(features.true, features.true, features.image_tokens)
    align(model, features, steps=args.align_steps)
    assert model.model.world_projector is not None
    aligned = model.model.world_projector.state_dict()
    rows = {}
    for position, attention in product(("after_bos", "before_image"), ("causal", "bidirectional")):
        model = assemble(gemma, cosmos, world_position=position, world_attention=attention, **still)
        assert model.model.world_projector is not None
        model.model.world_projector.load_state_dict(aligned)
        train_questions(model, scenes, features, steps=args.question_steps)
        row = {}
        for kind in ("predictive", "static"):
            items = draw_items(validation, (FIRST,), args.items, predictive=kind == "predictive")
            frames = validation.frames[[item.clip for item in items]]
            latents = encode_clips(model.model.world_encoder.vae, frames)
            row[kind] = by_family(items, answer(model, items, latents=latents))["all"]
        rows[f"{position}, {attention}"] = row
        shown = ", ".join(f"{kind} {100 * r['accuracy']:.1f} (n={r['n']})" for kind, r in row.items())
        print(f"{position:<14}{attention:<16}{shown}", flush=True)
    if args.output:
        args.output.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
