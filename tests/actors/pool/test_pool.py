import os
import pickle
import signal
import threading
import time

import pytest
import ray
from helpers.tiny_model import build_adapter, build_model, prompts

from actors.engines.engine import Adapter, EngineSpec
from actors.pool.actor import Call
from actors.pool.pool import Pool
from minirec.errors import EngineError

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=4, include_dashboard=False, object_store_memory=200_000_000)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    model = build_model(tmp_path_factory.mktemp("model"))
    return EngineSpec(model=model, max_model_len=320, lora_rank=4)


@pytest.fixture(scope="module")
def pool(cluster, spec):
    with Pool(
        spec, engine="transformers", engines=2, deadline_s=6, max_restarts=4, name="test"
    ) as pool:
        yield pool.wait_ready()


def calls(count):
    asked = prompts(32, 60)
    return [Call(asked, n=8, seeds=[1000 * i + k for i in range(32)]) for k in range(count)]


def pids(pool):
    actors = pool.handle().actors.values()
    return [answer["pid"] for answer in ray.get([actor.status.remote() for actor in actors])]


def signal_when_busy(pool, engine, number):
    """Send a signal to the engine's process when it works; returns the thread and the pid."""
    actor, pid = list(pool.handle().actors.values())[engine], pids(pool)[engine]

    def send():
        while ray.get(actor.status.remote())["call"] is None:
            time.sleep(0.002)
        os.kill(pid, number)

    thread = threading.Thread(target=send)
    thread.start()
    return thread, pid


def gone(pid):
    return not os.path.exists(f"/proc/{pid}")


def test_results_are_in_the_order_of_calls_and_from_both_engines(pool):
    asked = calls(6)
    together = pool.handle().generate(asked)
    handle = pickle.loads(pickle.dumps(pool.handle()))
    assert [handle.generate([call])[0] for call in asked] == together
    assert len({str(one) for one in together}) == 6
    assert pool.handle().generate([]) == []


def test_kill_9_during_generate_changes_nothing(pool, spec, tmp_path):
    adapter = build_adapter(spec.model, tmp_path / "adapter", 1)
    expected = pool.handle().generate(calls(6), adapter)
    thread, pid = signal_when_busy(pool, 0, signal.SIGKILL)
    assert pool.handle().generate(calls(6), adapter) == expected
    thread.join()
    assert gone(pid) and pid not in pids(pool)


def test_a_hung_engine_is_killed_at_the_deadline_and_its_call_repeated(pool):
    expected = pool.handle().generate(calls(4))
    thread, pid = signal_when_busy(pool, 1, signal.SIGSTOP)
    assert pool.handle().generate(calls(4)) == expected
    thread.join()
    assert gone(pid) and pid not in pids(pool)


def test_an_error_in_an_engine_is_reported_and_the_engine_lives(pool):
    before = pids(pool)
    with pytest.raises(EngineError, match=r"engine . of 2 \(test\) failed.*ValueError: 1 prompts"):
        pool.handle().generate([Call([[5]], n=1, seeds=[])])
    with pytest.raises(EngineError, match="no adapter_model.safetensors"):
        pool.handle().generate(calls(1), Adapter("/nowhere"))
    assert pids(pool) == before


def test_an_engine_that_dies_too_often(cluster, spec):
    with Pool(spec, engine="transformers", engines=1, max_restarts=0, name="frail") as pool:
        pool.wait_ready()
        thread, _ = signal_when_busy(pool, 0, signal.SIGKILL)
        with pytest.raises(EngineError, match=r"engine 1 of 1 \(frail\) died at a generate call"):
            pool.handle().generate(calls(4))
        thread.join()


def test_a_start_that_fails(cluster, spec):
    with (
        Pool(
            spec, engine="transformers", engines=1, cpus_per_engine=64, start_deadline_s=1
        ) as pool,
        pytest.raises(EngineError, match=r"within 1 s; CPU: \S+ free of 4; GPU: 0 free of 0"),
    ):
        pool.wait_ready()
    nowhere = EngineSpec(model="/nowhere/model", max_model_len=64)
    with (
        Pool(nowhere, engine="transformers", engines=1) as pool,
        pytest.raises(EngineError, match="died at its start.*/nowhere/model"),
    ):
        pool.wait_ready()


def test_engines_come_and_go_while_calls_run(pool, spec):
    """An added engine gets calls; the call of a dropped engine goes to another."""
    expected, wanted = pool.handle().generate(calls(6)), [1]
    with Pool(
        spec, engine="transformers", engines=1, target=lambda here: [""] * wanted[0], name="elastic"
    ) as grown:
        handle = pickle.loads(pickle.dumps(grown.handle()))
        assert handle.generate(calls(2)) == expected[:2]
        wanted[0] = 2
        end = time.monotonic() + 60
        while len(grown.actors) < 2 and time.monotonic() < end:
            time.sleep(0.1)
        second = list(grown.actors.values())[1]
        assert ray.get(second.status.remote(), timeout=60)["call"] is None
        busy = []

        def shrink():
            while time.monotonic() < end + 60 and not busy:
                if ray.get(second.status.remote())["call"] is not None:
                    busy.append(True)
            wanted[0] = 1

        thread = threading.Thread(target=shrink)
        thread.start()
        assert handle.generate(calls(6) * 12) == expected * 12  # longer than TICK_S
        thread.join()
        while len(grown.actors) > 1 and time.monotonic() < end + 120:
            time.sleep(0.1)
        assert busy and len(grown.actors) == 1
        assert handle.generate(calls(2)) == expected[:2] and len(handle) == 1


def test_close_leaves_no_process_even_of_a_hung_engine(pool):
    """This must be the last test: it ends the pool that the others share."""
    processes = pids(pool)
    os.kill(processes[0], signal.SIGSTOP)
    pool.close()
    assert all(gone(pid) for pid in processes)
