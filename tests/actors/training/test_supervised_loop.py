"""Training without rollouts, in one process: with the loop of a training worker, without Ray."""

from __future__ import annotations

import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.loop import SMALL, one_process, spec_of, train, weights
from safetensors.torch import load

from actors.training.loop import STOP
from actors.training.validation import METRIC, VALUE
from jobs.training_log import read_log
from minirec.config.scoring import RewardConfig
from minirec.config.training import TrainingConfig
from minirec.store.files import read_json, write_json
from minirec.store.tables import read_table, write_table

pytestmark = pytest.mark.slow

SUPERVISED = TrainingConfig(
    loss="supervised", steps=8, checkpoint_steps=2, validation_steps=4, **SMALL
)


@pytest.fixture(scope="module", autouse=True)
def process():
    with one_process():
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with corpus, model and a finished training, `first`."""
    place = tmp_path_factory.mktemp("place")
    train(spec_of(place, SUPERVISED, folder=str(place / "first")))
    return place


def first(place):
    return spec_of(place, SUPERVISED, folder=str(place / "first"))


def log_of(spec):
    return read_log(Path(spec.folder) / "log.jsonl")


def test_it_learns_without_engines_and_publishes_no_adapter(place):
    spec = first(place)
    log = log_of(spec)
    assert [entry["step"] for entry in log] == list(range(8))
    for entry in log:
        assert (entry["rollouts"], entry["tokens"]) == (0, 0)
        assert entry["loss"] == entry["item_loss"] > 0
        assert not {"reward", "token_loss", "wait_seconds"} & set(entry)
    assert [METRIC in entry for entry in log] == [False, False, False, True] * 2
    assert (log[3]["validation_rollouts"], log[3]["validation_tokens"]) == (0, 0)
    assert not (Path(spec.folder) / "adapters").exists()
    changed = load(weights(spec))
    assert any(value.abs().max() > 1e-3 for name, value in changed.items() if "lora_B" in name)


@pytest.mark.parametrize("negatives", [0, 5, None])
def test_micro_batches_change_only_rounding(place, negatives):
    found = []
    for size in (8, 2):
        settings = SUPERVISED.model_copy(
            update={"steps": 1, "prompts_per_micro_batch": size, "item_negatives": negatives}
        )
        found.append(train(spec_of(place, settings, steps=1, folder=str(place / f"m{size}"))))
        shutil.rmtree(place / f"m{size}")
    (one,), (two,) = found
    for name in ("item_loss", "grad_norm", METRIC):
        assert one[name] == pytest.approx(two[name], rel=1e-4)


def test_sharding_the_optimizer_changes_only_rounding(place):
    """All items take four backwards of eight."""
    settings = SUPERVISED.model_copy(update={"steps": 1, "item_negatives": None})
    norms = []
    for zero in (0, 2):
        spec = spec_of(place, settings, steps=1, folder=str(place / "z"), zero_stage=zero)
        norms.append(train(spec)[0]["grad_norm"])
        shutil.rmtree(place / "z")
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)


def test_all_items_as_candidates_are_harder_than_the_targets_alone(place):
    losses = []
    for negatives in (0, 10, None):
        settings = SUPERVISED.model_copy(update={"steps": 1, "item_negatives": negatives})
        losses.append(train(spec_of(place, settings, steps=1, folder=str(place / "h"))))
        shutil.rmtree(place / "h")
    assert losses[0][0]["item_loss"] < losses[1][0]["item_loss"] < losses[2][0]["item_loss"]


@pytest.mark.parametrize("stage", [0, 2])  # 3 replaces functions of torch in this process
def test_an_interrupted_training_ends_with_the_same_bytes(place, tmp_path, stage):
    settings = SUPERVISED.model_copy(update={"patience": 3, "item_negatives": 5})
    whole = spec_of(place, settings, folder=str(tmp_path / "whole"), zero_stage=stage)
    train(whole)
    cut = replace(whole, folder=str(tmp_path / "cut"))

    def stop():
        log = Path(cut.folder) / "log.jsonl"
        while not log.exists() or len(log.read_text().splitlines()) < 5:
            time.sleep(0.01)
        (log.parent / STOP).touch()

    watching = threading.Thread(target=stop)
    watching.start()
    assert 5 <= len(train(cut)) < 8
    watching.join()
    assert not (Path(cut.folder) / "adapter").exists()
    (Path(cut.folder) / STOP).unlink()
    train(cut)
    assert weights(cut) == weights(whole)
    times = ("seconds", "validation_seconds", "peak_memory_mib")
    one, two = (
        [{k: v for k, v in entry.items() if k not in times} for entry in log_of(spec)]
        for spec in (whole, cut)
    )
    assert one == two


def test_the_start_is_kept_where_training_makes_it_worse(place, tmp_path):
    start = str(Path(first(place).folder) / "adapter")
    wild = SUPERVISED.model_copy(
        update={"validation_steps": 2, "patience": 2, "learning_rate": 3.0, "lr_warmup_steps": 0}
    )
    spec = spec_of(place, wild, folder=str(tmp_path / "wild"), start=start)
    log = train(spec)
    assert "start_" + METRIC in log[0] and not any("start_" + METRIC in e for e in log[1:])
    # The start is what the first training was at its end.
    assert log[0]["start_" + METRIC] == pytest.approx(log_of(first(place))[-1][METRIC], abs=1e-6)
    assert max(e[METRIC] for e in log if METRIC in e) <= log[0]["start_" + METRIC]
    assert len(log) == 4  # two validations without an improvement
    assert weights(spec) == weights(first(place))


def test_a_training_that_improves_its_start_keeps_its_own_weights(place, tmp_path):
    start = str(Path(first(place).folder) / "adapter")
    better = SUPERVISED.model_copy(update={"patience": 9, "steps": 16})
    spec = spec_of(place, better, folder=str(tmp_path / "better"), start=start, steps=16)
    log = train(spec)
    assert max(e[METRIC] for e in log if METRIC in e) > log[0]["start_" + METRIC]
    assert weights(spec) != weights(first(place))


def test_without_validation_the_last_weights_are_kept(place, tmp_path):
    start = str(Path(first(place).folder) / "adapter")
    still = SUPERVISED.model_copy(
        update={"validation_steps": None, "learning_rate": 1e-9, "steps": 1}
    )
    spec = spec_of(place, still, folder=str(tmp_path / "still"), start=start, steps=1)
    assert not any("valid" in name for name in train(spec)[0])
    before, after = load(weights(first(place))), load(weights(spec))
    assert all(torch.allclose(after[name], before[name], atol=1e-6) for name in before)


@pytest.mark.parametrize("factor", [1, 2])
def test_the_factor_of_the_targets_is_in_loss_gradient_and_value(place, tmp_path, factor):
    corpus = tmp_path / "corpus"
    shutil.copytree(place / "corpus", corpus)
    items = read_table(corpus / "items.parquet")
    write_table(
        corpus / "items.parquet", items.append_column("price", [[3.0 * factor] * len(items)])
    )
    facts = {"item_weight": {"column": "price", "mean": 3.0}}
    write_json(corpus / "corpus.json", read_json(corpus / "corpus.json") | facts)

    settings = SUPERVISED.model_copy(update={"steps": 1, "validation_steps": 1})
    spec = spec_of(place, settings, steps=1, folder=str(tmp_path / "plain"))
    weights = RewardConfig(item_weight="price")
    (plain,) = train(spec)
    weighted = replace(spec, corpus=str(corpus), reward=weights, folder=str(tmp_path / "weighted"))
    (found,) = train(weighted)
    assert VALUE not in plain
    for name in ("item_loss", "grad_norm"):
        assert found[name] == pytest.approx(factor * plain[name], rel=1e-5)
    assert found[METRIC] == plain[METRIC] > 0  # Adam does not see the length of a gradient
    assert found[VALUE] == pytest.approx(factor * found[METRIC])
