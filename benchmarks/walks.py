"""Number of files and calls that a rollout and a sample pass through (docs/lab/walks.md).

.venv/bin/python benchmarks/walks.py RUN [--calls]

RUN is a finished run of the demo. Both walks happen in this process, with the transformers engine
instead of the pool. A profiler records each call from a function of one project file to a function
of another file. The same two functions count once, so the number of samples does not matter.
"files" are the files entered, "calls" the different calls between files, "returns" the calls into a
file that was entered before: calls - files. --calls lists them.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch.distributed as dist

from actors.engines.engine import Adapter, EngineSpec, engine_spec
from actors.engines.transformers import TransformersEngine
from actors.scoring.scorer import ShardScorer
from actors.scoring.spec import ScoringSpec
from actors.training.loop import Worker
from actors.training.spec import TrainingSpec
from jobs.handover.select_table import select_table
from minirec.config.reading import load
from minirec.corpus import demo, split
from minirec.corpus.table import load_samples
from minirec.resources.allocation import Shape

ROOT = Path(__file__).resolve().parents[1]
RINGS = tuple(str(ROOT / ring) + os.sep for ring in ("minirec", "actors", "jobs"))


@dataclass
class Local:
    """An engine in this process with the interface of the pool."""

    spec: EngineSpec

    def __post_init__(self) -> None:
        self.engine = TransformersEngine(self.spec)

    def copy(self) -> Local:
        """This engine, because there is no second thread."""
        return self

    def generate(self, calls: list, adapter: Adapter | None = None) -> list:
        """One answer for each call."""
        return [
            self.engine.generate(c.prompts, n=c.n, seeds=c.seeds, greedy=c.greedy, adapter=adapter)
            for c in calls
        ]


def walked(body: Callable[[], object]) -> list[tuple[str, str]]:
    """The different calls between project files while `body` runs, in order."""
    calls: dict[tuple[str, str], None] = {}

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(RINGS):
            return
        caller = frame.f_back
        while caller and not caller.f_code.co_filename.startswith(RINGS):
            caller = caller.f_back
        if caller and caller.f_code.co_filename != code.co_filename:
            calls[name(caller), name(frame)] = None

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        body()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    return list(calls)


def name(frame: FrameType) -> str:
    """File relative to the root, and function."""
    code = frame.f_code
    return f"{Path(code.co_filename).relative_to(ROOT)}:{code.co_qualname}"


def main() -> None:
    """Print both walks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--calls", action="store_true")
    args = parser.parse_args()
    config = load(args.run / "config.yaml", [f"run_dir={args.run}"])
    model, corpus = str(args.run / "model"), str(args.run / "corpus")
    pool = Local(engine_spec(config, model, 1024, shape=Shape(1, 0)))
    sizes = {"prompts_per_step": 4, "prompts_per_micro_batch": 2, "validation_steps": None}
    shared = {
        "corpus": corpus,
        "model_path": model,
        "model": config.model,
        "reward": config.reward,
        "prompts_per_call": 4,
        "pool": pool,
        "threads": 1,
        "seed": config.seed,
    }
    with tempfile.TemporaryDirectory() as work:
        os.environ["LOCAL_RANK"] = "0"  # DeepSpeed wants it
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        training = config.training.model_copy(update={**sizes, "learning_rate": 1e-3})
        order = [sample.sample_id for sample in load_samples(Path(corpus), "train")[:4]]
        worker = Worker(
            TrainingSpec(
                folder=f"{work}/train",
                training=training,
                order=order,
                steps=1,
                rollout_temperature=config.rollout.temperature,
                **shared,
            )
        )
        scoring = ScoringSpec(
            split="train",
            output=f"{work}/features",
            item_table=f"{work}/items.npy",
            adapter=None,
            scoring=config.scoring,
            shard_size=64,
            policy_adapter=None,
            **shared,
        )

        def sample() -> None:
            events, _, _ = demo.generate(config.corpus.demo, seed=config.seed)
            split.make_samples(events, config.corpus)
            ShardScorer(scoring).write(0)
            select_table(
                scoring.part(0),
                config,
                out=Path(work) / "selection",
                chance=0.1,
                overwrite=False,
                say=lambda _: None,
            )

        walks = {
            "a rollout, from the engine to the gradient": lambda: worker.step(0),
            "a sample, from the events to the selection": sample,
        }
        for title, body in walks.items():
            calls = walked(body)
            files = {callee.partition(":")[0] for _, callee in calls}
            print(f"{title}: {len(files)} files, {len(calls)} calls, {len(calls) - len(files)}")
            for caller, callee in calls if args.calls else ():
                print(f"    {caller} -> {callee}")
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
