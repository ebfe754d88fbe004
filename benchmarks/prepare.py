"""`minirec prepare` of a large corpus: seconds, memory and disk, against a script in polars.

.venv/bin/python benchmarks/prepare.py FOLDER [--rows 3000000] [--users 300000] [--items 50000]
    [--polars PYTHON] [SETTING=VALUE ...]

Writes ratings.csv and meta.jsonl in the format of Amazon Reviews 2023 below FOLDER, unless they are
there. A few users and items have most of the events: user ranks are distributed as 1/rank^0.7, item
ranks as 1/rank. Then it prepares them and prints, for each command: seconds, rows in a second, the
largest sum of the PSS of all its processes, measured once in a second, and the bytes that the disk
lost meanwhile. With --polars the Python of an environment that has polars runs a plain script that
reads, joins, windows and writes train, valid, test and items, after ours and on the same files. It
checks no row, keeps events of one time in each other's histories, and asks no reference.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.csv as pc

CHUNK = 1_000_000
POLARS = """
import sys
from pathlib import Path
import polars as pl

source, out = Path(sys.argv[1]), Path(sys.argv[2])
out.mkdir(parents=True)
items = pl.read_ndjson(source / "meta.jsonl")
items = items.select("parent_asin", "title", pl.col("description").list.join(" "))
text = {"user_id": pl.String, "parent_asin": pl.String}
events = pl.read_csv(source / "ratings.csv", schema_overrides=text)
events = events.unique(["user_id", "parent_asin", "timestamp"], keep="first")
ids = events.select("parent_asin").unique().join(items.select("parent_asin"), on="parent_asin")
ids = ids.sort("parent_asin").with_row_index("item_id")
items.join(ids, on="parent_asin").sort("item_id").write_parquet(out / "items.parquet")
events = events.join(ids, on="parent_asin").sort("user_id", "timestamp", "parent_asin")
past = ("item_id", "rating", "timestamp")
shifted = [
    pl.col(name).shift(age).over("user_id").alias(f"{name}-{age}")
    for name in past
    for age in range(10, 0, -1)
]
samples = events.with_columns(shifted).filter(pl.col("item_id-1").is_not_null())
histories = [
    pl.concat_list([f"{name}-{age}" for age in range(10, 0, -1)]).list.drop_nulls().alias(
        f"history_{name}"
    )
    for name in past
]
columns = ["user_id", *(f"history_{name}" for name in past), *past, "parent_asin"]
samples = samples.with_columns(histories).select(columns)
samples = samples.sort("timestamp", "user_id", "parent_asin").with_row_index("sample_id")
first, second = int(len(samples) * 0.8), int(len(samples) * 0.9)
parts = {"train": samples[:first], "valid": samples[first:second], "test": samples[second:]}
for name, part in parts.items():
    part.write_parquet(out / f"{name}.parquet")
"""


def generate(folder: Path, *, rows: int, users: int, items: int) -> None:
    """Write a corpus of about `rows` events, all at different times, in no order."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    # Three years, however many events there are.
    time_ms = 1_600_000_000_000 + 10**11 // rows * rng.permutation(rows)
    fields = [
        ("user_id", pa.string()),
        ("parent_asin", pa.string()),
        ("rating", pa.float64()),
        ("timestamp", pa.int64()),
    ]
    with pc.CSVWriter(folder / "ratings.csv", pa.schema(fields)) as writer:
        for start in range(0, rows, CHUNK):
            times = time_ms[start : start + CHUNK]
            n = len(times)
            # The inverse of the distribution functions of 1/rank^0.7 and 1/rank.
            user = (users * rng.random(n) ** (1 / 0.3)).astype(np.int64)
            item = (items ** rng.random(n)).astype(np.int64) - 1
            names = [pa.array(user).cast(pa.string()), pa.array(item).cast(pa.string())]
            rating = rng.integers(1, 6, n).astype(np.float64)
            columns = [*names, pa.array(rating), pa.array(times)]
            writer.write_table(pa.table(columns, schema=pa.schema(fields)))
    with open(folder / "meta.jsonl", "w") as file:
        for item in range(items):
            title, text = f"Item {item} of kind {item % 97}", ["text " * 20]
            row = {"parent_asin": str(item), "title": title, "description": text}
            file.write(json.dumps(row) + "\n")


class Watch(threading.Thread):
    """The largest sum of the PSS of a process and its children, and of the disk that they use."""

    def __init__(self, pid: int, folder: Path):
        super().__init__(daemon=True)
        self._process, self._folder = psutil.Process(pid), folder
        self._free = shutil.disk_usage(folder).free
        self.pss = self.disk = 0

    def run(self) -> None:
        while self._lives():
            self.pss = max(self.pss, sum(map(_pss, self._all())))
            self.disk = max(self.disk, self._free - shutil.disk_usage(self._folder).free)
            time.sleep(1)

    def _lives(self) -> bool:
        try:
            return self._process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def _all(self) -> list[psutil.Process]:
        try:
            return [self._process, *self._process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def _pss(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().pss
    except psutil.Error:
        return 0


def measure(name: str, command: list[str], folder: Path, *, rows: int) -> float:
    """Run a command and print its figures; returns its seconds."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    watch = Watch(process.pid, folder)
    watch.start()
    status = process.wait()
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{name} failed with exit status {status}")
    print(
        f"{name}: {seconds:.1f} s, {rows / seconds:,.0f} rows/s, PSS {watch.pss / 2**30:.2f} GiB, "
        f"disk {watch.disk / 2**30:.1f} GiB",
        flush=True,
    )
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--users", type=int, default=300_000)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--polars", help="a Python that has polars")
    args, settings = parser.parse_known_args()
    folder = args.folder.absolute() / f"{args.rows}-{args.users}-{args.items}"
    source, run, other = folder / "source", folder / "run", folder / "polars"
    if not (source / "meta.jsonl").exists():
        generate(source, rows=args.rows, users=args.users, items=args.items)
    for left in (run, other):
        shutil.rmtree(left, ignore_errors=True)
    command = [sys.executable, "-m", "jobs.cli", "prepare", "corpus.source=amazon"]
    command += [f"corpus.path={source}", f"run_dir={run}", *settings]
    ours = measure("minirec prepare", command, folder, rows=args.rows)
    if args.polars:
        command = [args.polars, "-c", POLARS, str(source), str(other)]
        theirs = measure("polars", command, folder, rows=args.rows)
        print(f"minirec takes {ours / theirs:.2f} times the seconds of polars", flush=True)


if __name__ == "__main__":
    main()
