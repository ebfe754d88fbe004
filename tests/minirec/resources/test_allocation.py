"""How ``auto`` is resolved for a cluster, and which requests are refused."""

from pathlib import Path

import pytest

from minirec.config.reading import load
from minirec.config.training import TrainingConfig
from minirec.errors import ConfigError
from minirec.resources.allocation import (
    Node,
    Shape,
    allocate,
    engine_places,
    engines_for,
    refusal,
    unused_gpus,
)

GPUS = [f"resources.gpus_per_{name}=auto" for name in ("engine", "scorer", "worker")]
# 32 rounds in a step, so that many numbers of workers divide it.
FINE = ["training.prompts_per_micro_batch=1", "proxy.training.prompts_per_micro_batch=1"]


def gpu_nodes(count, gpus, cpus=32):
    return [Node(f"n{i}", cpus, gpus) for i in range(count)]


@pytest.mark.parametrize(
    ("nodes", "local", "overrides", "engines", "scorers", "workers", "engine", "worker"),
    [
        # A laptop: one of each; the worker uses both cores while the engine waits.
        ([Node("a", 2)], True, [], 1, 1, 1, Shape(1, 0), Shape(2, 0)),
        # A cluster with the same two cores: concurrent processes must fit.
        ([Node("a", 2)], False, [], 1, 1, 1, Shape(1, 0), Shape(1, 0)),
        # 4 of 16 CPUs for the scorers; 32 prompts in micro-batches of 16 allow two workers.
        ([Node("a", 16)], True, [], 12, 4, 2, Shape(1, 0), Shape(8, 0)),
        # 12 GiB hold six processes: 4 scorers and 2 engines; scorers are limited to the engines.
        ([Node("a", 16, 0, 12)], True, [], 2, 2, 2, Shape(1, 0), Shape(8, 0)),
        # One GPU is shared.
        (gpu_nodes(1, 1, 8), True, GPUS, 1, 1, 1, Shape(1, 0.5), Shape(8, 0.5)),
        (gpu_nodes(1, 2, 8), True, GPUS, 1, 1, 1, Shape(1, 1), Shape(8, 1)),
        # Generation costs the most, so engines get the most.
        (gpu_nodes(1, 8), False, GPUS, 6, 2, 2, Shape(1, 1), Shape(1, 1)),
        (gpu_nodes(4, 8), False, GPUS + FINE, 24, 8, 8, Shape(1, 1), Shape(1, 1)),
        # Two micro-batches in a step: of up to eight workers, two divide it.
        (gpu_nodes(4, 8), False, GPUS, 24, 8, 2, Shape(1, 1), Shape(1, 1)),
        # CPUs only; the head has none.
        ([Node("h", 0), *gpu_nodes(3, 0, 4)], False, FINE, 9, 3, 2, Shape(1, 0), Shape(1, 0)),
        # The cluster has GPUs, but the settings ask for none.
        (gpu_nodes(1, 8, 8), False, [], 6, 2, 2, Shape(1, 0), Shape(1, 0)),
        # Tensor parallel over 4 GPUs: the first node's other four are for the workers.
        (
            gpu_nodes(2, 8),
            False,
            [*GPUS[1:], *FINE, "resources.gpus_per_engine=4"],
            3,
            3,
            4,
            Shape(1, 4),
            Shape(1, 1),
        ),
        # A part of a cluster: one of each.
        ([Node("part", 0, 2)], False, GPUS, 1, 1, 1, Shape(1, 1), Shape(1, 1)),
        # Given numbers are kept, even if they do not fit.
        (
            [Node("a", 2)],
            False,
            ["resources.engines=5", "resources.scorers=3", "resources.training_workers=2"],
            5,
            3,
            2,
            Shape(1, 0),
            Shape(1, 0),
        ),
        # Ten processes fit if each takes a tenth of a GPU.
        (
            gpu_nodes(1, 1),
            False,
            ["resources.gpus_per_engine=0.1", "resources.scorers=1"],
            10,
            1,
            2,
            Shape(1, 0.1),
            Shape(1, 0),
        ),
    ],
)
def test_auto(nodes, local, overrides, engines, scorers, workers, engine, worker):
    step = ["preset=paper", "training.prompts_per_step=32"]
    found = allocate(load(overrides=step + overrides), nodes, local=local)
    assert (found.engines, found.scorers, found.training_workers) == (engines, scorers, workers)
    assert (found.engine, found.worker) == (engine, worker)
    assert found.engines >= found.engines_min


@pytest.mark.parametrize(
    ("gpus", "words", "workers", "gpus_per_worker"),
    [
        (8, ["gpus_per_worker=0.5"], 1, 0.5),
        (8, ["gpus_per_worker=0.5", "training_workers=1"], 1, 0.5),
        (1, ["gpus_per_worker=auto"], 1, 0.5),
        (1, ["gpus_per_worker=auto", "training_workers=2"], 2, 1),  # refused for want of GPUs
        (8, ["gpus_per_worker=auto", "training_workers=4"], 4, 1),
        (0, ["gpus_per_worker=auto", "training_workers=2"], 2, 0),
    ],
)
def test_workers_never_share_a_gpu_with_each_other(gpus, words, workers, gpus_per_worker):
    words = FINE + [f"resources.{word}" for word in words]
    found = allocate(load(overrides=words), gpu_nodes(1, gpus), local=False)
    assert (found.most_workers, found.worker.gpus) == (workers, gpus_per_worker)


def test_the_recipe_that_shares_a_gpu_fits_eight_gpus():
    config = load(Path(__file__).parents[3] / "configs" / "qwen2.5-0.5b.yaml")
    nodes = gpu_nodes(1, 8)
    found = allocate(config, nodes, local=False)
    # Of 16 halves, the scorers get a quarter, and so the engines get 12.
    assert (found.most_workers, found.scorers, found.engines) == (1, 4, 12)
    assert refusal(found.bundles("train", engines=found.engines), nodes) is None


@pytest.mark.parametrize(
    ("cores", "local", "words", "cpus"),
    [
        (2, True, [], 2),
        (2, False, [], 1),  # processes of a cluster do not share cores
        (2, True, ["training.staleness=1"], 1),
        (2, True, ["proxy.training.staleness=1"], 1),
        (16, True, [], 1),  # several engines
        (16, True, ["resources.engines=1"], 16),
        (16, True, ["resources.engines=1", "resources.cpus_per_engine=3"], 3),
    ],
)
def test_a_single_engine_that_takes_turns_gets_all_cores(cores, local, words, cpus):
    words = ["resources.cpus_per_engine=auto", *words]
    found = allocate(load(overrides=words), [Node("a", cores)], local=local)
    assert found.engine.cpus == cpus


def test_by_default_the_threads_of_an_engine_do_not_depend_on_the_machine():
    assert allocate(load(), [Node("a", 2)], local=True).engine.cpus == 1


def test_workers_divide_each_training_on_its_own():
    config = load(
        overrides=["training.prompts_per_step=96", "proxy.training.prompts_per_micro_batch=32"]
    )
    found = allocate(config, [Node("a", 20)], local=False)  # 96 / 16 = 6 rounds, of 5 at most
    assert (found.training_workers, found.proxy_workers) == (3, 1)


def test_a_warm_start_that_is_not_used_changes_no_other_number():
    nodes = [Node("a", 12)]  # a quarter is three workers
    words = ["preset=paper", "training.prompts_per_step=16", "proxy.training.prompts_per_step=16"]
    few, used = (
        allocate(load(overrides=[*words, *more]), nodes, local=True)
        for more in ([], ["training.start=warm"])
    )
    assert (few.training_workers, few.proxy_workers, few.warm_workers) == (1, 1, 1)
    assert few.worker.cpus == 12
    assert (used.training_workers, used.warm_workers, used.most_workers) == (1, 2, 2)
    assert used.worker.cpus == 6 and len(used.bundles("warm", engines=0)) == 2


def test_engines_follow_the_nodes_within_their_bounds():
    config = load(overrides=["resources.engines=[2, 5]", "resources.scorers=2"])
    nodes = [Node(name, 4) for name in "abc"]
    found = allocate(config, nodes, local=False)
    assert (found.engines, found.engines_min, found.engines_max) == (5, 2, 5)
    assert engines_for(found, nodes[:1]) == 2  # 4 CPUs hold 2 scorers and 2 engines
    assert engines_for(found, [Node("a", 1)]) == 2
    fixed = allocate(load(overrides=["resources.engines=3"]), nodes, local=False)
    assert engines_for(fixed, nodes[:1]) == engines_for(fixed, nodes) == 3


def test_engines_stand_where_they_were_counted():
    nodes = [Node("a", 16, id="A"), Node("b", 16, id="B")]
    one = ["training.prompts_per_step=16", "proxy.training.prompts_per_step=16"]
    found = allocate(load(overrides=[*one, "resources.cpus_per_worker=8"]), nodes, local=False)
    places = engine_places(found, nodes)
    # The worker's 8 CPUs are free on one node; engines alternate while both nodes have room.
    assert (found.engines, places.count("A"), places.count("B")) == (24, 8, 16)
    assert places[:4] == ["A", "B", "A", "B"] and set(places[16:]) == {"B"}


def test_engines_leave_alone_what_others_use():
    found = allocate(load(), [Node("a", 8, id="A")], local=False)
    assert (found.engines, found.scorers, found.training_workers) == (6, 2, 2)
    assert engine_places(found, [Node("a", 5, id="A")]) == ["A"] * 3
    # The minimum of engines is kept, even without room.
    assert engine_places(found, [Node("a", 0, id="A")]) == [""]
    fixed = allocate(load(overrides=["resources.engines=4"]), [Node("a", 8)], local=False)
    assert engine_places(fixed, [Node("a", 5, id="A")]) == ["A", "A", "A", ""]


def test_what_runs_at_once():
    config = load(overrides=["resources.engines=[2, 5]", "resources.scorers=1", *GPUS[:1]])
    found = allocate(config, gpu_nodes(1, 8), local=False)
    engine, scorer = {"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0}
    assert found.bundles("score") == [engine, engine, scorer]
    assert found.bundles("score", engines=0) == [scorer]
    assert found.bundles("train") == [engine, engine] + [{"CPU": 1.0}] * found.training_workers


@pytest.mark.parametrize(
    ("bundles", "nodes", "words"),
    [
        ([{"CPU": 1.0}] * 2, [Node("a", 2)], None),
        ([{"CPU": 1.0}] * 3, [Node("a", 2)], "asks for 3 CPUs, the cluster has 2"),
        ([{"GPU": 1.0}], [Node("a", 2)], "asks for 1 GPUs, the cluster has 0"),
        ([{"GPU": 4.0}], gpu_nodes(2, 2), "one process asks for 4 GPUs, the largest node has 2"),
        ([{"GPU": 2.0}] * 2, gpu_nodes(2, 2), None),
        ([], [], None),
    ],
)
def test_refusals_give_both_numbers(bundles, nodes, words):
    why = refusal(bundles, nodes)
    assert why is None if words is None else words in why


def test_workers_that_do_not_share_a_step():
    with pytest.raises(ConfigError, match="workers x prompts_per_micro_batch = 24"):
        load(
            overrides=[
                "resources.training_workers=3",
                "training.prompts_per_micro_batch=8",
                "proxy.training.prompts_per_step=24",
                "proxy.training.prompts_per_micro_batch=8",
            ]
        )
    with pytest.raises(ValueError, match="= 48; change one of the three"):
        TrainingConfig().check_workers(3)


def test_without_an_analysis_there_are_no_engines_and_scorers_do_not_wait_for_them():
    words = ["rollout.max_new_tokens=0", "training.loss=supervised", "resources.engines=3"]
    found = allocate(load(None, words), [Node("a", 16)], local=True)
    assert (found.engines, found.engines_min, found.scorers) == (0, 0, 4)
    assert found.bundles("score") == [{"CPU": 1.0}] * 4
    assert found.sentence().startswith("resources: 0 engines")


def test_a_real_model_on_cpus_beside_gpus_gets_a_note():
    real = "model.name=Qwen/Qwen2.5-0.5B-Instruct"
    note = unused_gpus(load(None, [real]), 2)
    assert "Qwen/Qwen2.5-0.5B-Instruct is trained in float32 on CPUs, although there" in note
    assert note.endswith(
        "GPUs (2); to train on them, give resources.gpus_per_engine=auto "
        "resources.gpus_per_worker=auto resources.gpus_per_scorer=auto model.dtype=bfloat16"
    )
    partly = [real, "resources.gpus_per_engine=1", "model.dtype=bfloat16"]
    assert unused_gpus(load(None, partly), 1).endswith(
        "give resources.gpus_per_worker=auto resources.gpus_per_scorer=auto"
    )
    assert unused_gpus(load(None, [real]), 0) is None
    assert unused_gpus(load(None, []), 2) is None
    assert unused_gpus(load(None, [real, "resources.gpus_per_worker=auto"]), 2) is None
