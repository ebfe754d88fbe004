"""A GRPO step with a real model on the CPU: against arithmetic, transformers with peft, and TRL.

.venv/bin/python benchmarks/real_model.py                     # all cases, SmolLM2-135M
.venv/bin/python benchmarks/real_model.py step flops          # some
.venv/bin/python benchmarks/real_model.py --model FOLDER pass # another model

Without --model the weights are random in the size of SmolLM2-135M. Ratios come from one run, and
figures are medians of --repeats (3). The sides of `pass`, `checkpointing` and `trl` run in turn,
each in a new process, whose peak memory is counted above its start.

step           seconds of a step / its FLOPs by arithmetic at the rate of a large product
pass           forward and backward against transformers with peft, each rollout with its prompt
checkpointing  the same pass with and without gradient checkpointing
trl            a step against TRL's GRPOTrainer
flops          FLOPs of a step by arithmetic / those that torch counts
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import sized_models as models
import torch
from one_step import Sizes, Step, product_rate, seconds, step_flops

STEP = Sizes(16, 4, prompt=170, completion=16, items=356, item=20, micro_batch=4)
TINY = Sizes(4, 2, prompt=40, completion=8, items=12, item=6, micro_batch=2)
PRODUCT = 3072
SIDES = Path(__file__).resolve().parent / "sides.py"


@dataclass(frozen=True)
class Bench:
    """What a case measures with: a model in a folder, the sizes of a step, and the repeats."""

    model: str
    sizes: Sizes
    repeats: int
    product: int


@dataclass(frozen=True)
class Goal:
    """A ratio, and the value that it should reach: at least, or at most."""

    what: str
    value: float
    goal: float
    least: bool

    @property
    def met(self) -> bool:
        return self.value >= self.goal if self.least else self.value <= self.goal


Result = tuple[dict[str, Any], list[Goal]]


def step_case(bench: Bench) -> Result:
    """Seconds of a step against its FLOPs at the rate of a large float32 product."""
    with tempfile.TemporaryDirectory() as folder:
        step = Step(bench.model, bench.sizes, folder=Path(folder))
        step()  # warms up
        taken: dict[str, list[float]] = {}
        rates, ideal = [product_rate(bench.product)], []
        for _ in range(bench.repeats):
            rolled, groups = seconds(step.roll_out)
            trained, _ = seconds(step.train, groups)
            synced, _ = seconds(step.sync)
            rates.append(product_rate(bench.product))
            parts = {"rollouts": rolled, "training": trained, "synchronisation": synced}
            for name, value in (parts | {"step": sum(parts.values())}).items():
                taken.setdefault(name, []).append(value)
            work = step_flops(step.shape, groups, step.items)
            ideal.append(sum(work.values()))
    rate, needed = median(rates), median(ideal)
    found = {name: median(values) for name, values in taken.items()}
    figures = {
        "seconds": found,
        "FLOPs": work,
        "FLOPs per second of a product": rate,
        "seconds at this rate": needed / rate,
    }
    ratio = found["step"] / (needed / rate)
    return figures, [Goal("seconds of a step / arithmetic", ratio, 1.5, least=False)]


def pass_case(bench: Bench) -> Result:
    """Forward and backward against transformers with peft."""
    found = compared(bench, "minirec pass", "plain pass", "plain pass, logits of completions")
    ours, plain = found["minirec pass"], found["plain pass"]
    return found, [
        Goal("times faster", plain["seconds"] / ours["seconds"], 5, least=True),
        Goal("peak memory / plain", ours["peak_gib"] / plain["peak_gib"], 0.3, least=False),
    ]


def checkpointing_case(bench: Bench) -> Result:
    """The pass with and without gradient checkpointing."""
    found = compared(bench, "minirec pass", "minirec pass, checkpointed")
    off, on = found["minirec pass"], found["minirec pass, checkpointed"]
    return found, [
        Goal("peak memory / without", on["peak_gib"] / off["peak_gib"], 0.5, least=False),
        Goal("seconds / without", on["seconds"] / off["seconds"], 1.6, least=False),
    ]


def trl_case(bench: Bench) -> Result:
    """A step of 4 prompts against TRL, whose reward costs nothing; the catalogue is encoded once.

    The step that encodes the catalogue, and TRL without its default checkpointing, are listed too.
    """
    few = min(4, bench.sizes.prompts)
    bench = replace(bench, sizes=replace(bench.sizes, prompts=few, micro_batch=few))
    ours, other = "minirec step", "trl step"
    more = ("minirec step, catalogue encoded", "trl step, not checkpointed")
    found = compared(bench, ours, other, *more)
    faster = found[other]["seconds"] / found[ours]["seconds"]
    smaller = found[ours]["peak_gib"] / found[other]["peak_gib"]
    return found, [
        Goal("times faster than TRL", faster, 3, least=True),
        Goal("peak memory / TRL", smaller, 0.5, least=False),
    ]


def flops_case(bench: Bench) -> Result:
    """FLOPs of a step by arithmetic against the products that torch runs."""
    with tempfile.TemporaryDirectory() as folder:
        step = Step(bench.model, bench.sizes, folder=Path(folder))
        step()  # with an adapter that is not zero
        with counter() as counted:
            groups = step()
        work = step_flops(step.shape, groups, step.items)
    total = counted.get_total_flops()
    figures = {"by arithmetic": work, "run by torch": total}
    return figures, [Goal("arithmetic / run", sum(work.values()) / total, 0.9, least=True)]


def counter() -> Any:
    """Torch's counter of FLOPs, with the attention of CPUs, which it does not know."""
    from torch.utils import flop_counter

    def forward(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return flop_counter.sdpa_flop_count(query, key, value)

    def backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return flop_counter.sdpa_backward_flop_count(gradient, query, key, value)

    aten = torch.ops.aten
    known = {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    return flop_counter.FlopCounterMode(display=False, custom_mapping=known)


def compared(bench: Bench, *sides: str) -> dict[str, dict[str, float]]:
    """Median seconds and peak GiB of each side; the sides run in turn."""
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for _ in range(bench.repeats):
        for side, runs in found.items():
            words = [side, "--model", bench.model, "--sizes", json.dumps(asdict(bench.sizes))]
            done = subprocess.run([sys.executable, SIDES, *words], capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
            runs.append(json.loads(done.stdout.splitlines()[-1]))
    return {
        side: {
            "seconds": median(second for run in runs for second in run["seconds"]),
            "peak_gib": median(run["peak_gib"] for run in runs),
        }
        for side, runs in found.items()
    }


CASES: dict[str, Callable[[Bench], Result]] = {
    "step": step_case,
    "pass": pass_case,
    "checkpointing": checkpointing_case,
    "trl": trl_case,
    "flops": flops_case,
}


def main() -> None:
    """Run the cases, print their figures, and write them as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", choices=[[], *CASES], help="default: all")
    parser.add_argument("--model", help="folder of a model; default: random weights")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="a tiny model and step, as a test")
    parser.add_argument("--out", type=Path, help="JSON of all figures")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = args.model
        if model is None:
            shape = models.TINY if args.tiny else models.SMOLLM2_135M
            model = models.build(Path(folder), shape)
        sizes, product = (TINY, 256) if args.tiny else (STEP, PRODUCT)
        bench = Bench(model, sizes, args.repeats, product)
        results = {}
        for name in args.cases or CASES:
            figures, goals = CASES[name](bench)
            results[name] = {
                "figures": figures,
                "goals": [asdict(g) | {"met": g.met} for g in goals],
            }
            print(name, json.dumps(figures, indent=1))
            for goal in goals:
                word = "at least" if goal.least else "at most"
                met = "met" if goal.met else "MISSED"
                print(
                    f"  {goal.what}: {goal.value:.3g}, goal {word} {goal.goal:g}: {met}", flush=True
                )
    about = {
        "model": args.model or "random",
        "threads": torch.get_num_threads(),
        "sizes": asdict(sizes),
    }
    if args.out:
        args.out.write_text(json.dumps(about | {"cases": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
