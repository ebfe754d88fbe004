"""One training worker without Ray Train, which stays up for the trials of a sweep.

On two cores Ray Train adds about 20 s to the steps of a training, this worker 1 s: trials of a few
dozen steps would spend half of their time on it.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist


class SingleWorker:
    """A Ray actor that runs one loop after the other, as the only worker of its process group."""

    def __init__(self) -> None:
        os.environ["LOCAL_RANK"] = "0"  # DeepSpeed reads it
        dist.init_process_group(store=dist.HashStore(), rank=0, world_size=1)

    def run(self, loop: Callable[[Any], None], argument: Any) -> None:
        """Call ``loop(argument)``, the body of a Ray Train worker, and free its memory."""
        loop(argument)
        gc.collect()  # engines of DeepSpeed refer to themselves
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
