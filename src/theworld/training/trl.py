"""TRL's `GRPOTrainer` with a world. `SFTTrainer` and `DPOTrainer` work as they are.

from theworld.training.trl import GRPOTrainer

Shape legend: `M` images of a batch, `H, W` world image size.
"""

from typing import Any, cast

import torch
from trl import GRPOTrainer as _GRPOTrainer

from theworld.constants import CUSTOM_TOKEN_SOW
from theworld.model.fusion import FUSIONS
from theworld.utils.errors import TheWorldError


class GRPOTrainer(_GRPOTrainer):
    """TRL scores completions with a fixed list of image inputs: this adds `world_pixel_values`.

    Takes what TRL's class takes. `processing_class` is a `TheWorldProcessor`; images are in the dataset's `image` or
    `images` column. A ValueError if `chat_template_kwargs` sets the world.
    """

    _frames: torch.Tensor | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # TRL's second processor call, for scoring, does not get them
        if names := {"num_world_steps", "use_world"} & {*self.chat_template_kwargs}:
            message = f"chat_template_kwargs has {min(names)!r}: set it when loading the model, or on its processor"
            raise TheWorldError(message)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        processor = cast(Any, self.processing_class)
        if "num_images" in output and processor.enable_world:
            # A list with one tensor per sample: TRL shuffles and splits it together with the other columns
            images = [row.get("images") or row.get("image") for row in inputs]
            output["world_pixel_values"] = [processor.world_pixels(of_row) for of_row in images]
        return output

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        frames = inputs.get("world_pixel_values")
        self._frames = None if frames is None else torch.cat(frames)  # (M, 3, H, W)
        return super()._compute_loss(model, inputs)

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: torch.Tensor, *args: Any, world_pixel_values: Any = None, **kwargs: Any
    ) -> Any:
        """TRL's method; `world_pixel_values` (M, 3, H, W) is given only while completions are generated."""
        frames = self._frames if world_pixel_values is None else world_pixel_values
        if frames is None:
            return super()._get_per_token_logps_and_entropies(model, input_ids, *args, **kwargs)
        processor = cast(Any, self.processing_class)
        # One per frame. A completion may hold `boi_token`, which nothing suppresses, but never the start of a block
        token = CUSTOM_TOKEN_SOW if FUSIONS[processor.fusion].block else processor.boi_token
        token_id = processor.tokenizer.convert_tokens_to_ids(token)
        left = frames.to(input_ids.device)

        def with_frames(*, input_ids: torch.Tensor, **inputs: Any) -> Any:
            """The model on the next chunk of the batch, with the frames of its own prompts."""
            nonlocal left
            images = int((input_ids == token_id).sum())
            own, left = left[:images], left[images:]
            return model(input_ids=input_ids, world_pixel_values=own if images else None, **inputs)

        return super()._get_per_token_logps_and_entropies(with_frames, input_ids, *args, **kwargs)
