"""Catalogues of ten thousand to a million items: memory and seconds of what reads all of them.

.venv/bin/python benchmarks/catalogue_sizes.py [--items V ...] [--width D]

Each size is measured in a process of its own with one thread, without Ray. The table has random
unit vectors, and users, titles and texts are random. Making tokens and encoding are measured on a
part of the items. Prints the CPU seconds of each part, and the most memory in MiB that the process
had until its end, with the pages of the mapped table. Then it prints the estimate of memory and
FLOPs of a training step (`minirec.resources.catalogue`) for a model of 24 layers of this width.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sized_models as models
import torch
import torch.nn.functional as F

from minirec.config.model import ModelConfig
from minirec.config.training import TrainingConfig
from minirec.corpus.table import Catalogue, Sample, load_catalogue
from minirec.evaluation.references import REFERENCES, reference_ranks
from minirec.model.loading import load_lm
from minirec.model.passes import item_table
from minirec.model.recommender import Encoder, Policy
from minirec.prior.counts import Counts, Words
from minirec.prior.serving import ServedPrior
from minirec.resources.catalogue import catalogue_cost
from minirec.resources.estimates import ModelShape
from minirec.rl import grpo
from minirec.rl.candidates import Candidates, catalogue
from minirec.rl.ranker import Ranker
from minirec.selection.head_gradients import head_features
from minirec.store.files import write_json
from minirec.store.tables import map_array, write_array, write_table

SIZES = (10_000, 100_000, 1_000_000)
WIDTH, PROMPTS, ROLLOUTS, HISTORY = 1024, 16, 4, 10
EVENTS, WORDS, TOKENS = 2, 20_000, 16
TOKENIZED, ENCODED = 5000, 200
"""Users are V / 5 with 10 events each, so V has EVENTS events an item."""
PEAK = "most memory so far, MiB"


class Clock:
    """Names of parts with their CPU seconds, which other programs on the machine disturb less than
    the time, and the peak of memory at their end."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, int]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        started = time.process_time()
        yield
        self.rows.append((name, time.process_time() - started, peak()))


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def made(folder: Path, items: int, width: int) -> None:
    """Fill a folder: titles of 2 to 7 words, texts of 30, and an item table."""
    draw = np.random.default_rng(0)
    words = pa.array([f"w{i}" for i in range(models.RESERVED, WORDS)])

    def texts(low: int, high: int) -> pa.Array:
        ends = np.cumsum(draw.integers(low, high, items))
        # A few words are in many titles, as in real ones.
        used = np.minimum(draw.zipf(1.3, ends[-1]) - 1, len(words) - 1)
        lists = pa.ListArray.from_arrays(np.r_[0, ends].astype(np.int32), words.take(used))
        return pc.binary_join(lists, " ")

    columns = {
        "item_id": np.arange(items),
        "key": [f"k{i}" for i in range(items)],
        "title": texts(2, 8),
        "text": texts(30, 31),
    }
    write_table(folder / "items.parquet", pa.table({k: pa.array(v) for k, v in columns.items()}))
    write_json(folder / "corpus.json", {"category": "things"})
    write_array(folder / "table.npy", vectors(items, width).numpy())


def vectors(items: int, width: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    table = torch.empty(items, width)
    for part in table.split(16_384):
        part.copy_(F.normalize(torch.randn(part.shape, generator=draw), dim=-1))
    return table


def work(items: int, width: int, folder: Path, send: Callable[[object], None]) -> None:
    """Measure one size and send the rows."""
    torch.set_num_threads(1)
    clock, draw = Clock(), np.random.default_rng(2)
    with clock.part("the process with its imports"):
        pass
    with clock.part("catalogue of titles and texts"):
        known = load_catalogue(folder)
    with clock.part("words of the titles"):
        words = Words.of(known.titles)
    with clock.part("counts of users and transitions"):
        pairs = np.unique(
            np.repeat(np.arange(items // 5), 5 * EVENTS) * items
            + draw.integers(items, size=items // 5 * 5 * EVENTS)
        )
        last, target = draw.integers(items, size=(2, items))
        counts = Counts.of(
            user=pairs // items, item=pairs % items, last=last, target=target, words=words
        )
    samples = [
        Sample(i, draw.integers(items, size=HISTORY).tolist(), int(draw.integers(items)))
        for i in range(PROMPTS)
    ]
    asked = {
        "history": [s.history for s in samples],
        "target": [s.target for s in samples],
        "excluded": [s.excluded for s in samples],
    }
    for name, score in REFERENCES.items():
        with clock.part(f"{PROMPTS} ranks by {name}"):
            reference_ranks(score, counts, **asked)
    served = ServedPrior(counts, (1.0, 1.0, 1.0))
    with clock.part(f"prior of {PROMPTS} histories, for serving"):
        served.scores(asked["history"])
    model = models.build(folder / "model", ModelShape(2, 64, 2, 2, 32, 128, WORDS))
    encoder = Encoder.load(model, ModelConfig(name=model), category="things")
    few = Catalogue(known.titles[:TOKENIZED], known.texts[:TOKENIZED], "things")
    with clock.part(f"tokens of {TOKENIZED:,} items"):
        tokens = encoder.items(few)
    del known, few, words, counts, served
    deep = models.build(folder / "wide", ModelShape(2, width, 16, 16, width // 16, width, WORDS))
    policy = Policy(load_lm(deep, ModelConfig()).requires_grad_(False), pad_id=0)
    with clock.part(f"vectors of {ENCODED} items, two layers"):
        item_table(policy, tokens[:ENCODED])
    del policy, tokens
    with clock.part("item table mapped, with its checksum"):
        table = torch.from_numpy(map_array(folder / "table.npy"))
    ranker = Ranker(table, 0.05)
    hidden = torch.randn(PROMPTS * ROLLOUTS, width, generator=torch.Generator().manual_seed(3))
    targets = ranker.targets(samples)
    with clock.part(f"{len(hidden)} ranks, as for rewards, validation and evaluation"):
        ranker.rank(hidden, targets)
    with clock.part(f"item loss of {PROMPTS} prompts over the catalogue, with gradient"):
        item_loss(hidden[:PROMPTS].clone().requires_grad_(True), table, targets)
    with clock.part(f"head features of {PROMPTS} samples, float64"):
        head_features(
            hidden[:PROMPTS].double(), items=table, target=targets.target, mask=targets.excluded
        )
    send(clock.rows)


def item_loss(hidden: torch.Tensor, table: torch.Tensor, targets) -> None:
    ids = targets.target.unique()
    found = table[ids].clone().requires_grad_(True)
    rivals = catalogue(Candidates(ids, found, table), targets)
    total, _ = grpo.item_loss(
        hidden,
        candidates=rivals.vectors,
        target=rivals.target,
        excluded=rivals.excluded,
        advantage=torch.ones(len(hidden)),
        temperature=0.05,
        clip=grpo.Clip(),
        rest=rivals.rest,
    )
    total.backward()


def measured(items: int, width: int) -> list[tuple[str, float, int]]:
    """The rows of a process of its own, whose peak is not that of another size."""
    context = get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        maker = context.Process(target=made, args=(Path(name), items, width))
        maker.start()
        maker.join()
        receive, send = context.Pipe(duplex=False)
        process = context.Process(target=work_and_send, args=(items, width, Path(name), send))
        process.start()
        send.close()
        rows: list[tuple[str, float, int]] = receive.recv()
        process.join()
    return rows


def work_and_send(items: int, width: int, folder: Path, pipe) -> None:
    work(items, width, folder, pipe.send)


def show_measured(sizes: list[int], width: int) -> None:
    """A table for each size, so that an interrupted run has shown the smaller ones."""
    for items in sizes:
        print(f"| {items:,} items | CPU seconds | {PEAK} |\n|---|---|---|")
        for name, seconds, most in measured(items, width):
            print(f"| {name} | {seconds:.2f} | {most:,} |", flush=True)
        print()


def show_estimates(sizes: list[int], width: int) -> None:
    shape = ModelShape(24, width, 16, 16, width // 16, 4 * width, 150_000)
    sampled = TrainingConfig(item_negatives=512)
    whole = TrainingConfig(item_candidates="catalogue")
    size = {"item": TOKENS, "prompt": 200, "written": 64, "rank": 16}
    print("\n| estimate | " + " | ".join(f"{items:,} items" for items in sizes) + " |")
    print("|---|" + "---|" * len(sizes))
    costs = [catalogue_cost(shape, sampled, items=items, **size) for items in sizes]
    alls = [catalogue_cost(shape, whole, items=items, **size) for items in sizes]
    rows = {
        "item table, MiB": [f"{c.table / 2**20:,.0f}" for c in costs],
        "step with 512 negatives, TFLOP": [f"{c.step / 1e12:,.1f}" for c in costs],
        "its scores, TFLOP": [f"{c.scores / 1e12:,.3f}" for c in costs],
        "step with the catalogue as candidates, TFLOP": [f"{c.step / 1e12:,.1f}" for c in alls],
        "encoding all items once, TFLOP": [f"{c.refresh / 1e12:,.1f}" for c in costs],
        "the same in steps": [f"{c.refresh / c.step:,.1f}" for c in costs],
    }
    for name, cells in rows.items():
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--width", type=int, default=WIDTH)
    given = parser.parse_args()
    show_measured(given.items, given.width)
    show_estimates(given.items, given.width)
