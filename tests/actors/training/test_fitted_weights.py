"""The weights of policy and prior that each validation fits, in one process, without Ray."""

from __future__ import annotations

import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.loop import SMALL, one_process, spec_of, train, weights

from actors.engines.engine import FORCED
from actors.scoring.policy import LoadedPolicy
from actors.scoring.spec import ScoringSpec
from actors.training.loop import STOP
from actors.training.validation import METRIC, START, WEIGHTS, weights_after
from jobs.training_log import read_log
from minirec.config.scoring import RewardConfig
from minirec.config.training import TrainingConfig
from minirec.corpus.table import load_catalogue, load_samples
from minirec.model.passes import item_table
from minirec.model.recommender import Encoder, load_policy
from minirec.prior.prior import FILE, Prior, save_weights, weights_in
from minirec.store.files import atomic_dir

PARTS = [2.0, 1.5, 0.5]
SUPERVISED = TrainingConfig(
    loss="supervised", steps=8, checkpoint_steps=2, validation_steps=2, patience=3, **SMALL
)


def test_the_weights_after_a_step_are_those_of_its_validation():
    def entry(step, *values, prefix=""):
        return {"step": step, **{prefix + n: v for n, v in zip(WEIGHTS, values, strict=True)}}

    start = entry(0, 1.0, 2.0, 3.0, 4.0, prefix="start_")
    log = [start, entry(1, 5.0, 6.0, 7.0, 8.0), {"step": 2}, entry(3, 9.0, 10.0, 11.0, 12.0)]
    assert weights_after(log, START) == [1, 2, 3, 4]
    assert weights_after(log, 1) == [5, 6, 7, 8]
    assert weights_after(log, None) == [9, 10, 11, 12]
    assert weights_after([{"step": 0}], None) == weights_after([{"step": 0}], 0) == []


def prior_in(place):
    """A folder with weights of the prior, as the stage `prior` writes it."""
    if not (place / "prior").exists():
        with atomic_dir(place / "prior") as folder:
            save_weights(folder, PARTS, scale=2.0)
    return str(place / "prior")


def spec_in(place, settings=SUPERVISED, *, folder, **changes):
    spec = spec_of(place, settings, folder=str(folder), **changes)
    return replace(spec, prior=prior_in(place))


@pytest.fixture(scope="module", autouse=True)
def process():
    with one_process():
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with corpus, model and a finished training, `first`."""
    place = tmp_path_factory.mktemp("place")
    train(spec_in(place, folder=place / "first"))
    return place


def first(place):
    return spec_in(place, folder=place / "first")


def log_of(spec):
    return read_log(Path(spec.folder) / "log.jsonl")


def kept(log):
    """The first entry with the best validation."""
    return max((entry for entry in log if METRIC in entry), key=lambda entry: entry[METRIC])


@pytest.mark.slow
def test_the_adapter_has_the_weights_of_the_kept_step(place):
    scale, parts = weights_in(Path(first(place).folder) / "adapter")
    assert [scale, *parts] == [kept(log_of(first(place)))[name] for name in WEIGHTS]
    assert min(scale, *parts) >= 1e-3


@pytest.mark.slow
def test_the_logged_quality_is_that_of_the_saved_weights(place):
    """Scores of the kept adapter, written out: a0 cos / tau + sum of a_k part_k."""
    spec = first(place)
    adapter = Path(spec.folder) / "adapter"
    scale, parts = weights_in(adapter)
    corpus = Path(spec.corpus)
    catalogue, samples = load_catalogue(corpus), load_samples(corpus, "valid")
    assert len(samples) <= spec.training.validation_samples
    encoder = Encoder.load(spec.model_path, spec.model, category=catalogue.category)
    policy = load_policy(spec.model_path, spec.model, encoder.tokenizer, adapter=str(adapter))
    with torch.no_grad():
        table = item_table(policy, encoder.items(catalogue)).numpy()
        prompts = encoder.prompts(samples, catalogue)
        forced = [policy([encoder.sequence(prompt, FORCED)])[0] for prompt in prompts]
        hidden = torch.cat(forced).numpy()
    cosine = hidden / np.linalg.norm(hidden, axis=1, keepdims=True) @ table.T
    seen = np.stack([part.toarray() for part in Prior.of(corpus).sparse_parts(samples)])
    scores = scale * cosine / spec.model.temperature + np.tensordot(parts, seen, axes=1)
    gains = []
    for score, sample in zip(scores, samples, strict=True):
        out = {*sample.excluded} - {sample.target}
        rivals = [i for i in range(len(score)) if i not in out and i != sample.target]
        rank = 1 + sum(score[rivals] >= score[sample.target])
        gains.append(1 / np.log2(rank + 1) if rank <= 10 else 0)
    assert np.mean(gains) == pytest.approx(kept(log_of(spec))[METRIC], abs=1e-3)


@pytest.mark.slow
def test_an_interrupted_training_keeps_the_same_weights(place, tmp_path):
    cut = spec_in(place, folder=tmp_path / "cut")

    def stop():
        log = Path(cut.folder) / "log.jsonl"
        while not log.exists() or len(log.read_text().splitlines()) < 3:
            time.sleep(0.01)
        (log.parent / STOP).touch()

    watching = threading.Thread(target=stop)
    watching.start()
    assert 3 <= len(train(cut)) < 8
    watching.join()
    (Path(cut.folder) / STOP).unlink()
    train(cut)
    assert weights(cut) == weights(first(place))
    one, two = ((Path(s.folder) / "adapter" / FILE).read_bytes() for s in (cut, first(place)))
    assert one == two


@pytest.mark.slow
def test_without_a_validation_the_weights_in_use_are_kept(place, tmp_path):
    settings = SUPERVISED.model_copy(
        update={"steps": 1, "validation_steps": None, "patience": None}
    )
    spec = spec_in(place, settings, folder=tmp_path / "unmeasured", steps=1)
    assert not set(WEIGHTS) & set(train(spec)[0])
    assert weights_in(tmp_path / "unmeasured" / "adapter") == weights_in(spec.prior)
    measured = SUPERVISED.model_copy(update={"steps": 1})
    spec = spec_of(place, measured, folder=str(tmp_path / "alone"), steps=1)
    (entry,) = train(spec)
    assert METRIC in entry and not set(WEIGHTS) & set(entry)
    assert not (tmp_path / "alone" / "adapter" / FILE).exists()


@pytest.mark.slow
def test_a_start_that_stays_the_best_keeps_its_weights(place, tmp_path):
    """The adapter of the start is copied; its weights are fitted again on the same samples."""
    wild = SUPERVISED.model_copy(
        update={"patience": 1, "learning_rate": 1e-9, "lr_warmup_steps": 0, "steps": 2}
    )
    start = str(Path(first(place).folder) / "adapter")
    spec = spec_in(place, wild, folder=tmp_path / "wild", steps=2, start=start)
    (entry, *later) = train(spec)
    assert max(e.get(METRIC, 0) for e in (entry, *later)) <= entry["start_" + METRIC]
    assert weights(spec) == weights(first(place))
    scale, parts = weights_in(tmp_path / "wild" / "adapter")
    assert [scale, *parts] == [entry["start_" + name] for name in WEIGHTS]
    assert [scale, *parts] == pytest.approx([kept(log_of(first(place)))[n] for n in WEIGHTS])


@pytest.mark.slow
def test_the_scorer_divides_the_temperature_by_the_weight_of_the_policy(place, tmp_path):
    spec = first(place)
    adapter = str(Path(spec.folder) / "adapter")
    shutil.copy(Path(adapter) / FILE, tmp_path / FILE)
    scoring = ScoringSpec(
        corpus=spec.corpus,
        split="test",
        output=str(tmp_path / "out"),
        item_table=str(tmp_path / "table.npy"),
        model_path=spec.model_path,
        model=spec.model,
        reward=RewardConfig(),
        adapter=adapter,
        scoring=None,
        shard_size=8,
        prompts_per_call=8,
        seed=1,
        pool=None,
        policy_adapter=None,
        threads=1,
        prior=str(tmp_path),
    )
    scale, parts = weights_in(tmp_path)
    ranker = LoadedPolicy(scoring).ranker
    assert ranker.temperature == pytest.approx(spec.model.temperature / scale)
    samples = load_samples(Path(spec.corpus), "test")[:4]
    seen = Prior.of(Path(spec.corpus)).sparse_parts(samples)
    expected = sum(weight * part.toarray() for weight, part in zip(parts, seen, strict=True))
    assert ranker.targets(samples).prior.dense().numpy() == pytest.approx(expected, abs=1e-5)
    assert LoadedPolicy(replace(scoring, prior=None)).ranker.temperature == spec.model.temperature
