"""The training loop on GPUs: bfloat16, engine and trainer, two workers that talk by NCCL.

Each check also runs on the CPU, so that it works where a GPU is.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.loop import MODEL, SMALL, one_process, spec_of, train
from helpers.own_engine import OwnEngine
from helpers.two_workers import train_by_two

from actors.engines.engine import EngineSpec
from jobs.training_log import read_log
from minirec.config.training import TrainingConfig

GPUS = torch.cuda.device_count()
BFLOAT16 = MODEL.model_copy(update={"dtype": "bfloat16"})


def on_gpus(count):
    """Marks of a check that needs this many GPUs."""
    return [
        pytest.mark.gpu,
        pytest.mark.skipif(count > GPUS, reason=f"needs {count} GPUs, torch sees {GPUS}"),
    ]


def on_cpus():
    """Marks of the same check without GPUs."""
    return [pytest.mark.slow, pytest.mark.skipif(GPUS > 0, reason="runs on the GPU here")]


def two_steps(place):
    """The log of two bfloat16 steps with rollouts by an engine on the same device."""
    training = TrainingConfig(steps=2, rollouts_per_prompt=2, **SMALL)
    spec = spec_of(place, training, model=BFLOAT16, zero_stage=1)
    engine = EngineSpec(
        spec.model_path, max_model_len=256, max_new_tokens=6, dtype="bfloat16", gpus=float(GPUS > 0)
    )
    with one_process():
        return train(replace(spec, pool=OwnEngine(engine)))


def check_two_steps(log):
    assert [entry["step"] for entry in log] == [0, 1]
    for entry in log:
        assert math.isfinite(entry["loss"]) and entry["grad_norm"] > 0
        # The engine has merged the adapter into bfloat16 weights, the trainer has not.
        assert 0 < entry["abs_log_ratio"] < 0.05


@pytest.mark.parametrize(
    "_", [pytest.param("gpu", marks=on_gpus(1)), pytest.param("cpu", marks=on_cpus())]
)
def test_two_bfloat16_steps(tmp_path, _):
    check_two_steps(two_steps(tmp_path))


@pytest.mark.parametrize(
    "_", [pytest.param("nccl", marks=on_gpus(2)), pytest.param("gloo", marks=on_cpus())]
)
def test_two_workers_follow_one(tmp_path, _):
    """Supervised steps, whose log needs no engine. Sums over workers change only rounding."""
    training = TrainingConfig(loss="supervised", steps=3, **SMALL)
    with one_process():
        one = train(spec_of(tmp_path, training, folder=str(tmp_path / "one")))
    two = spec_of(tmp_path, training, folder=str(tmp_path / "two"), zero_stage=1)
    train_by_two(two, tmp_path / "meeting")
    log = read_log(Path(two.folder) / "log.jsonl")
    keys = ("loss", "grad_norm")
    for mine, other in zip(log, one, strict=True):
        assert [mine[k] for k in keys] == pytest.approx([other[k] for k in keys], rel=1e-3)
    assert log[0]["loss"] != log[2]["loss"]
