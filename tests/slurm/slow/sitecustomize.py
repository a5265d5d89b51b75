"""Python imports this at its start, from PYTHONPATH: opening a picture takes half a second, a training a minute."""

import time
from typing import Any

from PIL import Image

open_at_once = Image.open


def slow_open(*args: Any, **kwargs: Any) -> Image.Image:
    time.sleep(0.5)
    return open_at_once(*args, **kwargs)


Image.open = slow_open
