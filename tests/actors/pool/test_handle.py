"""Which engine gets which call when engines start, leave, hang or join; Ray is simulated."""

from types import SimpleNamespace

import pytest
from ray.exceptions import RayActorError

from actors.engines.engine import CPU_PROMPTS
from actors.pool.actor import Call, calls_of
from actors.pool.handle import PoolHandle
from minirec.errors import EngineError

CALLS = [Call([[i]], n=1, seeds=[i]) for i in range(4)]


class Ref:
    def __init__(self, ready, value):
        self.ready, self.value = ready, value


class Engine:
    """Answers a call after `seconds`; it starts at time `born` and dies at time `dies`."""

    def __init__(self, world, *, born=0.0, seconds=1.0, dies=None, busy=False):
        self.world, self.born, self.seconds, self.dies, self.busy = world, born, seconds, dies, busy
        self.calls, self.key = [], None
        self.reason = "The actor died unexpectedly before finishing this task."
        self.status = SimpleNamespace(remote=lambda: self.answer(0.0, {"call": busy or None}))
        self.generate = SimpleNamespace(remote=self._generate)

    def _generate(self, key, call, adapter):
        self.calls.append(call.seeds[0])
        self.key = key
        return self.answer(self.seconds, call.prompts[0][0])

    def answer(self, seconds, value):
        ready = max(self.world.time, self.born) + seconds
        if self.dies is not None and ready > self.dies:
            ready, value = max(self.dies, self.world.time), RayActorError(error_msg=self.reason)
        return Ref(ready, value)

    def alive(self):
        return self.world.time >= self.born


class World:
    """Replaces Ray and the clock, which advances while the code waits."""

    def __init__(self):
        self.time, self.engines, self.killed = 0.0, {}, []

    def now(self):
        return self.time

    def sleep(self, seconds):
        self.time += seconds

    def wait(self, refs, *, num_returns=1, timeout=None):
        if not any(ref.ready <= self.time for ref in refs):
            self.time = min(self.time + timeout, min(ref.ready for ref in refs))
        done = [ref for ref in refs if ref.ready <= self.time]
        return done[:num_returns], []

    def get(self, ref, timeout=None):
        if isinstance(ref.value, Exception):
            raise ref.value
        return ref.value

    def alive(self, engine):
        return engine.alive()

    def restart(self, engine):
        self.killed.append(engine)

    def names(self):
        return [n for n, e in self.engines.items() if e.dies is None or e.dies > self.time]

    def find(self, name):
        if name not in self.engines:
            raise ValueError(name)
        return self.engines[name]

    def resources(self):
        return "CPU: 0 free of 1"


@pytest.fixture
def world():
    return World()


def handle(world, there, *, elastic=True, least=1, start_deadline_s=50):
    world.engines = {f"p-{i}": engine for i, engine in enumerate(there)}
    return PoolHandle(
        dict(world.engines),
        prefix="p-",
        name="test",
        least=least,
        elastic=elastic,
        deadline_s=100,
        start_deadline_s=start_deadline_s,
        max_restarts=2,
        link=world,
    )


def test_an_engine_that_starts_late_gets_the_remaining_calls(world):
    early, late = Engine(world), Engine(world, born=2.5)
    assert handle(world, [early, late]).generate(CALLS) == [0, 1, 2, 3]
    assert (early.calls, late.calls) == ([0, 1, 2], [3])


@pytest.mark.parametrize("size", [CPU_PROMPTS, None])
def test_two_engines_share_a_step_by_default(world, size):
    step = calls_of([[i] for i in range(32)], n=4, seeds=range(32), size=size, engines=2)
    both = Engine(world), Engine(world)
    assert handle(world, both).generate(step) == [call.prompts[0][0] for call in step]
    assert len(both[0].calls) == len(both[1].calls) == len(step) / 2


def test_idle_engines_come_before_busy_ones(world):
    busy, idle = Engine(world, busy=True), Engine(world)
    handle(world, [busy, idle]).generate(CALLS[:1])
    assert (busy.calls, idle.calls) == ([], [0])


def test_an_engine_that_joins_is_used(world):
    first, second = Engine(world, seconds=10), Engine(world, born=15)
    pool = handle(world, [first])
    world.engines["p-1"] = second
    assert pool.generate(CALLS) == [0, 1, 2, 3]
    assert second.calls and len(pool) == 2


@pytest.mark.parametrize("elastic", [True, False])
def test_the_call_of_a_lost_engine_goes_to_another(world, elastic):
    stays, leaves = Engine(world, seconds=3), Engine(world, seconds=5, dies=4)
    pool = handle(world, [stays, leaves], elastic=elastic)
    if not elastic:
        with pytest.raises(EngineError, match=r"engine 2 of 2 \(test\) died at a generate call"):
            pool.generate(CALLS)
        return
    assert pool.generate(CALLS) == [0, 1, 2, 3]
    assert len(leaves.calls) == 1 and sorted(stays.calls) == [0, 1, 2, 3]


def test_the_call_of_a_restarting_engine_goes_to_another(world):
    stays, away = Engine(world, seconds=1), Engine(world, seconds=1000)
    away.alive = lambda: False
    assert handle(world, [stays, away]).generate(CALLS) == [0, 1, 2, 3]
    assert world.time < 20 and not world.killed


def test_a_call_is_retried_at_most_max_restarts_times(world):
    engines = [Engine(world, dies=0) for _ in range(5)]
    with pytest.raises(EngineError, match="died at a generate call"):
        handle(world, engines).generate(CALLS[:1])
    assert sum(len(engine.calls) for engine in engines) == 3


def test_an_engine_that_died_by_itself_is_reported_soon(world):
    """The pool does not replace it: another one would die the same way."""
    pool = handle(world, [Engine(world, seconds=1, dies=1.5)], start_deadline_s=300)
    with pytest.raises(EngineError, match=r"engine 1 of 1 \(test\) died at a generate call"):
        pool.generate(CALLS)
    assert 30 < world.time < 40


def test_an_engine_that_died_between_two_steps_is_reported(world):
    pool = handle(world, [Engine(world, dies=5)], start_deadline_s=300)
    assert pool.generate(CALLS[:1]) == [0]
    world.time = 10
    with pytest.raises(EngineError, match=r"engine 1 of 1 \(test\) died between two calls"):
        pool.generate(CALLS[:1])
    assert 40 < world.time < 50


def test_the_pool_replaces_an_engine_that_was_taken_away(world):
    leaves, joins = Engine(world, seconds=1, dies=1.5), Engine(world, born=100)
    leaves.reason = "The actor is dead because it was killed by `ray.kill`."
    pool = handle(world, [leaves], start_deadline_s=300)
    world.engines["p-1"] = joins
    assert pool.generate(CALLS) == [0, 1, 2, 3]
    assert world.time > 100


def test_too_few_engines_fail_after_the_starting_deadline(world):
    with pytest.raises(EngineError, match=r"0 of at least 1 engines \(test\) came up within 50 s"):
        handle(world, [Engine(world, born=1000)]).generate(CALLS)
    assert 50 < world.time < 55
    with pytest.raises(EngineError, match=r"1 of at least 2 engines"):
        engines = [Engine(world, seconds=10**6), Engine(world, born=10**6)]
        handle(world, engines, least=2).generate(CALLS)


def test_a_call_beyond_its_deadline_has_its_engine_killed(world):
    hangs = Engine(world, seconds=10**6)
    hangs.status = SimpleNamespace(
        remote=lambda: hangs.answer(0.0, {"call": hangs.key, "seconds": 101})
    )
    with pytest.raises(EngineError, match="did not finish a generate call within 100 s, 3 times"):
        handle(world, [hangs], elastic=False).generate(CALLS[:1])
    assert world.killed == [hangs, hangs]


def test_an_engine_that_dies_when_asked_for_its_status(world):
    stays, dies = Engine(world, seconds=1), Engine(world, seconds=200, dies=150)
    dies.status = SimpleNamespace(
        remote=lambda: Ref(world.time, RayActorError() if world.time > 50 else {"call": None})
    )
    assert handle(world, [stays, dies]).generate(CALLS) == [0, 1, 2, 3]
    assert sorted(stays.calls) == [0, 1, 2, 3] and len(dies.calls) == 1 and not world.killed


def test_an_engine_that_another_client_has_just_killed_is_not_killed_again(world):
    """The other client kills it while this one waits for its status."""
    shared = Engine(world, seconds=200)
    idle = {"call": None, "seconds": 0.0}
    shared.alive = lambda: not 101 < world.time < 110
    hung = SimpleNamespace(remote=lambda: Ref(110 if 1 < world.time < 110 else world.time, idle))
    shared.status = hung
    assert handle(world, [shared], elastic=False).generate(CALLS[:1]) == [0]
    assert not world.killed


def test_a_call_of_another_client_that_hangs_does_not_count(world):
    """The engine is killed four times, with a limit of two, before it begins this call."""
    shared = Engine(world, seconds=450)
    shared.status = SimpleNamespace(
        remote=lambda: shared.answer(0.0, {"call": "another", "seconds": 101})
    )
    assert handle(world, [shared], elastic=False).generate(CALLS[:1]) == [0]
    assert world.killed == [shared] * 4


def test_the_engines_can_be_read_while_they_are_refreshed(world):
    """One engine has left, one has joined, and one ends between listing and lookup."""
    there = handle(world, [Engine(world), Engine(world)])
    read = iter(there.actors)
    next(read)
    stays, joins = world.engines["p-0"], Engine(world)
    world.engines = {"p-0": stays, "p-2": joins}
    world.names = lambda: ["p-0", "p-2", "p-3", "another-1"]
    there.refresh()
    assert list(read) == ["p-1"]
    assert there.actors.keys() == {"p-0", "p-1", "p-2"}  # the next call to p-1 reports its end
    assert (there.actors["p-0"], there.actors["p-2"]) == (stays, joins)
    there.drop("p-1")
    assert len(there.actors) == 2


def test_the_first_probe_of_every_engine(world):
    engines = [Engine(world), Engine(world, born=3)]
    for number, engine in enumerate(engines):
        engine.probe = SimpleNamespace(
            remote=lambda e=engine, n=number: e.answer(1.0, {"token": n})
        )
    assert handle(world, engines).probe() == [{"token": 0}, {"token": 1}]
    engines[1].born = 1000
    with pytest.raises(EngineError, match=r"engine 2 of 2 \(test\) did not answer its first probe"):
        handle(world, engines).probe()


def test_no_calls(world):
    assert handle(world, [Engine(world)]).generate([]) == []
