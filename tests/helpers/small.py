"""A run that is small enough for a test and passes through every stage with real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

SETTINGS = """
seed: 7
corpus: {source: demo, category: demo items, demo: {users: 60, items: 60, tastes: 4}}
warm: {live: false}
model:
  max_prompt_tokens: 128
  max_item_tokens: 12
  lora_rank: 8
  prior: none
  demo: {vocabulary: 500, hidden_size: 64, heads: 2, layers: 1, warmup_steps: 20}
rollout: {max_new_tokens: 8, prompts_per_call: 16}
proxy:
  samples: 64
  training: {steps: 8, prompts_per_step: 16, prompts_per_micro_batch: 8, checkpoint_steps: 2,
             item_candidates: corrected}
scoring: {shard_size: 16, rollouts: 2, policy: proxy, screen: null}
selection: {mode: static, budget: 0.25}
training: {steps: 8, prompts_per_step: 16, prompts_per_micro_batch: 8, checkpoint_steps: 2,
           start: base, validation_steps: null, patience: null}
sasrec: {epochs: 2}
evaluation: {bootstrap: 50}
resources: {training_workers: 1}
"""


def command(run_dir: Path, *words: str, engine: str = "transformers") -> list[str]:
    """Command line of a small run."""
    config = run_dir.parent / "small.yaml"
    config.write_text(SETTINGS)
    options = [f"run_dir={run_dir}", f"rollout.engine={engine}"]
    head, *rest = words or ("run",)
    return [sys.executable, "-m", "jobs.cli", head, "--config", str(config), *options, *rest]


def finish(run_dir: Path, *words: str, engine: str = "transformers") -> str:
    """Run to the end; returns what was printed."""
    result = subprocess.run(
        command(run_dir, *words, engine=engine), capture_output=True, text=True, timeout=400
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


def start(run_dir: Path, *words: str, engine: str = "transformers") -> subprocess.Popen[bytes]:
    """Start a run whose output goes to a file beside the run directory."""
    log = (run_dir.parent / f"{run_dir.name}.log").open("ab")
    return subprocess.Popen(
        command(run_dir, *words, engine=engine), stdout=log, stderr=log, preexec_fn=_interruptible
    )


def _interruptible() -> None:
    # What a shell starts in the background ignores Ctrl-C, and so do its children.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], what: str) -> None:
    """Wait until the condition holds while the process lives."""
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, f"the run ended before {what}"
        assert time.monotonic() < deadline, f"waited 300 s for {what}"
        time.sleep(0.02)


def descendants(process: subprocess.Popen[bytes], title: str) -> list[psutil.Process]:
    """Processes below `process` whose title holds `title`."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if title in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def steps_logged(run_dir: Path, name: str) -> int:
    """Optimizer steps in a training log."""
    path = run_dir / name / "log.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0
