"""Selection against the obvious code: ratios in one process, medians, a table, JSON, a baseline.

.venv/bin/python benchmarks/selection.py                      # all cases
.venv/bin/python benchmarks/selection.py maxmin head          # some
.venv/bin/python benchmarks/selection.py --run runs/demo screening

Each case returns its figures and a list of `Claim`. Exit status 1: a ratio fell below 70% of the
committed baseline (benchmarks/selection_baseline.json; --update writes it anew).
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
PUBLISHED = HERE.parent.parent / "shared" / "published" / "cds_proxy_rewards.jsonl.gz"
BASELINE = HERE / "selection_baseline.json"
SLACK = 0.7  # of the baseline's ratio; machines and their other work differ


@dataclass(frozen=True)
class Claim:
    """A measured figure with its target.

    least: at least the target, else at most. ratio: comparable on another machine.
    """

    what: str
    value: float
    target: float
    least: bool = True
    ratio: bool = True

    def met(self) -> bool:
        return self.value >= self.target if self.least else self.value <= self.target


@dataclass(frozen=True)
class Result:
    """What one case measured."""

    case: str
    figures: dict[str, Any]
    claims: list[Claim]


def medians(repeats: int, **functions: Callable[[], Any]) -> dict[str, float]:
    """Median seconds of each function, called in turn, so that a busy moment hits all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


# MaxMin


def published_values() -> tuple[np.ndarray, str]:
    """alpha L + R (alpha 1) of the authors' 10,748 samples, or made-up values of like shape."""
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
    """The obvious code: one matrix-vector product in torch for each pick."""
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


def maxmin_case(repeats: int, run: Path) -> Result:
    """N = 10,748, d = 2304, k = 1024: clustered embeddings, and states with much in common."""
    import torch

    scores, source = published_values()
    rng = np.random.default_rng(0)
    common = 10 * rng.standard_normal(2304, dtype=np.float32)
    pools = {
        "clustered": clustered(len(scores), 2304, 200),
        # Cosine 0.99, as of hidden states at one marker: float32 tells few distances apart.
        "in common": common + rng.standard_normal((len(scores), 2304), dtype=np.float32),
    }
    figures: dict[str, Any] = {"scores": source, "threads": torch.get_num_threads()}
    claims = []
    for name, embeddings in pools.items():
        figures[name] = found = _against_one_product_per_pick(embeddings, scores, repeats)
        ratio = found["per_pick"] / found["ours"]
        claims.append(Claim(f"times faster, {name}", ratio, 5))
        claims.append(Claim(f"picks as in float64, {name} (1: all)", found["as float64"], 1))
    return Result("maxmin", figures, claims)


def _against_one_product_per_pick(embeddings, scores, repeats: int) -> dict[str, float]:
    """Seconds of both, and whether the picks are those of the obvious code in float64."""
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
    """Body of a process that holds little but the embeddings: prints seconds and peak memory."""
    from minirec.selection.diversity import maxmin

    embeddings = clustered(rows, 128, max(20, rows // 500))
    scores = np.random.default_rng(1).random(rows)
    started = time.perf_counter()
    maxmin(embeddings, scores=scores, budget=budget)
    seconds = time.perf_counter() - started
    # Not ru_maxrss, which a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    print(json.dumps({"seconds": seconds, "peak": peak, "embeddings": embeddings.nbytes}))


def in_process(rows: int, budget: int) -> dict[str, float]:
    """`one_pool` in a process of its own."""
    code = f"import selection; selection.one_pool({rows}, {budget})"
    done = subprocess.run([sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def large_case(repeats: int, run: Path) -> Result:
    """N = 1,000,000, d = 128, k = 10,000; once, since it takes more than a minute."""
    found = in_process(1_000_000, 10_000)
    return Result(
        "large",
        found,
        [
            Claim("minutes", found["seconds"] / 60, 15, least=False, ratio=False),
            Claim(
                "peak memory of the process / embeddings",
                found["peak"] / found["embeddings"],
                1.5,
                least=False,
            ),
        ],
    )


def scaling_case(repeats: int, run: Path) -> Result:
    """Seconds from N = 10^4 to 10^6 at k = N / 100, d = 128, and the exponent of a power law."""
    sizes = [10_000, 31_623, 100_000, 316_228, 1_000_000]
    seconds = []
    for size in sizes:
        times = repeats if size < 10**5 else 1
        seconds.append(
            statistics.median(in_process(size, size // 100)["seconds"] for _ in range(times))
        )
    exponent, _ = np.polyfit(np.log(sizes), np.log(seconds), 1)
    _plot(sizes, seconds, exponent)
    return Result("scaling", {"rows": sizes, "seconds": seconds, "exponent": float(exponent)}, [])


def _plot(sizes: list[int], seconds: list[float], exponent: float) -> None:
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
    figure.savefig(HERE.parent / "docs" / "maxmin-scaling.svg", metadata={"Date": None})


# Head features


def peak_bytes(function: Callable[[], Any]) -> int:
    """Most bytes that torch held on the CPU during a call, beyond what it held before."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # its start and stop are of no interest
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    held = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]" and event.device_type() == torch.autograd.DeviceType.CPU:
            held += event.nbytes()
            most = max(most, held)
    return most


def double_backward(hidden, items, target):
    """Gradient and Hessian-vector product of the head loss by autograd."""
    import torch
    from torch.autograd import grad

    hidden = hidden.clone().requires_grad_()
    scores = hidden / hidden.norm(dim=1, keepdim=True) @ items.T / 0.02
    loss = torch.nn.functional.cross_entropy(scores, target, reduction="sum")
    (first,) = grad(loss, hidden, create_graph=True)
    (second,) = grad((first * first.detach()).sum(), hidden)
    return first.detach(), second


def head_case(repeats: int, run: Path) -> Result:
    """B = 64, d = 2304, V = 12,000, float32."""
    import torch

    from minirec.selection import gradients

    generator = torch.Generator().manual_seed(0)
    # As in a trained policy: most of an item vector is common to all (median cosine 0.86).
    common = 2.5 * torch.randn(2304, generator=generator)
    items = common + torch.randn(12_000, 2304, generator=generator)
    items = torch.nn.functional.normalize(items, dim=1)
    target, other = torch.randint(12_000, (2, 64), generator=generator)
    hidden = 20 * (items[target] + items[other])

    def ours():
        return gradients.head_features(hidden, items=items, target=target)

    def autograd():
        return double_backward(hidden, items, target)

    ours(), autograd()
    onednn = gradients.ONEDNN
    seconds = medians(repeats, ours=ours, autograd=autograd)
    gradients.ONEDNN = None
    try:
        seconds |= {"ours, torch's own product": medians(repeats, ours=ours)["ours"]}
    finally:
        gradients.ONEDNN = onednn
    exact = double_backward(hidden.double(), items.double(), target)
    found = ours()
    error = [
        float((mine.double() - right).norm() / right.norm())
        for mine, right in zip(found[:2], exact, strict=True)
    ]
    memory = {"ours": peak_bytes(ours), "autograd": peak_bytes(autograd)}
    return Result(
        "head",
        {"seconds": seconds, "bytes": memory, "relative error (gradient, HVP)": error},
        [
            Claim("times faster than double backward", seconds["autograd"] / seconds["ours"], 1.3),
            Claim("peak memory / double backward", memory["ours"] / memory["autograd"], 0.5, False),
        ],
    )


# LoRA gradients


def lora_case(repeats: int, run: Path) -> Result:
    """256 samples with 4 rollouts, the size of the demo model; see selection_lora.py."""
    import selection_lora

    found = selection_lora.measure(repeats)
    return Result(
        "lora",
        found,
        [
            Claim("projected / plain pass", found["projected / plain"], 1.5, least=False),
            Claim(
                "projected / plain, prompt read once",
                found["projected, shared / plain, shared"],
                1.5,
                least=False,
            ),
            Claim("times faster than one by one", found["one by one / projected, shared"], 2),
            Claim(
                "times faster, prompt read once by both",
                found["one by one, shared / projected, shared"],
                2,
            ),
        ],
    )


# Cheaper scoring


def screening_case(repeats: int, run: Path) -> Result:
    """`screen: prefill` against 4 rollouts of every sample of a finished run; see screening.py."""
    import screening

    if not (run / "features").is_dir():
        raise SystemExit(f"{run} has no features; give --run a finished run of configs/demo.yaml")
    kept = (screening.FULL, "screen 0.05")
    scorings = {name: screening.SETTINGS[name] for name in kept}
    found = screening.measure(run, scorings=scorings, repeats=min(repeats, 3))
    seconds = {name: found[name]["seconds"] for name in kept}
    agreement = found["screen 0.05"]["minirec"]["full"]
    return Result(
        "screening",
        {"seconds": seconds, **found["screen 0.05"]["minirec"]},
        [
            Claim("seconds / full scoring", seconds[kept[1]] / seconds[kept[0]], 0.5, least=False),
            Claim("rank correlation of the value", agreement, 0.9),
        ],
    )


CASES: dict[str, Callable[[int, Path], Result]] = {
    "maxmin": maxmin_case,
    "large": large_case,
    "scaling": scaling_case,
    "head": head_case,
    "lora": lora_case,
    "screening": screening_case,
}


def compared(results: list[Result], baseline: dict[str, float]) -> bool:
    """Print the table; returns False if a ratio fell far below its baseline."""
    fine = True
    print(f"{'case':10} {'what':42} {'measured':>9} {'target':>8} {'baseline':>9}")
    for result in results:
        for claim in result.claims:
            before = baseline.get(f"{result.case}: {claim.what}")
            sign = ">=" if claim.least else "<="
            worse = before is not None and (
                claim.value < SLACK * before if claim.least else claim.value * SLACK > before
            )
            fine &= not worse
            print(
                f"{result.case:10} {claim.what:42} {claim.value:9.3g} {sign}{claim.target:6.3g} "
                f"{'' if before is None else f'{before:.3g}':>9} "
                f"{'met' if claim.met() else 'MISSED'}{', fell' if worse else ''}"
            )
    return fine


def main() -> int:
    """Run the cases that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "cases", nargs="*", metavar="case", help=f"{', '.join(CASES)}; default: all"
    )
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="for screening")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write all figures as JSON")
    parser.add_argument("--update", action="store_true", help="write the baseline anew")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.cases if name not in CASES]
    if unknown:
        parser.error(f"{unknown[0]!r} is no case; choose from {', '.join(CASES)}")
    if not BASELINE.exists() and not arguments.update:
        parser.error(f"{BASELINE.name} is missing; make it with --update")
    baseline = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    results = []
    for name in arguments.cases or CASES:
        print(f"{name}: {CASES[name].__doc__}", flush=True)
        results.append(CASES[name](arguments.repeats, arguments.run))
        print(f"  {json.dumps(results[-1].figures)}", flush=True)
    fine = compared(results, baseline)
    if arguments.out:
        arguments.out.write_text(json.dumps([asdict(result) for result in results], indent=2))
    if arguments.update:
        claims = {f"{r.case}: {c.what}": c.value for r in results for c in r.claims if c.ratio}
        BASELINE.write_text(json.dumps(baseline | claims, indent=2, sort_keys=True) + "\n")
    return 0 if fine else 1


if __name__ == "__main__":
    raise SystemExit(main())
