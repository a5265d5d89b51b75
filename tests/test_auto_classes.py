"""`import theworld` is light, and transformers knows the model type whichever package comes first."""

import subprocess
import sys

import pytest

from theworld.utils.hub import NANO_WEIGHTS

STAND_IN = """
import sys, types
from theworld._auto_classes import announce

class StandInProcessor: pass

package = types.ModuleType("stand_in")
loads = []
def load(name):
    loads.append(name)
    if name == "StandInProcessor":
        return StandInProcessor
    if name == "StandInConfig":
        from transformers import Gemma3Config
        return type("StandInConfig", (Gemma3Config,), {"model_type": "stand_in"})
    raise AttributeError(name)
package.__getattr__ = load
sys.modules["stand_in"] = package
"""
ANNOUNCE = """
announce(
    "stand_in", package="stand_in", config="StandInConfig", processor="StandInProcessor", model="StandIn"
)
"""
TRANSFORMERS = "from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor\n"
ASK = """
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
assert "theworld" in CONFIG_MAPPING
assert "theworld.model" not in sys.modules
assert not {"StandIn", "StandInConfig", "StandInProcessor"} & set(loads), loads
from transformers.models.auto.processing_auto import processor_class_from_name
assert processor_class_from_name("StandInProcessor") is StandInProcessor
assert processor_class_from_name("Gemma3Processor").__name__ == "Gemma3Processor"
assert AutoConfig.for_model("stand_in").model_type == "stand_in"
assert AutoConfig.for_model("gemma3").model_type == "gemma3"
from transformers.models.auto import modeling_auto
assert modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES["stand_in"] == "StandIn"
assert modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES["stand_in"] == "StandIn"
assert modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES["gemma3"] == "Gemma3ForConditionalGeneration"
"""


def python(source: str, *arguments: str) -> None:
    done = subprocess.run([sys.executable, "-c", source, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_import_is_light() -> None:
    python("import theworld, sys; assert not {'torch', 'transformers', 'diffusers'} & sys.modules.keys()")


SERVED = """
from transformers.cli.serving.model_manager import Modality, ModelManager

model, processor = ModelManager(device="cpu", model_timeout=-1).load_model_and_processor(sys.argv[1] + "@main")
assert type(model).__name__ == "TheWorld", type(model)
assert type(processor).__name__ == "TheWorldProcessor", type(processor)
assert ModelManager.get_model_modality(model, processor) == Modality.MULTIMODAL
"""


@pytest.mark.parametrize(
    "order",
    [
        "import theworld\nimport transformers" + STAND_IN + ANNOUNCE + TRANSFORMERS,
        "import transformers\nimport theworld" + STAND_IN + TRANSFORMERS + ANNOUNCE,
    ],
    ids=["before transformers", "after transformers"],
)
def test_classes_are_found_and_served_in_either_order_of_imports(order: str) -> None:
    """`transformers serve` takes a checkpoint for a model of images."""
    python(order + ASK + SERVED, str(NANO_WEIGHTS / "theworld"))


def test_unknown_name_is_an_attribute_error() -> None:
    import theworld

    with pytest.raises(AttributeError, match="nowhere"):
        _ = theworld.nowhere
