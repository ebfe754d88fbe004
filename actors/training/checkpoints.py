"""Training checkpoints: each rank adds its files, then rank 0 writes the manifest."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from actors.training.zero import barrier
from minirec.store import disk
from minirec.store.files import check_published, intact, publish, remove, write_manifest

KEPT = 2


def save_checkpoint(folder: Path, step: int, fill: Callable[[Path], None]) -> None:
    """Publish the files that `fill` writes on each rank; keep the newest `KEPT` checkpoints.

    All ranks must call it.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    final = folder / "checkpoints" / f"step-{step:06d}"
    if rank == 0:
        remove(final)
    barrier()
    with disk.named(tempfile.gettempdir()), tempfile.TemporaryDirectory() as work:
        fill(Path(work))
        files = publish(Path(work), final)
    parts: list[Any] = [files] * world
    if world > 1:
        dist.all_gather_object(parts, files)
    if rank == 0:
        write_manifest(final, {k: v for part in parts for k, v in part.items()})
        for old in sorted(final.parent.glob("step-*"))[:-KEPT]:
            remove(old)


def newest_checkpoint(folder: Path, *, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that matches its manifest; corrupted ones are reported and removed."""
    found = sorted((folder / "checkpoints").glob("step-*"), reverse=True)
    return next((one for one in found if intact(one, check_published, say=say)), None)
