"""`from_pretrained`, `save_pretrained` and `push_to_hub` of a model that keeps what differs from its base models."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from huggingface_hub import CommitInfo

from theworld.utils.tensors import Snapshot, differs

from ..components import UNCOUNTED
from .load import load_into, load_theworld
from .lora import merge_lora
from .names import canonical, checkpoint_subfolder
from .save import load_optimizer, save_checkpoint, save_theworld

if TYPE_CHECKING:
    from ..configuration_theworld import TheWorldConfig


class CheckpointMixin:
    """Reads and writes TheWorld checkpoints."""

    if TYPE_CHECKING:
        config: TheWorldConfig
        named_parameters: Any

    base_tensors: dict[str, Snapshot]
    """What the base models' tensors were when they were loaded; empty for a model without base models."""

    fresh_tensors: dict[str, Snapshot]
    """Likewise of the components that no base model has."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *model_args: Any, **kwargs: Any) -> Self:
        """A base Gemma 3 (new fusion), a TheWorld checkpoint, or `nano`, the model inside the package.

        Args:
            pretrained_model_name_or_path: Hub id, folder, or `nano`.
            language_model: With `False` the language model's weights are left on the disk: such a model can align its
                world tokens with its image tokens and be saved, not answer.
            kwargs: Any field of `TheWorldConfig` (`enable_world`, `cosmos_model_name`, `num_world_steps`,
                `freeze_gemma_language`, ...), which overrides what a checkpoint saved, and everything that
                `Gemma3ForConditionalGeneration.from_pretrained` takes.

        Raises:
            ValueError: It is no Gemma 3, the world folder lacks a component, or checkpoint keys do not fit.
            OSError: A repository does not exist, or is gated and its terms were not accepted.
        """
        return load_theworld(cls, pretrained_model_name_or_path, *model_args, **kwargs)

    @classmethod
    def from_checkpoint_hub(cls, repo_id: str, checkpoint_name: str | None = None, **kwargs: Any) -> Self:
        """Load a Hub repository, or the sub-folder (or a file inside one) of it that `checkpoint_name` names."""
        return cls.from_pretrained(repo_id, subfolder=checkpoint_subfolder(checkpoint_name), **kwargs)

    def save_pretrained(self, save_directory: str | Path, *, full: bool = False, **kwargs: Any) -> CommitInfo | None:
        """Write what differs from the base models; with `full`, the base models too (a standalone folder).

        Raises:
            ValueError: A checkpoint could not express the model; nothing is written.
        """
        return save_theworld(self, save_directory, full=full, **kwargs)

    def push_to_hub(self, repo_id: str, *, full: bool = False, **kwargs: Any) -> CommitInfo | None:
        """`save_pretrained` to a Hub repository; takes its `token`, `private`, `commit_message`, `create_pr`.

        Returns:
            The commit.
        """
        with tempfile.TemporaryDirectory() as folder:
            return self.save_pretrained(folder, full=full, push_to_hub=True, repo_id=repo_id, **kwargs)

    def save_checkpoint(
        self, path: str | Path, optimizer: torch.optim.Optimizer | None = None, epoch: int | None = None
    ) -> None:
        """`save_pretrained`, with the optimiser's tensors and the epoch beside it."""
        save_checkpoint(self, path, optimizer, epoch)

    def load_checkpoint(self, path: str | Path, optimizer: torch.optim.Optimizer | None = None) -> dict[str, Any]:
        """Read what `save_checkpoint` wrote into this model and `optimizer`; returns `{"epoch": ...}`."""
        load_into(self, path)
        return load_optimizer(path, optimizer)

    def merge_lora(self) -> None:
        """Fold the adapters of the config's `lora` into the language model, which a checkpoint then holds instead."""
        merge_lora(self)

    @property
    def world_is_trained(self) -> bool:
        """Whether the projector, markers or gate were trained or edited since they were made."""
        steps = self.config.trained_steps
        if steps is None or UNCOUNTED in steps or steps.get("projector"):
            return True
        return any(
            differs(value, self.fresh_tensors[name], thorough=False)
            for name, value in ((canonical(name), value) for name, value in self.named_parameters())
            if name in self.fresh_tensors
        )


__all__ = ["CheckpointMixin"]
