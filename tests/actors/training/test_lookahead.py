"""When the rollouts of a step are requested, with which adapter, and what a failure does."""

from __future__ import annotations

import threading

import pytest

from actors.engines.engine import Adapter, Completion
from actors.pool.actor import Call
from actors.training.lookahead import Lookahead
from minirec.errors import EngineError

DEADLINE = 10.0


class Engines:
    """Answers each call with its own seed, and records requests.

    Request i sets `begun[i]` when it arrives, and is answered after `may_end[i]` is set.
    """

    def __init__(self, requests: int, *, fails_at: int | None = None):
        self.asked: list[tuple[int, Adapter | None]] = []
        self.begun = [threading.Event() for _ in range(requests)]
        self.may_end = [threading.Event() for _ in range(requests)]
        self.fails_at = fails_at
        self.at_work = threading.Lock()

    def generate(self, calls, adapter=None):
        assert self.at_work.acquire(blocking=False), "two requests at once"
        number = len(self.asked)
        self.asked.append((calls[0].seeds[0], adapter))
        self.begun[number].set()
        in_time = self.may_end[number].wait(DEADLINE)
        self.at_work.release()
        assert in_time, f"request {number} was never allowed to end"
        if number == self.fails_at:
            raise EngineError("engine 1 of 1 died") from RuntimeError("out of memory")
        return [[[Completion("", [seed], [0.0], stopped=True)] for seed in c.seeds] for c in calls]

    def let_all_end(self):
        for event in self.may_end:
            event.set()
        return self


def calls(step):
    """Two calls of two prompts; prompt and seed are the position in the curriculum."""
    first = range(4 * step, 4 * step + 4)
    return [Call([[p] for p in part], 1, list(part)) for part in (first[:2], first[2:])]


def version(number):
    return Adapter(f"v{number}") if number else None


def run(engines, *, steps, staleness, start=0):
    """The prompts and tokens of every step from `start`."""
    lookahead = Lookahead(engines, calls, steps=steps, staleness=staleness)
    taken = []
    for step in range(start, steps):
        drawn = lookahead.take(step, newest=version(step), behind=version(max(0, step - 1)))
        assert min(drawn.rollout_seconds, drawn.wait_seconds, drawn.idle_seconds) >= 0
        taken.append([(prompt, one.token_ids) for prompt, (one,) in drawn.rollouts])
    return taken


@pytest.mark.parametrize("staleness", [0, 1])
def test_each_step_gets_its_own_rollouts_in_order(staleness):
    taken = run(Engines(5).let_all_end(), steps=5, staleness=staleness)
    assert taken == [[([p], [p]) for p in range(4 * s, 4 * s + 4)] for s in range(5)]


@pytest.mark.parametrize("start", [0, 3])
def test_adapters_are_the_newest_or_one_update_old(start):
    """An attempt that starts at step 3 uses the same adapters as one that starts at step 0."""
    fresh, old = Engines(6).let_all_end(), Engines(6).let_all_end()
    run(fresh, steps=6, staleness=0, start=start)
    run(old, steps=6, staleness=1, start=start)
    assert fresh.asked == [(4 * s, version(s)) for s in range(start, 6)]
    assert old.asked == [(4 * s, version(max(0, s - 1))) for s in range(start, 6)]


def test_the_next_request_runs_while_a_step_trains():
    engines = Engines(2)
    lookahead = Lookahead(engines, calls, steps=2, staleness=1)
    engines.may_end[0].set()
    lookahead.take(0, newest=None, behind=None)
    # Step 0 would train here, while the request of step 1 runs.
    assert engines.begun[1].wait(DEADLINE)
    engines.may_end[1].set()
    drawn = lookahead.take(1, newest=version(1), behind=None)
    assert [prompt for prompt, _ in drawn.rollouts] == [[4], [5], [6], [7]]


def test_without_staleness_nothing_is_requested_ahead():
    engines = Engines(2).let_all_end()
    lookahead = Lookahead(engines, calls, steps=2, staleness=0)
    lookahead.take(0, newest=None, behind=None)
    assert not engines.begun[1].wait(0.2)


def test_a_failure_in_the_background_is_raised_by_take():
    engines = Engines(3, fails_at=1).let_all_end()
    lookahead = Lookahead(engines, calls, steps=3, staleness=1)
    lookahead.take(0, newest=None, behind=None)
    with pytest.raises(EngineError, match="engine 1 of 1 died") as raised:
        lookahead.take(1, newest=version(1), behind=None)
    assert str(raised.value.__cause__) == "out of memory"


def test_seconds_tell_which_side_waited():
    """First the engines wait 0.2 s for the trainer, then the trainer 0.2 s for the engines."""
    engines = Engines(3)
    lookahead = Lookahead(engines, calls, steps=3, staleness=1)
    engines.may_end[0].set()
    lookahead.take(0, newest=None, behind=None)
    engines.may_end[1].set()
    threading.Event().wait(0.2)
    first = lookahead.take(1, newest=version(1), behind=None)
    threading.Timer(0.2, engines.may_end[2].set).start()
    second = lookahead.take(2, newest=version(2), behind=version(1))
    assert first.wait_seconds < 0.1 and second.wait_seconds >= 0.15
    assert second.idle_seconds >= 0.15 and second.rollout_seconds >= 0.15
