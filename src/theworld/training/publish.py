"""Checkpoints on the Hub: when a run pushes, and what it pushes.

A push is one commit, so a reader finds the old checkpoint or the new one. transformers pushes a checkpoint in two
commits, from a folder that pruning may empty meanwhile, and pickles its arguments, including a token.
"""

import json
import shlex
from pathlib import Path
from typing import Any, cast

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from huggingface_hub.utils import filter_repo_objects
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from typing_extensions import override

from theworld.utils.errors import FileError, TheWorldError
from theworld.utils.logging import logger

from .config import TrainingConfig
from .resume import LAST, TRAINING_STATE

BASES = ("gemma_model_name", "cosmos_model_name")
WEIGHTS = "model*.safetensors*"
HUB_ERRORS = (HTTPError, OSError, RuntimeError, ValueError)  # RuntimeError: a large file could not be uploaded


class Publisher(TrainerCallback):
    """Pushes the checkpoints of a run to `hub_model_id`, as `hub_strategy` says.

    `end` pushes the last checkpoint at the end of the run. `every_save` pushes every checkpoint when it is saved.
    `checkpoint` does the same and adds the trainer state in the folder `last-checkpoint`. Training waits for a push. A
    failed push during the run is a warning, because the next save pushes again; at the end it is an error. These are
    errors before training: no token, a public repository with `hub_private_repo`, and a Hub that cannot be reached or
    refuses the repository.
    """

    def __init__(self, config: TrainingConfig) -> None:
        name = cast(str, config.hub_model_id)
        self.strategy = config.hub_strategy
        self.pushed: Path | None = None
        if get_token() is None:
            raise TheWorldError("push_to_hub=True without a Hub token: set HF_TOKEN, or log in with `hf auth login`")
        self.api = HfApi(token=get_token())
        try:
            self.repository = self.api.create_repo(name, private=config.hub_private_repo, exist_ok=True).repo_id
            is_private = self.api.repo_info(self.repository).private
        except HUB_ERRORS as error:
            raise FileError(
                f"hub_model_id={name!r}: cannot write to this repository ({_reason(error)}); check the "
                "name, the token (HF_TOKEN, or `hf auth login`) and the connection"
            ) from error
        if config.hub_private_repo and not is_private:
            raise TheWorldError(
                f"hub_private_repo=True, but {self.repository} is public: make it private or name another"
            )

    @override
    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.strategy == "end" or not state.is_world_process_zero:
            return
        checkpoint = Path(args.output_dir or ".") / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        try:
            self.push(checkpoint)
        except HUB_ERRORS as error:
            logger.warning("%s: the push to %s failed (%s)", checkpoint, self.repository, _reason(error))

    def finish(self, checkpoint: Path) -> None:
        """Push the run's last checkpoint, unless it was pushed; an OSError gives the command that pushes it again."""
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        local = [name for key in BASES if (name := config.get(key)) and Path(name).is_dir()]
        if local:
            message = "%s: its base models %s are local folders; loading it needs them at the same paths"
            logger.warning(message, self.repository, " and ".join(local))
        try:
            if self.pushed != checkpoint:
                self.push(checkpoint)
        except HUB_ERRORS as error:
            left_out = " ".join(f"--exclude {shlex.quote(pattern)}" for pattern in TRAINING_STATE)
            again = f"hf upload {self.repository} {shlex.quote(str(checkpoint))} . {left_out}"
            raise FileError(
                f"{self.repository}: the push failed ({_reason(error)}); nothing is lost, the checkpoint is "
                f"{checkpoint}. Push it again with: {again}"
            ) from error

    def push(self, checkpoint: Path) -> None:
        """Replace the repository's files by those of `checkpoint`, in one commit."""
        files = [path.relative_to(checkpoint).as_posix() for path in sorted(checkpoint.rglob("*")) if path.is_file()]
        model = filter_repo_objects(files, ignore_patterns=[*TRAINING_STATE, "*/*"])
        added = {name: checkpoint / name for name in model}
        replaced = [WEIGHTS]
        if self.strategy == "checkpoint":
            added |= {f"{LAST}/{name}": checkpoint / name for name in files}
            replaced.append(f"{LAST}/*")
        stale = set(filter_repo_objects(self.api.list_repo_files(self.repository), allow_patterns=replaced))
        operations = [CommitOperationDelete(name) for name in sorted(stale - added.keys())]
        operations += [CommitOperationAdd(name, path) for name, path in added.items()]
        step = checkpoint.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        self.api.create_commit(self.repository, operations, commit_message=f"Step {step}")
        self.pushed = checkpoint
        logger.info("%s: pushed to %s/%s", checkpoint, self.api.endpoint, self.repository)


def _reason(error: Exception) -> str:
    if isinstance(error, HfHubHTTPError):
        return f"{error.response.status_code} {error.server_message or ''}".strip()
    cause = error.__cause__ if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception) else None
    return _reason(cause) if cause else str(error).strip().partition("\n")[0]
