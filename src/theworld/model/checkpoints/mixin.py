"""`from_pretrained`, `save_pretrained` and `push_to_hub` of a model.

Checkpoints hold what differs from its base models.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import CommitInfo, HfApi

from theworld.utils.errors import ArgumentError, TheWorldError
from theworld.utils.folders import read_object
from theworld.utils.hub import broken_downloads_named
from theworld.utils.tensors import Snapshot, differs
from theworld.utils.weights import state_from_files, state_to_bytes

from ..components import COMPONENTS, UNCOUNTED, canonical
from ..configuration_theworld import TheWorldConfig
from .load import load_into, load_theworld
from .lora import merge_lora
from .save import save_theworld

OPTIMIZER, OPTIMIZER_GROUPS = "optimizer.safetensors", "optimizer.json"
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".json")


class CheckpointMixin:
    """Reads and writes TheWorld checkpoints."""

    config: TheWorldConfig
    named_parameters: Any
    training: bool

    base_tensors: dict[str, Snapshot]
    """Snapshots of the base models' tensors as loaded; empty for a model without base models."""

    fresh_tensors: dict[str, Snapshot]
    """Snapshots of the components that no base model has."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Self:
        """Load a new fusion from a base Gemma 3, a TheWorld checkpoint, or `nano`, the model inside the package.

        Args:
            pretrained_model_name_or_path: Hub id, folder, or `nano`.
            kwargs: Any field of `TheWorldConfig` (`enable_world`, `cosmos_model_name`, `num_world_steps`,
                `freeze_gemma_language`, ...), which overrides what a checkpoint saved, and everything that
                `Gemma3ForConditionalGeneration.from_pretrained` takes. `operating_point` (`fast`, `native`,
                `native_wide`, `full`) sets the fields of that entry of `OPERATING_POINTS`, except those that are given
                as well. `language_model=False` does not load the language model's weights. Such a model can be
                aligned and saved, but cannot answer.

        Raises:
            ValueError: The base model is not a Gemma 3, the world folder lacks a component, or checkpoint keys do not
                fit.
            OSError: A repository does not exist, or is gated and its terms were not accepted.
        """
        with broken_downloads_named(pretrained_model_name_or_path):
            return load_theworld(cls, pretrained_model_name_or_path, **kwargs)

    @classmethod
    def from_checkpoint_hub(cls, repo_id: str, checkpoint_name: str | None = None, **kwargs: Any) -> Self:
        """Load a Hub repository, or the sub-folder (or a file inside one) of it that `checkpoint_name` names."""
        path = Path(checkpoint_name or "")
        folder = path.parent if path.suffix in WEIGHT_SUFFIXES else path
        return cls.from_pretrained(repo_id, subfolder="" if folder == Path() else folder.as_posix(), **kwargs)

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        full: bool = False,
        is_main_process: bool | None = None,
        state_dict: Mapping[str, torch.Tensor] | None = None,
        max_shard_size: int | str = "5GB",
        push_to_hub: bool = False,
        repo_id: str | None = None,
        token: str | None = None,
        private: bool | None = None,
        commit_message: str | None = None,
        revision: str | None = None,
        create_pr: bool | None = None,
        safe_serialization: bool = True,
        variant: str | None = None,
        save_function: Any = None,
        beside: Mapping[str, bytes] | None = None,
        **unknown: Any,
    ) -> CommitInfo | None:
        """Write the weights that differ from the base models, and the config, processor and model card.

        Args:
            full: Write the base models too (a standalone folder).
            is_main_process: `False` writes nothing. Trainers pass it; without it, every byte is compared with the base.
            state_dict: Tensors that a distributed trainer gathered.
            save_function: Accepted for the recipe of accelerate (`save_function=accelerator.save`). Files are always
                written as safetensors, by the main process.
            beside: Additional files, name to content.

        Raises:
            TypeError: An argument is unknown.
            ValueError: The folder is a base model, or holds one that a delta needs; or a checkpoint cannot express the
                model. Nothing is written then.
        """
        if unknown:
            raise ArgumentError(f"save_pretrained got {', '.join(unknown)}: not supported by TheWorld")
        if not safe_serialization or variant is not None:
            asked = f"variant={variant!r}" if variant is not None else "safe_serialization=False"
            raise TheWorldError(f"{asked}: TheWorld checkpoints are one set of safetensors; leave it out")
        if is_main_process is False:
            return None
        if not str(save_directory) or Path(save_directory).is_file():
            raise TheWorldError(f"save_directory={str(save_directory)!r}: expected a folder")
        target = Path(save_directory).resolve()  # replace the folder that a link points to, not the link
        thorough = is_main_process is None or not self.training
        written = save_theworld(self, target, state_dict, beside or {}, max_shard_size, full=full, thorough=thorough)
        if not push_to_hub:
            return None
        api = HfApi(token=token)
        return api.upload_folder(
            repo_id=api.create_repo(repo_id or target.name, private=private, exist_ok=True).repo_id,
            folder_path=target,
            allow_patterns=[*written, "README.md"],
            commit_message=commit_message,
            revision=revision,
            create_pr=create_pr,
        )

    def push_to_hub(self, repo_id: str, *, full: bool = False, **kwargs: Any) -> CommitInfo | None:
        """`save_pretrained` to a Hub repository; takes its `token`, `private`, ... Returns the commit."""
        with tempfile.TemporaryDirectory() as folder:
            return self.save_pretrained(folder, full=full, push_to_hub=True, repo_id=repo_id, **kwargs)

    def save_checkpoint(
        self, path: str | Path, optimizer: torch.optim.Optimizer | None = None, epoch: int | None = None
    ) -> None:
        """`save_pretrained`, with the optimiser's tensors as safetensors and its groups and the epoch as JSON."""
        state = {"state": {}, "param_groups": []} if optimizer is None else optimizer.state_dict()
        tensors, described = state_to_bytes(state, epoch=epoch)
        self.save_pretrained(path, beside={OPTIMIZER: tensors, OPTIMIZER_GROUPS: described})

    def load_checkpoint(self, path: str | Path, optimizer: torch.optim.Optimizer | None = None) -> dict[str, Any]:
        """Read what `save_checkpoint` wrote into this model and `optimizer`; returns `{"epoch": ...}`."""
        load_into(self, path)
        described = read_object(Path(path) / OPTIMIZER_GROUPS, "scalars")
        if optimizer is not None:
            optimizer.load_state_dict(state_from_files(Path(path) / OPTIMIZER, described))
        return {"epoch": described["epoch"]}

    merge_lora = merge_lora

    @property
    def world_is_trained(self) -> bool:
        """Whether the projector, markers or gate changed since their initialisation."""
        steps = self.config.trained_steps
        if steps is None or UNCOUNTED in steps or steps.get("projector"):
            return True
        now = {canonical(name): value for name, value in self.named_parameters()}
        was, own = self.fresh_tensors, COMPONENTS["projector"].prefixes
        return any(differs(now[name], was[name]) for name in now.keys() & was.keys() if name.startswith(own))
