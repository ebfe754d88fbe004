"""The log of a training: one entry for each step, in memory and in ``log.jsonl``."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from minirec.rl.group import Unit
from minirec.store.files import append, atomic
from minirec.store.run import peak_memory_mib

UPLOAD_S = 10.0  # shortest time between two uploads of the log to an object store


class TrainingLog:
    """Every rank has the entries; one of them writes the file.

    A step appends a line. So a kill may leave half of a last line, which readers ignore. The first
    step of an attempt and the end of a training write the file whole. An object store has no
    appending: there the file is uploaded whole, but not more often than every `UPLOAD_S`.

    Attributes:
        entries: of the steps so far. Others may keep the list: it is changed and never replaced.
    """

    def __init__(
        self, folder: Path, *, writes: bool, appends: bool = True, upload_s: float = UPLOAD_S
    ) -> None:
        """Args:
        writes: whether this rank writes the file.
        appends: whether the folder is on a local disk.
        upload_s: shortest time between two uploads.
        """
        self.entries: list[dict[str, Any]] = []
        self._path = folder / "log.jsonl"
        self._writes = writes
        self._appends, self._upload_s = appends, upload_s
        self._uploaded: float | None = None
        self._begun = False

    def restore(self, entries: Sequence[dict[str, Any]]) -> None:
        """Take over the entries of a checkpoint; the next step replaces the file."""
        self.entries[:] = entries
        self._begun = False

    def add(self, entry: dict[str, Any]) -> None:
        """Note the entry of a step; on a local disk it is in the file when this returns."""
        self.entries.append(entry)
        if not self._writes:
            return
        if not self._appends:
            if self._uploaded is None or time.monotonic() - self._uploaded >= self._upload_s:
                self.write()
        elif self._begun:
            append(self._path, _line(entry))
        else:
            self.write()

    def write(self) -> None:
        """Write the file whole; a training does so at its end."""
        if not self._writes or not self.entries:
            return
        with atomic(self._path) as file:
            file.write("".join(map(_line, self.entries)).encode())
        self._begun, self._uploaded = True, time.monotonic()


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry) + "\n"


def means(
    sums: dict[tuple[str, Unit], float],
    counts: dict[Unit, int],
    divisors: dict[Unit, int],
    *,
    device: torch.device,
) -> dict[str, float]:
    """The `sums` over all ranks, divided by the `counts` of their unit, and ``loss``, their total.

    Losses are divided by `divisors`, as in the step. All ranks must call it with the same names.
    ``peak_memory_mib`` is that of this process so far, on its GPU if it has one.
    """
    keys = sorted(sums)
    # NCCL adds up only tensors on a GPU.
    total = torch.tensor([sums[k] for k in keys], dtype=torch.float64, device=device)
    if dist.get_world_size() > 1:
        dist.all_reduce(total)
    entry = {
        name: value / (divisors if name.endswith("_loss") else counts)[unit]
        for (name, unit), value in zip(keys, total.tolist(), strict=True)
    }
    entry["loss"] = sum(value for name, value in entry.items() if name.endswith("_loss"))
    on_gpu = device.type == "cuda"
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if on_gpu else peak_memory_mib()
    return entry | {"peak_memory_mib": round(peak, 1)}


def mismatch(entries: Sequence[dict[str, Any]], limit: float | None) -> str | None:
    """Why a training ends after its last step: engine and trainer disagree by more than `limit`.

    Args:
        entries: of the steps so far.
        limit: `training.max_log_ratio`.
    """
    if limit is None or not entries or entries[-1]["abs_log_ratio"] <= limit:
        return None
    return (
        f"engine and trainer disagree at step {entries[-1]['step']}: the mean difference of their "
        f"log-probabilities is {entries[-1]['abs_log_ratio']:.3g}, above training.max_log_ratio "
        f"{limit:g}; they may have different dtypes, adapters or implementations of attention "
        f"(rollout.engine=transformers computes as the trainer does)"
    )
