"""On SIGTERM, SIGUSR1 or Ctrl-C: save and stop at the end of the running step."""

import signal
import threading
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from theworld.utils.logging import logger

# Windows lacks SIGUSR1
SIGNALS = tuple(number for number in signal.Signals if number.name in ("SIGUSR1", "SIGTERM", "SIGINT"))


class PreemptionCallback(TrainerCallback):
    """Saves a checkpoint and ends the training at the first step end after one of `SIGNALS` reached any process.

    A second Ctrl-C (SIGINT) ends it at once, without a checkpoint. The handlers are installed while training runs.
    They need the main thread: a trainer in another thread runs without them.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None  # on the process that received it
        self.stopped = False  # whether the training ended early; the same on every process
        self._previous: dict[signal.Signals, Any] = {}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Install the handlers."""
        self.received, self.stopped = None, False
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask the trainer to save and stop, on all processes at the same step."""
        received = self.received is not None
        if dist.is_initialized():
            flag = torch.tensor(float(received), device=args.device)
            dist.all_reduce(flag, op=dist.ReduceOp.MAX)
            received = bool(flag)
        if not received:
            return
        logger.warning("signal to stop received: saving a checkpoint at step %d", state.global_step)
        self.stopped = True
        control.should_save = control.should_training_stop = True

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Put the previous handlers back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler or signal.SIG_DFL)
        self._previous = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        # With several processes, the launcher forwards the first Ctrl-C, so it arrives twice
        if number == signal.SIGINT == self.received and not dist.is_initialized():
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
