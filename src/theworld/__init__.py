"""TheWorld: Gemma 3 with the latents of a video world model as tokens in its input.

    from theworld import TheWorld
    model = TheWorld.from_pretrained("nano")
    print(model.ask(image, "Which bin will the ball land in?"))

Importing the package is cheap: public names load on first use, torch with them. The Auto classes of transformers know
the model type from the import on, in whatever order the two packages are imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._auto_classes import announce

if TYPE_CHECKING:
    from .data.sources.hf_dataset import HFDatasetWrapper
    from .data.sources.records import TheWorldDataset
    from .evaluation.result import Result
    from .evaluation.run import evaluate
    from .model import TheWorld, TheWorldConfig, TheWorldModel, TheWorldProcessor
    from .training.config import TrainingConfig
    from .training.run import train

__version__ = "0.1.0"
__all__ = [
    "HFDatasetWrapper",
    "Result",
    "TheWorld",
    "TheWorldConfig",
    "TheWorldDataset",
    "TheWorldModel",
    "TheWorldProcessor",
    "TrainingConfig",
    "__version__",
    "evaluate",
    "train",
]

_HOMES = {
    "HFDatasetWrapper": ".data.sources.hf_dataset",
    "Result": ".evaluation.result",
    "TheWorldDataset": ".data.sources.records",
    "TrainingConfig": ".training.config",
    "evaluate": ".evaluation.run",
    "train": ".training.run",
}

announce("theworld", package=__name__, config="TheWorldConfig", processor="TheWorldProcessor", model="TheWorld")


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(_HOMES.get(name, ".model"), __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
