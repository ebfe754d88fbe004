"""Trains on a tiny demo corpus in this process: the loop of a training worker without Ray."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.distributed as dist

from actors.engines.engine import EngineSpec
from actors.training.loop import STOP, train_loop
from actors.training.spec import TrainingSpec
from helpers.own_engine import OwnEngine
from jobs.corpus import from_demo
from jobs.training_log import read_log
from minirec.config.corpus import CorpusConfig, DemoConfig
from minirec.config.model import DemoModelConfig, ModelConfig
from minirec.config.scoring import RewardConfig
from minirec.config.training import TrainingConfig
from minirec.corpus.table import load_catalogue, load_samples
from minirec.model import demo

MODEL = ModelConfig(
    max_prompt_tokens=96,
    max_item_tokens=12,
    lora_rank=4,
    demo=DemoModelConfig(vocabulary=400, hidden_size=32, heads=1, layers=1, warmup_steps=5),
)
SMALL = {"prompts_per_step": 8, "prompts_per_micro_batch": 4, "learning_rate": 5e-3}


@contextmanager
def one_process() -> Iterator[None]:
    """A process group of this process alone. It stays, because DeepSpeed keeps a reference."""
    before = os.environ.get("LOCAL_RANK")
    os.environ["LOCAL_RANK"] = "0"  # DeepSpeed reads it
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        os.environ.pop("LOCAL_RANK") if before is None else os.environ.update(LOCAL_RANK=before)


def spec_of(place: Path, training: TrainingConfig, **changes: Any) -> TrainingSpec:
    """A training on 64 samples; corpus and model are made in `place` on first use."""
    corpus, model = place / "corpus", place / "model"
    if not corpus.exists():
        demo_corpus = DemoConfig(users=40, items=30, tastes=3)
        from_demo(CorpusConfig(source="demo", category="demo", demo=demo_corpus), corpus, 1)
        catalogue = load_catalogue(corpus)
        demo.build(
            model,
            histories=[sample.history for sample in load_samples(corpus, "train")],
            items=list(zip(catalogue.titles, catalogue.texts, strict=True)),
            config=MODEL,
            category="demo",
            seed=1,
        )
    spec = TrainingSpec(
        corpus=str(corpus),
        folder=str(place / "policy"),
        model_path=str(model),
        model=MODEL,
        reward=RewardConfig(),
        training=training,
        order=[sample.sample_id for sample in load_samples(corpus, "train")][:64],
        steps=training.steps_on(64),
        seed=3,
        rollout_temperature=1.0,
        prompts_per_call=16,
        pool=None,
        threads=1,
    )
    return replace(spec, **changes)


def own_engine(model: str, **settings: Any) -> OwnEngine:
    """An engine that writes at most six tokens."""
    spec = EngineSpec(model, max_model_len=256, prompts_per_call=16, max_new_tokens=6, **settings)
    return OwnEngine(spec)


def train(spec: TrainingSpec) -> list[dict[str, Any]]:
    """Run the loop; returns the log."""
    train_loop({"spec": spec})
    return read_log(Path(spec.folder) / "log.jsonl")


def interrupted(whole: TrainingSpec, folder: Path, *, after: int) -> TrainingSpec:
    """The same training in a folder of its own, stopped after some steps and continued."""
    cut = replace(whole, folder=str(folder))
    log = folder / "log.jsonl"

    def stop() -> None:
        while not log.exists() or len(log.read_text().splitlines()) < after:
            time.sleep(0.01)
        (folder / STOP).touch()

    watching = threading.Thread(target=stop)
    watching.start()
    assert after <= len(train(cut)) < whole.steps
    watching.join()
    (folder / STOP).unlink()
    train(cut)
    return cut


def weights(spec: TrainingSpec) -> bytes:
    """The file of the final adapter."""
    return (Path(spec.folder) / "adapter" / "adapter_model.safetensors").read_bytes()
