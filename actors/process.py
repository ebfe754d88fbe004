"""Helpers for worker processes: a deadline, returning free memory, and a worker without Ray Train.

On two cores Ray Train adds 20 to 30 s to a training. Runs and trials of a few dozen steps would
spend half of their time on it; `SingleWorker` starts once for many stages or trials.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

GPU_BACKEND = "cpu:gloo,cuda:nccl"
"""Backend of a process group on GPUs. NCCL alone has no collectives for tensors on the CPU."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """End the process and print where it hangs, unless the block ends within `seconds`.

    Deadlines cannot be nested: a process has one such clock.
    """
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def trim() -> None:
    """Return free memory to the system; it takes about 30 ms.

    Batches of many different lengths fragment the heap: glibc keeps hundreds of MiB after an hour
    (docs/lab/scaling.md).
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # only glibc has it
        libc.malloc_trim(0)


def forget_peak_memory() -> None:
    """Let `peak_memory_mib` begin anew: a kept worker trains one stage after another."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError), open("/proc/self/clear_refs", "w") as file:  # only Linux has it
        file.write("5")


class SingleWorker:
    """A Ray actor that runs one loop after another as the only worker of its process group."""

    def __init__(self) -> None:
        import torch.distributed as dist

        os.environ["LOCAL_RANK"] = "0"  # DeepSpeed reads it
        dist.init_process_group(store=dist.HashStore(), rank=0, world_size=1)

    def run(self, loop: Callable[[Any], None], argument: Any) -> None:
        """Call ``loop(argument)``, the body of a Ray Train worker, and free its memory."""
        import torch

        loop(argument)
        gc.collect()  # DeepSpeed engines contain reference cycles
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
