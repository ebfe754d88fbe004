"""Requests a second of `minirec serve` beside a plain FastAPI application of the same recommender.

    .venv/bin/python benchmarks/serving.py runs/demo                # ranks at once
    .venv/bin/python benchmarks/serving.py runs/demo --analysis     # writes an analysis first

Three servers get the same load in turn, round by round, so that other work on the machine meets
all of them. `serve` is the command. `plain` is FastAPI under uvicorn: a handler in its thread pool
that recommends for one request at a time. `batched` is the same with simultaneous requests in one
batch, so its distance to `serve` is the way through Ray Serve. All servers run all the time; the
load tool is in this process, keeps its connections alive and sends a request on each as soon as the
answer to the last one is there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from actors.serving.batches import Batches
from actors.serving.http import LARGEST_BATCH, Answer, Item, Query
from actors.serving.recommender import Recommendation, Recommender
from jobs.handover.recommend import finished_run, recommender_spec
from minirec.store.tables import read_table

START_S = 300
ITEMS, TOP = 8, 10  # of a history and of an answer


def requests_of(run: Path, *, count: int, seed: int = 0) -> list[bytes]:
    """HTTP requests for random histories of `ITEMS` keys of the catalogue."""
    keys = read_table(run / "corpus" / "items.parquet", ["key"])["key"].to_pylist()
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        history = draw.sample(keys, min(ITEMS, len(keys) - 1))
        body = json.dumps({"history": history, "top": TOP}).encode()
        head = (
            f"POST /recommend HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        found.append(head.encode() + body)
    return found


async def load(
    port: int, requests: Sequence[bytes], *, connections: int
) -> tuple[list[float], int, float]:
    """Send the requests; returns the seconds of each answer, the failures, and the wall time.

    A failure is a status other than 200, an answer without items, or a connection that breaks.
    """
    left, seconds, failures = iter(requests), [], 0

    async def connection() -> None:
        nonlocal failures
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for request in left:
            start = time.perf_counter()
            writer.write(request)
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
            except (OSError, asyncio.IncompleteReadError):
                failures += 1
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                continue
            length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            seconds.append(time.perf_counter() - start)
            failures += b" 200 " not in head.split(b"\r\n")[0] or b'"items"' not in body
        writer.close()

    start = time.perf_counter()
    await asyncio.gather(*(connection() for _ in range(connections)))
    return seconds, failures, time.perf_counter() - start


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def server(words: Sequence[str], port: int, log: Path) -> Iterator[int]:
    """Start a server and wait until it answers; stops it at the end."""
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, *words], stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + START_S
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{' '.join(words)} did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait(60)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def plain_server(run_dir: str, port: int, *, analysis: bool, batched: bool) -> None:
    """Serve with FastAPI and uvicorn alone, with the settings that their pages show."""
    run, config = finished_run(run_dir, "train")
    spec = recommender_spec(run, config, analysis=analysis, threads=1, gpus=0)
    recommender, app = Recommender(spec), FastAPI()
    key_of = {item: key for key, item in recommender.keys.items()}

    def answer(found: Recommendation) -> Answer:
        pairs = zip(found.items, found.cosines, strict=True)
        items = [Item(key=key_of[i], title=recommender.titles[i], cosine=c) for i, c in pairs]
        return Answer(items=items, analysis=found.analysis)

    def history(query: Query) -> list[int]:
        return [recommender.keys[key] for key in query.history]

    def recommend(asked: list[tuple[list[int], int]]) -> list[Recommendation]:
        histories, top = zip(*asked, strict=True)
        return recommender.recommend(histories, top=top)

    batch = Batches(recommend, largest=LARGEST_BATCH)

    if batched:

        @app.post("/recommend", response_model_exclude_none=True)
        async def together(query: Query) -> Answer:
            return answer(await batch((history(query), query.top)))
    else:

        @app.post("/recommend", response_model_exclude_none=True)
        def alone(query: Query) -> Answer:
            return answer(recommender.recommend([history(query)], top=[query.top])[0])

    @app.get("/readyz")
    def readyz() -> dict[str, str]:
        return {"status": "ready"}

    uvicorn.run(app, port=port, log_level="warning")


def measure(
    run: Path, *, analysis: bool, requests: int, connections: int, rounds: int
) -> dict[str, dict[str, Any]]:
    """Rates, latencies and failures by server."""
    here, flag = str(Path(__file__).resolve()), [] if analysis else ["--no-analysis"]
    ports = {name: free_port() for name in ("serve", "plain", "batched")}
    words = {
        "serve": ["-m", "jobs.cli", "serve", "--run", str(run), *flag],
        "plain": [here, str(run), "--as", "plain", *(["--analysis"] if analysis else [])],
        "batched": [here, str(run), "--as", "batched", *(["--analysis"] if analysis else [])],
    }
    found: dict[str, list[tuple[list[float], int, float]]] = {name: [] for name in ports}
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name, port in ports.items():
            log = logs / f"{name}.log"
            stack.enter_context(server([*words[name], "--port", str(port)], port, log))
        for turn in range(rounds + 1):
            sent = requests_of(run, count=max(connections, requests // rounds), seed=turn)
            for name, port in ports.items():
                one = asyncio.run(load(port, sent, connections=connections))
                if turn:  # the first round warms up
                    found[name].append(one)
    return {name: figures(parts) for name, parts in found.items()}


def figures(parts: Sequence[tuple[list[float], int, float]]) -> dict[str, Any]:
    """Answers a second of all rounds together, their latencies in ms, and failures.

    A request whose connection breaks is a failure without an answer.
    """
    seconds = sorted(s for part, _, _ in parts for s in part)
    return {
        "answers": len(seconds),
        "failures": sum(failed for _, failed, _ in parts),
        "per_second": len(seconds) / sum(wall for _, _, wall in parts),
        "rounds": [round(len(part) / wall, 1) for part, _, wall in parts],
        "median_ms": 1000 * statistics.median(seconds),
        "p99_ms": 1000 * seconds[int(0.99 * (len(seconds) - 1))],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--analysis", action="store_true")
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--as", dest="kind", choices=("plain", "batched"), help="serve (internal)")
    parser.add_argument("--port", type=int, default=0, help="of --as")
    a = parser.parse_args()
    if a.kind:
        plain_server(str(a.run), a.port, analysis=a.analysis, batched=a.kind == "batched")
        return
    found = measure(
        a.run,
        analysis=a.analysis,
        requests=a.requests,
        connections=a.connections,
        rounds=a.rounds,
    )
    print("| server | requests/s | of plain | median ms | 99% ms | failures | rounds |")
    print("|---|---|---|---|---|---|---|")
    for name, f in found.items():
        share = f["per_second"] / found["plain"]["per_second"]
        print(
            f"| {name} | {f['per_second']:.0f} | {share:.2f} | {f['median_ms']:.0f} | "
            f"{f['p99_ms']:.0f} | {f['failures']} of {f['answers']} | {f['rounds']} |"
        )


if __name__ == "__main__":
    main()
