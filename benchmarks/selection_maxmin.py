"""MaxMin and straightforward code, on embeddings of any size; used by selection.py."""

from __future__ import annotations

import gzip
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
PUBLISHED = HERE.parent.parent / "shared" / "published" / "cds_proxy_rewards.jsonl.gz"


def medians(repeats: int, **functions: Callable[[], Any]) -> dict[str, float]:
    """Median seconds of each function, called in turn, so that machine load affects all equally."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def published_values() -> tuple[np.ndarray, str]:
    """alpha L + R (alpha 1) of the authors' 10,748 samples, or random values of similar shape."""
    if not PUBLISHED.exists():
        rng = np.random.default_rng(0)
        made_up = np.exp(-rng.gamma(4, 1, 10_748)) + rng.beta(3, 2, 10_748)
        return made_up, "made up: ../shared/published is absent"
    with gzip.open(PUBLISHED, "rt") as file:
        rows = [json.loads(line) for line in file]
    return np.array([row["difficulty"] + row["representativeness"] for row in rows]), "published"


def clustered(rows: int, width: int, clusters: int, *, noise: float = 0.5) -> np.ndarray:
    """(rows, width) float32, made in pieces: no second copy."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((clusters, width), dtype=np.float32)
    embeddings = np.empty((rows, width), np.float32)
    for start in range(0, rows, 50_000):
        count = min(50_000, rows - start)
        spread = noise * rng.standard_normal((count, width), dtype=np.float32)
        embeddings[start : start + count] = centres[rng.integers(clusters, size=count)] + spread
    return embeddings


def one_product_per_pick(embeddings, scores, budget: int, *, dtype) -> list[int]:
    """Straightforward code: one matrix-vector product in torch for each pick."""
    import torch

    vectors = torch.from_numpy(embeddings).to(dtype)
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    weights = torch.from_numpy(scores).to(dtype)
    distance = torch.full_like(weights, torch.inf)
    picks = [int(weights.argmax())]
    while len(picks) < budget:
        torch.minimum(distance, (1 - vectors @ vectors[picks[-1]]).clamp_min_(0), out=distance)
        product = weights * distance
        product[picks] = -1
        picks.append(int(product.argmax()))
    return picks


def against_one_product_per_pick(embeddings, scores, repeats: int) -> dict[str, float]:
    """Seconds of both, and whether the picks equal those of straightforward code in float64."""
    import torch

    from minirec.selection.diversity import maxmin

    def obvious(dtype):
        return one_product_per_pick(embeddings, scores, 1024, dtype=dtype)

    seconds = medians(
        repeats,
        ours=lambda: maxmin(embeddings, scores=scores, budget=1024),
        per_pick=lambda: obvious(torch.float32),
    )
    ours = maxmin(embeddings, scores=scores, budget=1024).indices.tolist()
    single = obvious(torch.float32)
    pairs = enumerate(zip(ours, single, strict=True))
    return seconds | {
        "as float64": float(ours == obvious(torch.float64)),
        "first pick that differs in float32": next((n for n, (a, b) in pairs if a != b), 1024),
        "same set as float32": float(set(ours) == set(single)),
    }


def one_pool(rows: int, budget: int) -> None:
    """Body of a process that holds little but the embeddings; prints seconds and peak memory."""
    from minirec.selection.diversity import maxmin

    embeddings = clustered(rows, 128, max(20, rows // 500))
    scores = np.random.default_rng(1).random(rows)
    started = time.perf_counter()
    maxmin(embeddings, scores=scores, budget=budget)
    seconds = time.perf_counter() - started
    # Not ru_maxrss, because a process inherits it from its parent.
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    print(json.dumps({"seconds": seconds, "peak": peak, "embeddings": embeddings.nbytes}))


def in_process(rows: int, budget: int) -> dict[str, float]:
    """`one_pool` in a separate process."""
    code = f"import selection_maxmin; selection_maxmin.one_pool({rows}, {budget})"
    done = subprocess.run([sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def plot_scaling(sizes: list[int], seconds: list[float], exponent: float) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "minirec"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    axes.loglog(sizes, seconds, "o-", color="#2a6f97")
    axes.set(
        xlabel="samples N (budget N / 100, d = 128)",
        ylabel="seconds",
        title=f"MaxMin: fitted exponent {exponent:.2f}",
    )
    axes.grid(True, which="major", alpha=0.3)
    figure.savefig(HERE.parent / "docs" / "lab" / "maxmin-scaling.svg", metadata={"Date": None})
