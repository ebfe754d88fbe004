"""Which samples the scoring policy has seen."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from jobs.stages.proxy import proxy_order
from jobs.stages.score import seen_samples
from jobs.stages.warm import warm_order
from minirec.config.reading import load
from minirec.corpus import schema
from minirec.selection.from_run import apart
from minirec.store.run import Run
from minirec.store.tables import write_table

TWENTY = [3 * number for number in range(20)]


@pytest.fixture
def run(tmp_path):
    empty = {name: [None] * 20 for name in schema.SAMPLES.names} | {"sample_id": TWENTY}
    run = Run(tmp_path)
    write_table(run.path("corpus", "train.parquet"), pa.table(empty, schema=schema.SAMPLES))
    return run


def configured(*words):
    """Four prompts a step."""
    four = [
        f"{stage}.training.{name}=4"
        for stage in ("proxy", "warm")
        for name in ("prompts_per_step", "prompts_per_micro_batch")
    ]
    return load(None, [*four, "proxy.samples=10", *words])


def log(run, policy, *gains):
    """A training log with a step for each validation; None: a step without validation."""
    entries = [
        {"step": step} | ({} if gain is None else {"valid_ndcg@10": gain})
        for step, gain in enumerate(gains)
    ]
    run.path(policy).mkdir(exist_ok=True)
    run.path(policy, "log.jsonl").write_text("".join(json.dumps(e) + "\n" for e in entries))


def test_a_proxy_has_seen_the_steps_that_it_was_trained(run):
    config = configured("proxy.training.start=base")
    log(run, "proxy", None, None)
    order = proxy_order(run, config)
    assert len(order) == 10 and seen_samples(run, config, "proxy") == {*order[:8]}
    log(run, "proxy", None, None, None)  # the third step begins again
    assert seen_samples(run, config, "proxy") == {*order}
    twice = ["proxy.training.replays=2", "proxy.training.checkpoint_steps=2"]
    config = configured("proxy.training.start=base", *twice)
    log(run, "proxy", None, None)  # both steps train the same four prompts
    assert seen_samples(run, config, "proxy") == {*order[:4]}


def test_it_has_also_seen_what_the_warm_start_has(run):
    config = configured("proxy.training.start=warm", "warm.training.patience=null")
    log(run, "proxy", None)
    log(run, "warm", None, None)
    warm = {*warm_order(run, config)[:8]}
    assert seen_samples(run, config, "warm") == warm
    assert seen_samples(run, config, "proxy") == {*proxy_order(run, config)[:4]} | warm


@pytest.mark.parametrize(("gains", "steps"), [((0.1, 0.3, 0.2), 2), ((0.3, 0.1, 0.2), 1)])
def test_steps_after_the_kept_weights_do_not_count(run, gains, steps):
    config = configured("warm.training.patience=2", "warm.training.validation_steps=1")
    log(run, "warm", *gains)
    assert seen_samples(run, config, "warm") == {*warm_order(run, config)[: 4 * steps]}


def test_a_live_warm_start_has_seen_what_it_chose(run):
    config = configured("warm.live=true", "warm.training.patience=2")
    log(run, "warm", 0.1, 0.3, 0.2)
    columns = {name: [0.5] * 6 for name in schema.CHOICES.names}
    columns |= {"step": [0, 0, 1, 1, 2, 2], "sample_id": [0, 3, 3, 6, 9, 12]}
    columns["reason"] = ["in band"] * 6
    write_table(run.path("warm", "choices.parquet"), pa.table(columns, schema=schema.CHOICES))
    assert seen_samples(run, config, "warm") == {0, 3, 6}


def test_the_learnability_of_both_kinds_is_said_apart(run):
    def features(*seen):
        empty = {name: [None] * len(seen) for name in schema.features(2).names}
        columns = empty | {"sample_id": range(len(seen)), "in_sample": seen}
        write_table(
            run.path("features", "part-000000.parquet"),
            pa.table(columns, schema=schema.features(2)),
        )
        return apart(run, dict(enumerate(np.array([0.5, 0.1, 0.3, 0.9])[: len(seen)].tolist())))

    assert features(True, False, False, True) == (
        "the scoring policy was trained on 2 of the scored samples; mean learnability 0.700 of "
        "these, 0.200 of the 2 others"
    )
    assert features(False, False) == features(True, True) == ""
