"""Rollouts in files, and a training that reads them instead of starting engines."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.loop import SMALL, one_process, own_engine, spec_of, train, weights
from hypothesis import given
from hypothesis import strategies as st

from actors.engines.engine import Completion
from actors.pool.actor import Call
from actors.pool.saved import Replay, save
from jobs.stages.train import TRAIN
from minirec.config.reading import load
from minirec.config.training import TrainingConfig
from minirec.errors import ConfigError
from minirec.store.run import Run

GRPO = TrainingConfig(rollouts_per_prompt=2, steps=4, checkpoint_steps=2, **SMALL)
COMPLETIONS = st.builds(
    lambda text, tokens, stopped: Completion(
        text, [t for t, _ in tokens], [p for _, p in tokens], stopped=stopped
    ),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.lists(st.tuples(st.integers(0, 10**6), st.floats(-50, 0)), max_size=4),
    st.booleans(),
)


@given(st.lists(st.tuples(COMPLETIONS, COMPLETIONS), min_size=1, max_size=5), st.integers(1, 5))
def test_what_is_saved_is_read_again_in_calls_of_any_size(tmp_path_factory, groups, size):
    folder = tmp_path_factory.mktemp("rollouts")
    prompts, seeds = (
        [[i, i + 1] for i in range(len(groups))],
        [2**61 + i for i in range(len(groups))],
    )
    save(folder, 7, [Call(prompts, 2, seeds)], [[[*group] for group in groups]])
    assert [path.name for path in folder.iterdir()] == ["step-000007.parquet"]
    parts = [slice(i, i + size) for i in range(0, len(groups), size)]
    asked = [Call(prompts[p], 2, seeds[p]) for p in parts]
    replay = pickle.loads(pickle.dumps(Replay(str(folder))))
    answers = replay.generate(asked)
    assert [group for answer in answers for group in answer] == [[*group] for group in groups]


def one_group(folder, text="a"):
    group = [Completion(text, [1], [-0.5], stopped=True) for _ in range(2)]
    save(folder, 0, [Call([[3, 4]], 2, [11])], [[group]])


@pytest.mark.parametrize(
    "call", [Call([[3, 5]], 2, [11]), Call([[3, 4]], 2, [12]), Call([[3, 4]], 3, [11])]
)
def test_rollouts_of_another_training_are_refused(tmp_path, call):
    one_group(tmp_path)
    with pytest.raises(ConfigError, match="has . of . rollouts of a prompt of this training"):
        Replay(str(tmp_path)).generate([call])


def test_the_fingerprint_covers_the_saved_rollouts(tmp_path):
    words = ["training.validation_steps=null", "training.patience=null"]
    config = load(overrides=[*words, f"rollout.replay={tmp_path}"])
    run = Run(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"rollout.replay .* has no step-\*.parquet"):
        TRAIN.settings(run, config)
    one_group(tmp_path)
    first = TRAIN.settings(run, config)
    assert TRAIN.settings(run, config) == first
    one_group(tmp_path, text="b")
    other = TRAIN.settings(run, config)
    assert {key for key in first if first[key] != other[key]} == {"replay"}
    assert TRAIN.settings(run, load(overrides=words)) == {
        key: value for key, value in first.items() if key != "replay"
    }


def test_validations_need_engines():
    with pytest.raises(ConfigError, match="rollout.replay starts no engines, but validations"):
        load(overrides=["rollout.replay=x", "training.validation_steps=2"])


@pytest.mark.slow
@pytest.mark.parametrize("staleness", [0, 1])
def test_a_replayed_training_gives_the_same_bytes(tmp_path, staleness):
    with one_process():
        training = GRPO.model_copy(update={"staleness": staleness})
        plain = spec_of(tmp_path, training, steps=4)
        plain = replace(plain, pool=own_engine(plain.model_path), saves_rollouts=True)
        log = train(plain)
        saved = Path(plain.folder) / "rollouts"
        assert sorted(path.name for path in saved.iterdir()) == [
            f"step-{step:06d}.parquet" for step in range(4)
        ]
        other = replace(
            plain,
            folder=str(tmp_path / "replayed"),
            pool=Replay(str(saved)),
            prompts_per_call=3,
            saves_rollouts=False,
        )
        replayed = train(other)
    assert weights(other) == weights(plain)
    assert [e["reward"] for e in replayed] == [e["reward"] for e in log]
    assert not (tmp_path / "replayed" / "rollouts").exists()


@pytest.mark.slow
def test_without_updates_rollouts_are_written_and_rewarded_and_the_weights_stay(tmp_path):
    with one_process():
        only = GRPO.model_copy(update={"update": False})
        spec = spec_of(tmp_path, only, steps=4, folder=str(tmp_path / "only"), saves_rollouts=True)
        spec = replace(spec, pool=own_engine(spec.model_path))
        log = train(spec)
        again = replace(spec, folder=str(tmp_path / "one"), steps=1)
        train(again)
    assert weights(spec) == weights(again)
    assert len(list((tmp_path / "only" / "rollouts").iterdir())) == 4
    assert all(0 < entry["reward"] < 1 and entry["grad_norm"] == 0 for entry in log)
    assert not (tmp_path / "only" / "adapters").exists()


def test_supervision_without_updates_is_refused():
    with pytest.raises(ConfigError, match="update false only writes rollouts"):
        load(overrides=["training.loss=supervised", "training.update=false"])
