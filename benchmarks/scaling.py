"""Limits of the control plane, with engines that sleep as long as a real call would take.

    python benchmarks/scaling.py engines --seconds 2 --up-to 64
    python benchmarks/scaling.py rows --rows 100000 1000000 10000000 --plot docs/lab/scaling.svg

`engines`: through Ray Data, scorers and the pool as in `minirec score`. The efficiency is the
working time of the engines divided by the time from the first call to the end of the last. With
``--seconds 0`` the calls per second are the maximum that the driver's machine can dispatch.
`rows`: a table of interactions through `prepare` and the scoring of every training sample. The
driver's memory is sampled every half second.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from sleeping import SleepingEngine, SleepingScorer

from actors.engines.engine import EngineSpec
from actors.pool.pool import Pool
from actors.scoring.spec import ScoringSpec
from jobs.cluster.session import Session
from jobs.shards import parts, score_shards
from jobs.stages.prepare import PREPARE
from minirec.config.model import ModelConfig
from minirec.config.reading import load
from minirec.config.scoring import RewardConfig, ScoringConfig
from minirec.selection.screening import COLUMNS, savings
from minirec.store.run import Run
from minirec.store.tables import write_table

USERS_OF_ROWS = 10  # mean events of a user
ITEMS = 20_000


def spec_of(run: Run, pool: Pool, *, shard_size: int, prompts_per_call: int) -> ScoringSpec:
    """Scoring of the train split; the model is never read."""
    return ScoringSpec(
        corpus=str(run.path("corpus")),
        split="train",
        output=str(run.path("features")),
        item_table=str(run.path("features", "item_table.npy")),
        model_path="",
        model=ModelConfig(),
        reward=RewardConfig(),
        adapter=None,
        scoring=ScoringConfig(rollouts=2),
        shard_size=shard_size,
        prompts_per_call=prompts_per_call,
        seed=0,
        pool=pool.handle(),
        policy_adapter=None,
        threads=1,
    )


def write_samples(run: Run, count: int) -> None:
    """A train split of `count` samples with one event of history each."""
    ids = np.arange(count)
    table = pa.table({"sample_id": ids, "history": [[0]] * count, "target": ids % ITEMS})
    write_table(run.path("corpus", "train.parquet"), table)


def engines(
    engines: int, *, scorers: int, seconds: float, waves: int, folder: Path
) -> dict[str, Any]:
    """Score enough shards to give every engine `waves` calls."""
    run = Run(folder / f"engines-{engines}", say=lambda line: None)
    log = run.path("calls")
    log.mkdir(parents=True)
    # A shard is one call per engine, half of them greedy. While one scorer waits for its last
    # calls, the calls of the others keep the engines busy.
    shard_size = max(32, 32 * engines // 2)
    shards = waves if engines > 1 else waves // 2
    write_samples(run, shard_size * shards)
    config = load(None, [f"run_dir={run.root}", *scaled(engines, scorers)])
    with Session(config) as session:
        session.start_ray()
        spec = EngineSpec(model=str(log), max_model_len=8, temperature=seconds)
        with Pool(
            spec, engine=SleepingEngine, engines=engines, cpus_per_engine=0.01, name="sleeping"
        ) as pool:
            pool.wait_ready()
            scoring = spec_of(run, pool, shard_size=shard_size, prompts_per_call=32)
            score_shards(
                [scoring], config, session.allocation, label="score", scorer=SleepingScorer
            )
    calls = np.array(
        [json.loads(line) for file in log.glob("*.jsonl") for line in file.read_text().splitlines()]
    )
    span = calls[:, 1].max() - calls[:, 0].min()
    return {
        "engines": engines,
        "scorers": scorers,
        "calls": len(calls),
        "span_s": round(float(span), 2),
        "calls_per_s": round(len(calls) / float(span), 2),
        "efficiency": round(float((calls[:, 1] - calls[:, 0]).sum() / span / engines), 3),
    }


def scaled(engines: int, scorers: int) -> list[str]:
    """Overrides for the numbers of engines and scorers."""
    return [f"resources.engines={engines}", f"resources.scorers={scorers}"]


def write_interactions(folder: Path, rows: int) -> None:
    """interactions.csv and items.csv, a million rows at a time."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    with (folder / "interactions.csv").open("w") as file:
        file.write("user,item,rating,time\n")
        for start in range(0, rows, 1_000_000):
            count = min(1_000_000, rows - start)
            user = random.integers(max(2, rows // USERS_OF_ROWS), size=count)
            item = random.integers(ITEMS, size=count)
            stamp = 1_500_000_000 + random.integers(100_000_000, size=count)
            columns = (user.tolist(), item.tolist(), stamp.tolist())
            file.writelines(f"u{u},i{i},4,{t}\n" for u, i, t in zip(*columns, strict=True))
    lines = [f"i{item},Item number {item}\n" for item in range(ITEMS)]
    (folder / "items.csv").write_text("item,title\n" + "".join(lines))


def alone(function: Callable[..., Any], *arguments: object) -> Any:
    """Call it in a separate process, so that its memory is released."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        return process.submit(function, *arguments).result()


class Memory:
    """Sampled resident MiB of this process without shared memory, one list per phase."""

    def __init__(self) -> None:
        self.samples: dict[str, list[float]] = {}
        self._phase = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Assign the samples during the block to `name`."""
        self._phase = name
        self.samples[name] = []
        yield
        self._phase = ""

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        process = psutil.Process()
        while not self._stop.wait(0.5):
            if self._phase:
                self.samples[self._phase].append(process.memory_full_info().uss / 2**20)


def rows(count: int, folder: Path) -> dict[str, Any]:
    """One table through prepare and score."""
    alone(write_interactions, folder / "data", count)
    run = Run(folder / "run", say=print)
    settings = ["corpus.source=table", f"corpus.path={folder / 'data'}", "corpus.max_rejected=0.5"]
    config = load(None, [f"run_dir={run.root}", *settings, *scaled(2, 2)])
    with Memory() as memory, Session(config) as session:
        session.start_ray()
        seconds = {}
        with memory.phase("prepare"), timed(seconds, "prepare"):
            PREPARE.run(run, config, session)
        engine = EngineSpec(model="", max_model_len=8, temperature=0)
        with Pool(engine, engine=SleepingEngine, engines=2, name="sleeping") as pool:
            spec = spec_of(run, pool, shard_size=2048, prompts_per_call=1024)
            with memory.phase("score"), timed(seconds, "score"):
                score_shards(
                    [spec], config, session.allocation, label="score", scorer=SleepingScorer
                )
                tables = (part.to_pydict() for part in parts(spec, COLUMNS))
                found = savings(tables, most=2, chance=0, band=(0, 1))
    prepared = next(row for row in run.costs() if row["stage"] == "prepare")
    return {
        "rows": count,
        "samples": found.samples,
        "seconds": seconds,
        "driver_mib": {name: round(max(values)) for name, values in memory.samples.items()},
        "prepare_task_mib": round(prepared["extra"]["task_peak_memory_mib"]),
        "series": {n: [round(v) for v in values] for n, values in memory.samples.items()},
    }


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Store the seconds of the block in `seconds`."""
    started = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - started, 1)


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Peak of the driver and of the task of `prepare` against rows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2), layout="constrained")
    ax = figure.subplots()
    at = [result["rows"] for result in results]
    for name in ("prepare", "score"):
        ax.plot(at, [r["driver_mib"][name] for r in results], "o-", label=f"driver, {name}")
    ax.plot(at, [r["prepare_task_mib"] for r in results], "s--", label="task of prepare")
    ax.set(xscale="log", yscale="log", xlabel="interactions", ylabel="peak memory, MiB")
    ax.legend(frameon=False)
    ax.grid(alpha=0.3)
    figure.savefig(path, format="svg", metadata={"Date": None})


def in_folder(measure: Callable[[Path], dict[str, Any]], parent: Path | None) -> dict[str, Any]:
    """Measure in a new folder, removed at the end, and print the result as JSON."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    try:
        result = measure(folder)
    finally:
        shutil.rmtree(folder)
    print(json.dumps({k: v for k, v in result.items() if k != "series"}), flush=True)
    return result


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("engines")
    one.add_argument("--seconds", type=float, default=2.0, help="of a call")
    one.add_argument("--waves", type=int, default=12, help="calls of each engine")
    one.add_argument("--least", type=int, default=1, help="engines, at least")
    one.add_argument("--scorers", type=int, default=3)
    one.add_argument("--up-to", type=int, default=64, help="engines, at most")
    two = commands.add_parser("rows")
    two.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    two.add_argument("--plot", type=Path)
    for command in (one, two):
        command.add_argument("--folder", type=Path, help="where temporary files go")
        command.add_argument("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args()
    if arguments.command == "engines":
        counts = [2**power for power in range(10) if arguments.least <= 2**power <= arguments.up_to]
        results = [
            in_folder(
                lambda folder, n=n: engines(
                    n,
                    scorers=arguments.scorers,
                    seconds=arguments.seconds,
                    waves=arguments.waves,
                    folder=folder,
                ),
                arguments.folder,
            )
            for n in counts
        ]
    else:
        results = [
            in_folder(lambda folder, n=n: alone(rows, n, folder), arguments.folder)
            for n in arguments.rows
        ]
        if arguments.plot:
            plot(results, arguments.plot)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
