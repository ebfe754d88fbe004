"""Encoding a catalogue: two training workers of one thread each against one worker.

.venv/bin/python benchmarks/catalogue.py [MODEL]

The catalogue has 356 items of 20 tokens, chosen at random. The policy has the size of SmolLM2-135M
and random weights, or is the model in the folder MODEL. The workers are processes with
torch.distributed and gloo, as in a training on CPUs. Prints the median seconds of REPEATS tables
after a first one, for one and for two workers, and their ratio; and the same of the CPU seconds of
worker 0, which other programs on the machine disturb less. Both tables must be equal.
"""

from __future__ import annotations

import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import sized_models as models
import torch
import torch.distributed as dist

from actors.training.items import shared_table
from minirec.config.model import ModelConfig
from minirec.model.loading import load_lm
from minirec.model.recommender import Policy

ITEMS, TOKENS, REPEATS = 356, 20, 3
WORDS = models.SMOLLM2_135M.vocabulary


def policy(model: str) -> Policy:
    return Policy(load_lm(model, ModelConfig()).requires_grad_(False), pad_id=0)


def work(rank: int, workers: int, folder: Path, model: str) -> None:
    """One worker; rank 0 writes the table and the seconds of each repeat."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / f"store-{workers}"), workers)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=workers)
    draw = torch.Generator().manual_seed(1)
    items = torch.randint(1, WORDS, (ITEMS, TOKENS), generator=draw).tolist()
    one, taken, computed = policy(model), [], []
    for _ in range(REPEATS + 1):
        dist.barrier()
        started, busy = time.perf_counter(), time.process_time()
        table = shared_table(one, items)
        taken.append(time.perf_counter() - started)
        computed.append(time.process_time() - busy)
    if rank == 0:
        torch.save((table, median(taken[1:]), median(computed[1:])), folder / f"{workers}.pt")
    dist.barrier()
    dist.destroy_process_group()


def main(model: str | None = None) -> None:
    """Measure one worker, then two, and print the ratio."""
    context = get_context("spawn")
    found = {}
    with tempfile.TemporaryDirectory() as name:
        model = model or models.build(Path(name) / "model", models.SMOLLM2_135M)
        for workers in (1, 2):
            args = [(rank, workers, Path(name), model) for rank in range(workers)]
            team = [context.Process(target=work, args=one) for one in args]
            for process in team:
                process.start()
            for process in team:
                process.join()
            table, taken, computed = found[workers] = torch.load(Path(name) / f"{workers}.pt")
            print(f"{workers} worker(s): {taken:.2f} s, {computed:.2f} CPU s", flush=True)
    if not torch.equal(found[1][0], found[2][0]):
        sys.exit("the tables of one and of two workers differ")
    print(f"ratio {found[1][1] / found[2][1]:.2f}, of CPU seconds {found[1][2] / found[2][2]:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
