"""Gain and cost of overlapping rollouts and training, from a finished run.

.venv/bin/minirec run --config configs/demo.yaml
.venv/bin/python benchmarks/overlap.py runs/demo [REPEATS] [key=value ...]

Copies of the run train with staleness 0 and 1 in turn, REPEATS times each (default 2), and
evaluate. The seconds are those of the optimizer steps, without the start of engines and workers.
The given settings apply to every copy. The last line is the ratio of the medians.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from jobs.training_log import read_log
from minirec.store.files import read_json

COLUMNS = ("steps", "engines", "training", "waited", "idle", "clipped", "NDCG@10")


def minirec(command: str, run_dir: Path, words: list[str]) -> None:
    """Run a stage of `run_dir` again; its output is shown only if it fails."""
    line = [sys.executable, "-m", "jobs.cli", command, f"run_dir={run_dir}", *words, "--overwrite"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=3600)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)


def measure(root: Path, staleness: int, words: list[str]) -> dict[str, float]:
    """Seconds of each side, share of clipped tokens and test NDCG@10 of one training."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        shutil.copytree(root, run_dir, ignore=shutil.ignore_patterns("ray"))
        minirec("train", run_dir, [*words, f"training.staleness={staleness}"])
        # The stage reads the run's config.yaml, which `train` has rewritten.
        minirec("evaluate", run_dir, [])
        log = read_log(run_dir / "policy" / "log.jsonl")
        policies = read_json(run_dir / "evaluation.json")["policies"]
    total = {
        key: sum(entry[f"{key}_seconds"] for entry in log) for key in ("rollout", "wait", "idle")
    }
    steps = sum(entry["seconds"] for entry in log)
    clipped = sum(entry["clipped_tokens"] for entry in log) / len(log)
    return {
        "steps": steps,
        "engines": total["rollout"],
        "training": steps - total["wait"],
        "waited": total["wait"],
        "idle": total["idle"],
        "clipped": clipped,
        "NDCG@10": policies["trained"]["test"]["ndcg@10"]["mean"],
    }


def main(root: str, *rest: str) -> None:
    """Print a line for each training and the ratio of the seconds."""
    words = [word for word in rest if "=" in word]
    repeats = next((int(word) for word in rest if word.isdigit()), 2)
    print(f"{'staleness':10}" + "".join(f"{name:>10}" for name in COLUMNS))
    seconds: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(repeats):
        for staleness in seconds:
            found = measure(Path(root), staleness, words)
            seconds[staleness].append(found["steps"])
            cells = "".join(
                f"{found[name]:10.4f}" if name in ("clipped", "NDCG@10") else f"{found[name]:10.1f}"
                for name in COLUMNS
            )
            print(f"{staleness:<10}{cells}", flush=True)
    ratio = median(seconds[1]) / median(seconds[0])
    print(f"seconds of the steps, staleness 1 to staleness 0: {ratio:.2f}")


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["runs/demo"]))
