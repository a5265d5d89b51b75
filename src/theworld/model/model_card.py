"""The card that is written beside a checkpoint: what it is made of, how to load it, whose licences hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .freezing import component_sizes

if TYPE_CHECKING:
    from .modeling_theworld import TheWorld

CARD = """\
---
library_name: transformers
pipeline_tag: image-text-to-text
{bases}tags:
- theworld
- world-model
---

# TheWorld checkpoint

Gemma 3 with the latents of a video world model as tokens in its input. {contents}

| | |
|---|---|
| language and vision | {gemma} |
| world model | {cosmos} |
| trained components | {trained} |
| parameters in this repository | {delta:,} of {total:,} |
| world block | {position}, {attention}, {tokens} tokens a latent frame |
| future latent frames | {steps} by default, at most {max_steps} |

```python
from theworld import TheWorld

model = TheWorld.from_pretrained("path or id of this repository")
print(model.ask("image.png", "What happens next?"))
```

## Licences

The base models keep their own terms, which this card does not replace: Gemma is provided under and subject to the Gemma
Terms of Use (ai.google.dev/gemma/terms); Cosmos-Predict2 under the NVIDIA Open Model Licence, which asks for a
guardrail where its video is shown.
"""


DELTA = """\
This repository holds what differs from its two base models;
both are loaded beside it."""
FULL = "This repository holds the base models as well."


def model_card(model: TheWorld, *, full: bool = False) -> str:
    """Markdown card of `model`, with numbers computed from it; only bases that the Hub knows are linked there."""
    config = model.config
    sizes = component_sizes(model)
    trained = config.trained_components or []
    names = [name for name in (config.gemma_model_name, config.cosmos_model_name) if name and not Path(name).is_dir()]
    return CARD.format(
        bases="".join(["base_model:\n", *(f"- {name}\n" for name in names)]) if names else "",
        contents=FULL if full else DELTA,
        gemma=config.gemma_model_name or "unnamed",
        cosmos=config.cosmos_model_name,
        trained=", ".join(trained) or "none",
        delta=sum(size.total for name, size in sizes.items() if name in trained),
        total=sum(size.total for size in sizes.values()),
        position=config.world_position,
        attention=config.world_attention,
        tokens=config.world_tokens_per_frame,
        steps=config.num_world_steps,
        max_steps=config.max_world_steps,
    )


__all__ = ["model_card"]
