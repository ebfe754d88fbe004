"""Selection compared with straightforward code: ratios, medians, a table, JSON, a baseline.

.venv/bin/python benchmarks/selection.py                      # all cases
.venv/bin/python benchmarks/selection.py maxmin head          # some
.venv/bin/python benchmarks/selection.py --run runs/demo screening

Each case returns its figures and a list of `Claim`. Exit status 1: a ratio is below 70% of the
committed baseline (benchmarks/selection_baseline.json; --update overwrites it).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import selection_maxmin
from selection_maxmin import medians

HERE = Path(__file__).resolve().parent
BASELINE = HERE / "selection_baseline.json"
SLACK = 0.7  # of the baseline's ratio; machines and their other work differ


@dataclass(frozen=True)
class Claim:
    """A measured figure with its target.

    least: the target is a minimum, else a maximum. ratio: comparable between machines.
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


# MaxMin


def maxmin_case(repeats: int, run: Path) -> Result:
    """N = 10,748, d = 2304, k = 1024: clustered embeddings, and states with much in common."""
    import torch

    scores, source = selection_maxmin.published_values()
    rng = np.random.default_rng(0)
    common = 10 * rng.standard_normal(2304, dtype=np.float32)
    pools = {
        "clustered": selection_maxmin.clustered(len(scores), 2304, 200),
        # Cosine 0.99, like hidden states at one marker: many distances are equal in float32.
        "in common": common + rng.standard_normal((len(scores), 2304), dtype=np.float32),
    }
    figures: dict[str, Any] = {"scores": source, "threads": torch.get_num_threads()}
    claims = []
    for name, embeddings in pools.items():
        figures[name] = found = selection_maxmin.against_one_product_per_pick(
            embeddings, scores, repeats
        )
        ratio = found["per_pick"] / found["ours"]
        claims.append(Claim(f"times faster, {name}", ratio, 5))
        claims.append(Claim(f"picks as in float64, {name} (1: all)", found["as float64"], 1))
    return Result("maxmin", figures, claims)


def large_case(repeats: int, run: Path) -> Result:
    """N = 1,000,000, d = 128, k = 10,000; once."""
    found = selection_maxmin.in_process(1_000_000, 10_000)
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
    """Seconds from N = 10^4 to 10^6 at k = N / 100, d = 128, and the exponent of a power law.

    From N = 10^5 on once.
    """
    sizes = [10_000, 31_623, 100_000, 316_228, 1_000_000]
    seconds = []
    for size in sizes:
        times = repeats if size < 10**5 else 1
        found = [selection_maxmin.in_process(size, size // 100)["seconds"] for _ in range(times)]
        seconds.append(statistics.median(found))
    exponent, _ = np.polyfit(np.log(sizes), np.log(seconds), 1)
    selection_maxmin.plot_scaling(sizes, seconds, exponent)
    return Result("scaling", {"rows": sizes, "seconds": seconds, "exponent": float(exponent)}, [])


# Head features


def peak_bytes(function: Callable[[], Any]) -> int:
    """Peak of the additional bytes of torch on the CPU during a call."""
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

    from minirec.selection import head_gradients

    generator = torch.Generator().manual_seed(0)
    # As in a trained policy, item vectors have a large common part (median cosine 0.86).
    common = 2.5 * torch.randn(2304, generator=generator)
    items = common + torch.randn(12_000, 2304, generator=generator)
    items = torch.nn.functional.normalize(items, dim=1)
    target, other = torch.randint(12_000, (2, 64), generator=generator)
    hidden = 20 * (items[target] + items[other])

    def ours():
        return head_gradients.head_features(hidden, items=items, target=target)

    def autograd():
        return double_backward(hidden, items, target)

    ours(), autograd()
    onednn = head_gradients.ONEDNN
    seconds = medians(repeats, ours=ours, autograd=autograd)
    head_gradients.ONEDNN = None
    try:
        seconds |= {"ours, torch's own product": medians(repeats, ours=ours)["ours"]}
    finally:
        head_gradients.ONEDNN = onednn
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
        raise SystemExit(
            f"{run} has no features; give --run a run of the demo with selection.mode=static"
        )
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
    """Print the table; returns False if a ratio is far below its baseline."""
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
    """Run the selected cases."""
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
