"""What engines write after the first rollouts of a step: continuations, and remaining rollouts."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
from helpers.loop import SMALL, one_process, own_engine, spec_of, train, weights
from helpers.two_workers import train_by_two

from actors.pool.saved import Replay
from actors.training.loop import Worker
from jobs.training_log import read_log
from minirec.config.training import TrainingConfig
from minirec.model.tokens import read
from minirec.rl.group import Group, filled
from minirec.rl.rollouts import rewards_of
from minirec.rng import seed_of

pytestmark = pytest.mark.slow
GRPO = TrainingConfig(rollouts_per_prompt=4, steps=4, checkpoint_steps=2, **SMALL)
VINE = {"credit": "vine", "credit_chunks": 3, "credit_completions": 2}
FIRST = {"rollouts_first": 2}
FIGURES = ("reward", "token_loss", "item_loss", "grad_norm", "dead_groups")
VARY = {"peak_memory_mib", "seconds", "rollout_seconds", "wait_seconds", "idle_seconds"}
LONGEST = 6


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with one_process():
        place = tmp_path_factory.mktemp("place")
        spec_of(place, GRPO)
        yield place


class Noting:
    """An engine that keeps its calls and answers."""

    def __init__(self, engine):
        self.engine, self.seen = engine, []

    def generate(self, calls, *, adapter=None):
        answers = self.engine.generate(calls, adapter=adapter)
        self.seen.append((calls, answers))
        return answers

    def __len__(self):
        return 1


def spec(place, folder, **settings):
    training = TrainingConfig.model_validate(GRPO.model_dump() | settings)
    whole = spec_of(place, training, folder=str(folder), steps=4, longest=LONGEST)
    return replace(whole, pool=own_engine(whole.model_path))


def entries(spec):
    log = read_log(Path(spec.folder) / "log.jsonl")
    return [{k: v for k, v in entry.items() if k not in VARY} for entry in log]


def drawn(place, folder, **settings):
    """A worker after its first step, and the requests to its engine."""
    own = spec(place, folder, **settings)
    engine = Noting(own.pool)
    worker = Worker(replace(own, pool=engine))
    worker.step(0)
    return worker, engine.seen


def figures(log):
    return [[entry[name] for name in FIGURES] for entry in log]


def test_the_values_are_means_over_fresh_completions(place, tmp_path):
    """Cut and draw again here, from the tokens that the engine wrote."""
    own = spec(place, tmp_path / "v", **VINE)
    worker = Worker(own)
    table = worker.item_side.refresh(0)
    groups, _ = worker.drawing.groups(0, table)
    answer = len(worker.encoder.answer_ids)
    for number, group in enumerate(groups):
        sample = worker.samples[group.sample_id]
        first = {}
        for rollout, completion in enumerate(group.completions):
            text = len(completion) - answer
            for chunk in (1, 2):
                cut = completion[: text * chunk // 3]
                key = first.setdefault(tuple(cut), (rollout, chunk))
                # The engine alone decides on its limit: draw without one, and cut its answer.
                seed = seed_of(own.seed, "vine", number, *key)
                (wide,) = own.pool.engine.generate([group.prompt + cut], n=2, seeds=[seed])
                most = LONGEST - len(cut)
                short = [
                    worker.encoder.finish(
                        one.token_ids[:most], stopped=one.stopped and len(one.token_ids) <= most
                    )
                    for one in wide
                ]
                part = replace(group, prompt=group.prompt + cut, completions=short)
                earned = rewards_of(worker.engine, [part], table=table, objective=worker.objective)
                expected = fmean(earned[0].tolist())
                assert group.inner[rollout][chunk - 1] == pytest.approx(expected, abs=1e-5)
        assert sample.target == group.target
    assert any(value for group in groups for row in group.inner for value in row)


def test_a_continuation_ends_where_its_rollout_had_to(place, tmp_path):
    worker, seen = drawn(place, tmp_path / "v", **VINE)
    (calls, answers), (more, continued) = seen
    asked = [prompt for call in more for prompt in call.prompts]
    limits = [limit for call in more for limit in call.limits]
    seeds = [seed for call in more for seed in call.seeds]
    found = [group for answer in continued for group in answer]
    own = {tuple(prompt): prompt for call in calls for prompt in call.prompts}
    for prompt, limit, group in zip(asked, limits, found, strict=True):
        written = next(len(prompt) - len(p) for p in own if tuple(prompt[: len(p)]) == p)
        assert limit == LONGEST - written
        assert len(group) == 2 and all(1 <= len(one.token_ids) <= limit for one in group)
    # Each place of a prompt is asked once, with a seed of its own.
    assert len(seeds) == len(set(seeds)) and max(Counter(map(tuple, asked)).values()) == 1
    (entry,) = worker.log.entries
    tokens = [len(c.token_ids) for part in (answers, continued) for a in part for g in a for c in g]
    assert entry["rollouts"] == len(tokens) == 8 * 4 + 2 * len(asked)
    assert entry["tokens"] == sum(tokens)
    # Engines read each text once and write its completions; a pass reads all, with their markers.
    cost = 0
    for prompt, group in zip(asked, found, strict=True):
        finish = worker.encoder.finish
        whole = [finish(one.token_ids, stopped=one.stopped) for one in group]
        read_again = read(Group(prompt, whole, [], [], 0), worker.drawing.further.sharing)
        cost += len(prompt) + sum(len(one.token_ids) for one in group) + read_again
    assert worker.drawing.written.forward_tokens == cost
    _, plain = drawn(place, tmp_path / "p")
    assert plain[0][1] == answers  # the rollouts themselves are those of any training


@pytest.mark.parametrize("changes", [VINE, FIRST])
def test_each_does_not_depend_on_micro_batches_or_workers(place, tmp_path, changes):
    one, many = (
        spec(place, tmp_path / str(size), prompts_per_micro_batch=size, **changes)
        for size in (4, 1)
    )
    log = train(one)
    # Rollouts after the first update may differ by rounding, so only the first step is compared.
    assert figures(train(many))[0] == pytest.approx(figures(log)[0], rel=2e-3, abs=1e-5)
    two = replace(one, folder=str(tmp_path / "two"))
    train_by_two(two, tmp_path / "meeting")
    shared = read_log(Path(two.folder) / "log.jsonl")
    assert figures(shared)[0] == pytest.approx(figures(log)[0], rel=2e-3, abs=1e-5)
    for name in ("rollouts", "tokens", "forward_tokens"):
        assert shared[0][name] == log[0][name]


@pytest.mark.parametrize("changes", [VINE, FIRST, FIRST | {"replays": 2}])
def test_an_interrupted_training_ends_with_the_same_bytes(place, tmp_path, changes):
    whole = spec(place, tmp_path / "whole", **changes)
    train(whole)
    cut = replace(whole, folder=str(tmp_path / "cut"))
    begun = Worker(cut)
    for step in range(2):
        begun.step(step)
    begun.checkpoint(2)
    train(cut)
    assert weights(cut) == weights(whole)
    assert entries(cut) == entries(whole)


@pytest.mark.parametrize("changes", [VINE, FIRST])
def test_saved_rollouts_repeat_the_training(place, tmp_path, changes):
    own = replace(spec(place, tmp_path / "own", **changes), saves_rollouts=True)
    train(own)
    again = replace(
        own,
        folder=str(tmp_path / "again"),
        saves_rollouts=False,
        pool=Replay(str(tmp_path / "own" / "rollouts")),
    )
    train(again)
    assert weights(again) == weights(own)


def test_neutral_values_leave_the_bytes(place, tmp_path):
    plain, neutral = spec(place, tmp_path / "p"), spec(place, tmp_path / "n", credit_completions=9)
    train(plain), train(neutral)
    assert weights(plain) == weights(neutral)
    assert entries(plain) == entries(neutral)


def test_live_groups_have_the_rollouts_that_they_would_have_at_once(place, tmp_path):
    _, at_once = drawn(place, tmp_path / "a", live_tokens=True)
    worker, _ = drawn(place, tmp_path / "f", live_tokens=True, **FIRST)
    whole = [group for answer in at_once[0][1] for group in answer]
    written = 0
    for group, found in zip(worker.drawing.kept, whole, strict=True):
        tokens = [one.token_ids for one in found]
        own = [c[:w] for c, w in zip(group.completions, group.written, strict=True)]
        assert len(group.completions) == 4
        if 0 in group.written:
            assert own == [*tokens[:2], [], []]
            assert group.completions[2:] == group.completions[:2]
            assert group.rollout_logprobs[2:] == [[], []]
        else:
            assert own == tokens
        written += sum(w > 0 for w in group.written)
    (entry,) = worker.log.entries
    assert 8 * 2 < written < 8 * 4  # some groups of each kind
    assert entry["rollouts"] == written
    assert entry["tokens"] == sum(sum(group.written) for group in worker.drawing.kept)


def written(worker):
    """The groups of the first step."""
    return worker.drawing.groups(0, worker.item_side.refresh(0))[0]


def test_the_gradient_is_that_of_the_groups_that_stay_alive(place, tmp_path):
    """The same rollouts, in one step at once, with groups filled where the first two are equal."""
    own = spec(place, tmp_path / "f", live_tokens=True, **FIRST)
    worker, control = Worker(own), Worker(spec(place, tmp_path / "c", live_tokens=True))
    dead = [0 in group.written for group in written(worker)]
    assert any(dead) and not all(dead)
    whole = written(control)

    def first_two(group):
        short = {
            name: getattr(group, name)[:2]
            for name in ("completions", "written", "rollout_logprobs")
        }
        return filled(replace(group, **short), 4)

    kept = [first_two(g) if none else g for g, none in zip(whole, dead, strict=True)]
    control.drawing.groups = lambda step, table: (kept, {})
    worker.step(0), control.step(0)
    a, b = worker.log.entries[0], control.log.entries[0]
    for name in ("token_loss", "item_loss", "grad_norm"):
        assert a[name] == pytest.approx(b[name], rel=1e-4, abs=1e-7)
