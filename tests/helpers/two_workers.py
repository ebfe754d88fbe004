"""A training by two workers in processes of their own, without Ray."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing

from actors.process import GPU_BACKEND
from actors.training.loop import train_loop
from actors.training.spec import TrainingSpec


def train_by_two(spec: TrainingSpec, meeting: Path) -> None:
    """Run the loop in two processes; GPUs are used if torch sees two. `meeting` is a new file."""
    torch.multiprocessing.spawn(_worker, (spec, str(meeting)), nprocs=2)


def _worker(rank: int, spec: TrainingSpec, meeting: str) -> None:
    os.environ["LOCAL_RANK"] = str(rank)  # DeepSpeed reads it
    backend = "gloo"
    if torch.cuda.device_count() > 1:
        torch.cuda.set_device(rank)
        backend = GPU_BACKEND
    dist.init_process_group(backend, store=dist.FileStore(meeting, 2), rank=rank, world_size=2)
    train_loop({"spec": spec})
    dist.destroy_process_group()
