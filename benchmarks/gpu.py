"""What one GPU does: rollouts, training, synchronisation and selection, within eight minutes.

.venv/bin/python benchmarks/gpu.py --out gpu.json          # or `make gpu`
.venv/bin/python benchmarks/gpu.py --tiny                  # a tiny model, also without a GPU
.venv/bin/python benchmarks/gpu.py --update                # keep the figures as bounds of this GPU

The model has the shape of Qwen2.5-0.5B with random weights in bfloat16. Rollouts are written by
vLLM where it is installed, else by transformers; training uses DeepSpeed where it is installed,
else AdamW alone. A part whose library is missing is reported as skipped, with the reason.
"training tokens" counts a prompt once for all its rollouts, as training reads it.

benchmarks/gpu_bounds.json has the bounds that were measured, by the name of the GPU, and the goals
of the project. Exit status 1: a part failed, or a figure is more than 30% worse than the bound.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from one_step import Sizes, Step

    from actors.engines.engine import RolloutEngine

BOUNDS = Path(__file__).resolve().parent / "gpu_bounds.json"
SLACK = 0.7
PEAKS = {
    "NVIDIA H200": 989e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA L4": 121e12,
}
"""FLOPs per second in bfloat16 without sparsity, from NVIDIA's data sheets, by torch's name."""

FIGURES = {
    "rollout tokens per second": True,
    "training tokens per second": True,
    "MFU of training": True,
    "training peak GiB": False,
    "synchronisation seconds": False,
    "mean abs log-ratio": False,
    "MaxMin seconds": False,
    "head features seconds": False,
}
"""The figures with bounds, and whether more is better."""

Figures = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """Where and how large: `device` is cuda or cpu, `pool` is (N, d, k) of MaxMin, and `head` is
    (B, d, V) of the head features."""

    device: str
    dtype: str
    tiny: bool
    pool: tuple[int, int, int]
    head: tuple[int, int, int]
    repeats: int

    @property
    def name(self) -> str | None:
        """The GPU as torch names it; None without."""
        return torch.cuda.get_device_name() if self.device == "cuda" else None

    @property
    def sizes(self) -> Sizes:
        """A step that fills a GPU, or a tiny one."""
        from one_step import Sizes

        if self.tiny:
            return Sizes(4, 2, prompt=24, completion=6, items=12, item=6, micro_batch=2)
        return Sizes(32, 8, prompt=512, completion=128, items=1024, item=32, micro_batch=4)


def bench(*, tiny: bool, repeats: int) -> Bench:
    """The sizes of docs/lab/selection-speed.md, or tiny ones."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = "bfloat16" if device == "cuda" else "float32"
    pool, head = (
        ((200, 16, 20), (4, 32, 100)) if tiny else ((10_748, 2304, 1024), (64, 2304, 12_000))
    )
    return Bench(device, dtype, tiny, pool, head, repeats)


# Parts


def training(step: Step, b: Bench) -> Figures:
    """A training step on random groups: passes, item side and optimizer; the table is random.

    Tokens count once where the policy reads them once, so a prompt does not count for each rollout.
    """
    from one_step import step_flops

    from minirec.rl.candidates import Candidates

    groups = step.random_groups()
    width = step.shape.hidden
    table = torch.nn.functional.normalize(
        torch.randn(b.sizes.items, width, device=b.device), dim=-1
    )
    ids = torch.tensor(sorted({group.target for group in groups}), device=b.device)

    def passes() -> None:
        candidates = Candidates(ids, table[ids].clone().requires_grad_(True), table)
        step.forward_backward(groups, candidates)
        step.item_side.backward(candidates)
        step.engine.step()

    passes()
    if b.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    taken = statistics.median(timed(passes, b) for _ in range(b.repeats))
    tokens = sum(len(g.prompt) + sum(map(len, g.completions)) for g in groups)
    work = step_flops(step.shape, groups, step.items)
    rate = (work["forward and backward"] + work["items"]) / taken
    peak = PEAKS.get(b.name or "")
    return {
        "trained with": "DeepSpeed" if has("deepspeed") else "AdamW",
        "training tokens per second": tokens / taken,
        "with the prompt of each rollout": sum(len(s) for g in groups for s in g.sequences) / taken,
        "training TFLOPs per second": rate / 1e12,
        "peak of this GPU, TFLOPs per second": peak and peak / 1e12,
        "MFU of training": peak and rate / peak,
        "training peak GiB": allocated(b),
    }


def rollouts(step: Step, b: Bench) -> Figures:
    """Rollouts after an adapter was synchronised, and how engine and trainer agree about them."""
    from minirec.rl.rollouts import forward

    if b.device == "cuda":
        torch.cuda.empty_cache()
        if has("vllm"):
            step.use(vllm_engine(step.model, b))
    step.sync()  # starts an engine of transformers
    step.roll_out()
    synced = [timed(step.sync, b) for _ in range(b.repeats)]
    taken, tokens = 0.0, 0
    for _ in range(b.repeats):
        started = time.perf_counter()
        groups = step.roll_out()
        taken += time.perf_counter() - started
        tokens += sum(sum(group.written) for group in groups)
    ratios = []
    with torch.no_grad():
        for start in range(0, len(groups), b.sizes.micro_batch):
            micro = groups[start : start + b.sizes.micro_batch]
            found = forward(step.policy, micro, items=b.sizes.items)
            ratios.append((found.logprobs - found.behaviour).abs())
    ratio = torch.cat(ratios)
    return {
        "engine": type(step.rollout_engine).__name__,
        "rollout tokens per second": tokens / taken,
        "synchronisation seconds": statistics.median(synced),
        "mean abs log-ratio": float(ratio.mean()),
        "largest abs log-ratio": float(ratio.max()),
    }


def maxmin_figures(b: Bench) -> Figures:
    """MaxMin of clustered embeddings in float32, on the device and with NumPy."""
    import numpy as np
    from selection_maxmin import clustered

    from minirec.selection.device import maxmin_on
    from minirec.selection.diversity import maxmin

    rows, width, budget = b.pool
    pool = {"scores": np.random.default_rng(1).random(rows), "budget": budget}
    embeddings = clustered(rows, width, 200)
    maxmin_on(b.device, embeddings, **pool)
    on_device = [timed(maxmin_on, b, b.device, embeddings, **pool) for _ in range(b.repeats)]
    with_numpy = [timed(maxmin, b, embeddings, **pool) for _ in range(b.repeats)]
    return {
        "MaxMin seconds": statistics.median(on_device),
        "MaxMin seconds with NumPy": statistics.median(with_numpy),
    }


def head_figures(b: Bench) -> Figures:
    """Gradient, Hessian-vector product and EL2N of the head, in float32."""
    from minirec.selection.head_gradients import head_features

    batch, width, items = b.head
    table = torch.nn.functional.normalize(torch.randn(items, width, device=b.device), dim=-1)
    hidden = torch.randn(batch, width, device=b.device)
    target = torch.arange(batch, device=b.device)
    head_features(hidden, items=table, target=target)
    taken = [timed(head_features, b, hidden, items=table, target=target) for _ in range(b.repeats)]
    return {"head features seconds": statistics.median(taken)}


def model_figures(folder: Path, b: Bench) -> dict[str, Figures]:
    """The parts that need the model."""
    import sized_models as models
    from one_step import Step

    shape = models.TINY_QWEN if b.tiny else models.QWEN2_5_05B
    model = models.build(folder / "model", shape, dtype=b.dtype)
    step = Step(
        model,
        b.sizes,
        folder=folder,
        device=b.device,
        dtype=b.dtype,
        deepspeed=has("deepspeed"),
    )
    found = {"training": part(training, step, b)}  # before an engine takes memory
    found["rollouts"] = part(rollouts, step, b)
    return found


def vllm_engine(model: str, b: Bench) -> RolloutEngine:
    """A vLLM engine that keeps the adapter apart, as on GPUs."""
    from dataclasses import replace

    from one_step import engine_spec

    from actors.engines.engine import engine_environment

    gpus = 0.5 if b.device == "cuda" else 0  # the trainer has the rest
    spec = replace(engine_spec(model, b.sizes, dtype=b.dtype, gpus=gpus), adapter="lora")
    os.environ.update(engine_environment(spec))
    from actors.engines.vllm import VllmEngine

    return VllmEngine(spec)


# Helpers


def part(measure: Callable[..., Figures], *args: Any, **kwargs: Any) -> Figures:
    """The figures of a part, or why it was skipped or failed. The other parts run in any case."""
    try:
        return measure(*args, **kwargs)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("minirec", "actors", "jobs"):
            return {"failed": f"{error.name} is missing"}
        return {"skipped": f"{error.name} is not installed"}
    except Exception as error:
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error}"}


def has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def timed(function: Callable[..., Any], b: Bench, *args: Any, **kwargs: Any) -> float:
    """Seconds of a call until the device has finished it."""
    wait = torch.cuda.synchronize if b.device == "cuda" else lambda: None
    wait()
    started = time.perf_counter()
    function(*args, **kwargs)
    wait()
    return time.perf_counter() - started


def allocated(b: Bench) -> float | None:
    """The peak of torch's memory on the GPU in GiB; None without a GPU."""
    return torch.cuda.max_memory_allocated() / 2**30 if b.device == "cuda" else None


def judged(figures: Figures, bounds: Figures, goals: dict[str, Figures]) -> tuple[list[str], bool]:
    """A line for each figure with its bound and goal, and whether all bounds are kept."""
    lines, kept = [], True
    for name, more in FIGURES.items():
        value = figures.get(name)
        if value is None:
            if name in bounds:
                kept = False
                lines.append(f"{name}: not measured; bound {bounds[name]:.4g} BROKEN")
            continue
        said = [f"{name}: {value:.4g}"]
        if (bound := bounds.get(name)) is not None:
            within = value >= SLACK * bound if more else value <= bound / SLACK
            kept &= within
            said.append(f"bound {bound:.4g} {'kept' if within else 'BROKEN'}")
        if (goal := goals.get(name)) is not None:
            met = value >= goal["value"] if more else value <= goal["value"]
            said.append(f"goal {goal['value']:g} {'met' if met else 'missed'} ({goal['from']})")
        lines.append("; ".join(said))
    return lines, kept


def main() -> int:
    """Measure, print and compare; 1 if a part failed or a bound is broken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="a tiny model; works without a GPU")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON of all figures")
    parser.add_argument("--update", action="store_true", help="keep the figures as bounds")
    args = parser.parse_args()
    if not (args.tiny or torch.cuda.is_available()):
        print("No GPU: torch sees none, so nothing was measured; --tiny works without.")
        return 0
    started = time.monotonic()
    b = bench(tiny=args.tiny, repeats=args.repeats)
    with tempfile.TemporaryDirectory() as folder:
        parts = {"head": part(head_figures, b), "MaxMin": part(maxmin_figures, b)}
        found = part(model_figures, Path(folder), b)
        parts |= {"model": found} if {"skipped", "failed"} & found.keys() else found
    parts["seconds of all"] = {"value": time.monotonic() - started}
    about = {"gpu": b.name, "torch": torch.__version__, **asdict(b)}
    if args.out:
        args.out.write_text(json.dumps(about | {"parts": parts}, indent=1) + "\n")
    print(json.dumps(about | {"parts": parts}, indent=1))
    figures = {name: value for values in parts.values() for name, value in values.items()}
    stored = json.loads(BOUNDS.read_text())
    counts = not args.tiny and b.name is not None
    bounds = stored["bounds"].get(b.name, {}) if counts else {}
    lines, kept = judged(figures, bounds, stored["goals"] if counts else {})
    print("\n".join(lines))
    if args.update and counts:
        stored["bounds"][b.name] = {n: figures[n] for n in FIGURES if figures.get(n) is not None}
        BOUNDS.write_text(json.dumps(stored, indent=1) + "\n")
    return 0 if kept and not any("failed" in values for values in parts.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
