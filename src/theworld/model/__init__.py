"""Image + question -> text. Importing it registers TheWorld with transformers' Auto classes."""

from typing import Any, cast

from transformers import AutoConfig, AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping

from .configuration_theworld import TheWorldConfig
from .modeling_theworld import TheWorld, TheWorldModel
from .processing_theworld import TheWorldProcessor

AutoConfig.register(TheWorldConfig.model_type, TheWorldConfig, exist_ok=True)
AutoModelForImageTextToText.register(TheWorldConfig, TheWorld, exist_ok=True)
AutoModelForMultimodalLM.register(TheWorldConfig, TheWorld, exist_ok=True)
AutoProcessor.register(TheWorldConfig, TheWorldProcessor, exist_ok=True)
# Old Gemma 3 checkpoints have other key names; transformers looks up the renaming by model type
register_checkpoint_conversion_mapping(
    TheWorldConfig.model_type, cast(Any, get_checkpoint_conversion_mapping("gemma3")), overwrite=True
)

__all__ = ["TheWorld", "TheWorldConfig", "TheWorldModel", "TheWorldProcessor"]
