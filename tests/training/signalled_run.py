"""`theworld` whose training gets SIGUSR1 during its third step, in the last process alone."""

import os
import signal
import sys
from typing import Any

from theworld.cli.main import main
from theworld.training import run
from theworld.training.preemption import PreemptionCallback

STEP = 3


class Signalled(PreemptionCallback):
    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == STEP - 1 and args.process_index == args.world_size - 1:
            os.kill(os.getpid(), signal.SIGUSR1)


def signalled(*arguments: str) -> None:
    run.PreemptionCallback = Signalled
    sys.exit(main(arguments or None))


if __name__ == "__main__":
    signalled()
