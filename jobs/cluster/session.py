"""Resources that the stages of a command share: Ray, the engine pool and a kept worker."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import ray

from actors.cluster import Bundles, Cluster, Room, check_shared
from actors.engines.engine import engine_choice, engine_spec, resolve_engine
from actors.pool.handle import PoolHandle
from actors.pool.pool import Pool
from jobs.cluster.joining import check_cluster, cluster_address, not_started
from jobs.cluster.workers import KeptWorker
from jobs.console import console, say, without_stderr
from minirec.config.run import Config
from minirec.errors import ConfigError
from minirec.model.hub import fetch_model, hub_name
from minirec.resources.allocation import (
    Allocation,
    Node,
    allocate,
    engine_places,
    engines_for,
    refusal,
    this_machine,
    unused_gpus,
)


class Session:
    """Starts Ray and the engine pool when they are first needed; closes them at the end."""

    def __init__(
        self,
        config: Config,
        *,
        trials: int = 0,
        on_cluster: bool = False,
        keeps_worker: bool = False,
        cluster: Cluster | None = None,
        fetch: Callable[[str], object] = fetch_model,
        start_pool: Callable[..., Pool] = Pool,
    ):
        """Args:
        trials: concurrent trials of a sweep on this machine; 0: no sweep.
        on_cluster: the caller is a trial that shares a cluster and waits for room.
        keeps_worker: on this machine, the stages of the command share one training worker.
        cluster: replaces Ray's own answers in tests.
        fetch: replaces the download of a model in tests.
        start_pool: replaces `Pool` in tests.
        """
        self.config = config
        self.trials = trials
        self._on_cluster = on_cluster
        self._keeps_worker = keeps_worker
        self.kept: KeptWorker | None = None
        self._cluster = cluster or Cluster()
        self._fetch = fetch
        self._fetched: set[str] = set()
        self._new_pool = start_pool
        self._pool: Pool | None = None
        self._model: str | None = None
        self._started_ray = False
        self.ray_folder: Path | None = None
        self._room: Room | None = None
        self._allocation: Allocation | None = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start_ray(self) -> None:
        """Join the cluster of RAY_ADDRESS, or start a local one for this process.

        Raises:
            ConfigError: the address is not valid, or the run does not fit.
            EngineError: no cluster answers at the address, or Ray does not start.
        """
        if self._allocation is None:
            self._set_up_train()
        if self._cluster.joined():
            self._allocation = self._allocation or self._fit_part()
            return
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        address = cluster_address()
        if address:
            say(f"joining the Ray cluster at RAY_ADDRESS={address}")
            check_cluster(address)
        else:
            self._allocation = self._fit_this_machine()
            options |= {
                "address": "local",  # do not join a cluster that runs on this machine
                "num_cpus": self._cpu_slots(self._allocation),
                # Without it, Ray Train does not notice that a stopped trial is gone.
                "include_dashboard": self.trials > 0,
                "object_store_memory": 300 << 20,
            }
        try:
            with without_stderr():
                started = ray.init(**options)
        except Exception as error:  # Ray raises a bare one if its node is not up in time
            if isinstance(error, OSError) and error.errno is not None:  # a file or disk error
                raise
            raise not_started(error, address) from error
        self._started_ray = True
        # A client of a remote cluster has no folder here.
        folder = getattr(started, "address_info", {}).get("session_dir")
        self.ray_folder = None if folder is None else Path(folder)
        if self._allocation is None:
            self._allocation = self._fit_cluster()
        console.print(self._allocation.sentence())
        console.print("rollouts: {} ({})".format(*engine_choice(self.config)))
        if hint := unused_gpus(self.config, sum(node.gpus for node in self._cluster.nodes())):
            say(hint)
        _quiet_ray_data()
        # ray.init replaces earlier handlers.
        signal.signal(signal.SIGTERM, _stop)

    def _set_up_train(self) -> None:
        """Set variables that Ray Train reads in the process that starts a training."""
        # The driver of a job has only 3 s after SIGTERM, and each stage can be resumed anyway.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
        # Without this limit, Ray Train would wait forever for room.
        os.environ.setdefault(
            "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", f"{self.config.resources.wait_s:g}"
        )

    @property
    def allocation(self) -> Allocation:
        """Numbers of engines, scorers and workers; starts Ray, because ``auto`` depends on it."""
        self.start_ray()
        assert self._allocation is not None
        return self._allocation

    def _fit_this_machine(self) -> Allocation:
        """Processes may share the cores of this machine, but not its GPUs; refuse too few GPUs."""
        import torch

        machine = this_machine(gpus=torch.cuda.device_count())
        found = allocate(self.config, [machine], local=True)
        for stage in ("score", "warm", "proxy", "train"):
            why = refusal(found.bundles(stage), [replace(machine, cpus=math.inf)])
            if why:
                raise ConfigError(f"{why}; lower the numbers under resources (0.5 shares a GPU)")
        return found

    def _fit_part(self) -> Allocation:
        """One process of each kind unless numbers are given: trials share the cluster."""
        gpus = sum(node.gpus for node in self._cluster.nodes())
        found = allocate(self.config, [Node("a part", 0, min(2.0, gpus))], local=False)
        if self._on_cluster:
            self._room = self._new_room(requests=False)
            self._room.nodes(found.engine, {})  # before the trial starts anything
        return replace(found, engines_max=found.engines)

    def _fit_cluster(self) -> Allocation:
        """Fit the nodes; refuse what they cannot hold, and a run directory that is not shared."""
        found = allocate(self.config, self._cluster.nodes(), local=False)
        self._room = self._new_room(requests=True)
        for stage in ("score", "warm", "proxy", "train"):
            self._room.refuse_impossible(found.bundles(stage))
        if "://" not in self.config.run_dir:
            check_shared(Path(self.config.run_dir).absolute(), self._cluster)
        return replace(found, engines=engines_for(found, self._room.nodes(found.engine, {})))

    def _new_room(self, *, requests: bool) -> Room:
        r = self.config.resources
        return Room(self._cluster, wait_s=r.wait_s, autoscaling=r.autoscaling, requests=requests)

    def make_room(self, beside: str, *, engines: bool = True) -> None:
        """Wait until a cluster has room for a stage and for the engines that it will start.

        Then each node has the model: no deadline of an engine or a worker includes a download.

        Args:
            beside: the stage ``score``, ``warm``, ``proxy`` or ``train``.
            engines: whether the stage uses the pool.

        Raises:
            ConfigError: the model cannot be fetched.
            EngineError: there was no room within ``resources.wait_s``.
        """
        a = self.allocation
        self._fetch_model()
        if self._keeps_worker and beside == "score" and (a.scorers > 1 or a.scorer.gpus):
            self._close_worker()  # the scorers need its GPU or its memory
        if self._room is None:
            return
        held = [a.engine.bundle()] * a.engines_min if engines and self._pool else []
        asked = a.bundles(beside, engines=None if engines and not held else 0)
        self._room.wait(asked, held=held)
        self._fetch_model()  # on nodes that came meanwhile

    def _fetch_model(self) -> None:
        """Fetch a model of the hub, once for each node."""
        name = hub_name(self.config.model)
        if name is None:
            return
        local = self._room is None
        nodes = {"this machine"} if local else {node.id for node in self._cluster.nodes()}
        if not (missing := sorted(nodes - self._fetched)):
            return
        where = "this machine lacks it" if local else f"one of {len(missing)} nodes lacks it"
        say(f"model: {name} is fetched from the Hugging Face hub if {where}")
        if local:
            self._fetch(name)
        else:
            self._cluster.on_nodes(missing, self._fetch, name)
        self._fetched.update(missing)

    def wait_for_room(self, bundles: Bundles) -> None:
        """Wait until Ray has room for these bundles.

        Raises:
            ConfigError: they do not fit even if nothing else runs.
            EngineError: as `make_room`.
        """
        if self._room is not None:
            self._room.refuse_impossible(bundles)
            self._room.wait(bundles)
        elif why := refusal(bundles, self._cluster.nodes()):
            raise ConfigError(f"{why}; lower the numbers under resources, or --replicas")

    def room_for(self, actors: int) -> int:
        """How many of `actors` with one CPU each fit beside the engines; all with an autoscaler."""
        self.start_ray()
        if self._room is None or self._room.autoscaling:
            return actors
        return min(actors, int(self._cluster.free().get("CPU", 0)))

    def join_cluster(self) -> None:
        """Join the cluster of RAY_ADDRESS if it is set, so that an impossible run fails now."""
        if cluster_address():
            self.start_ray()

    def pool(self, model_path: str, *, beside: str) -> PoolHandle | None:
        """The pool for a model; the first call waits for room and starts it.

        None if the policy writes no analysis: then the call only waits for room for the stage.
        It waits for engines that share a GPU: vLLM measures the free memory when it starts, and
        trainers and scorers must not take or free memory of the GPU meanwhile. Otherwise these
        start at the same time, and their first call waits, with the pool's deadline.
        """
        if not self.config.rollout.analysis:
            self.make_room(beside, engines=False)
            return None
        if self._pool is not None and self._model != model_path:
            self._pool.close()
            self._pool = None
        self.make_room(beside)
        if self._pool is None:
            self._pool = self._start_pool(model_path)
            self._model = model_path
            if 0 < self.allocation.engine.gpus < 1:
                self._pool.wait_ready()
        return self._pool.handle()

    def _start_pool(self, model_path: str) -> Pool:
        c, a = self.config, self.allocation
        length = c.model.max_prompt_tokens + c.rollout.max_new_tokens + 8
        return self._new_pool(
            engine_spec(c, model_path, length, shape=a.engine),
            engine=resolve_engine(c),
            engines=a.engines,
            least=a.engines_min,
            target=None if self._room is None else self._engines_now,
            cpus_per_engine=a.engine.cpus,
            gpus_per_engine=a.engine.gpus,
            deadline_s=c.rollout.deadline_s,
            start_deadline_s=c.rollout.start_deadline_s,
            max_restarts=c.rollout.max_restarts,
        )

    def _engines_now(self, here: Mapping[str, int]) -> list[str]:
        """The `Target` of the pool: a node for each engine that fits now.

        With an autoscaler, the largest number: it adds nodes for engines that wait.
        """
        a, room = self.allocation, self._room
        assert room is not None
        places = engine_places(a, room.nodes(a.engine, here))
        if room.autoscaling and math.isfinite(a.engines_max):
            places += [""] * (int(a.engines_max) - len(places))
        return places

    def worker(self) -> KeptWorker | None:
        """The kept training worker; None: Ray Train starts the workers.

        With `keeps_worker`, the first call starts it. Ray Train needs half a minute on two cores
        for each of its starts.
        """
        if self._keeps_worker and self.allocation.most_workers == 1 and self._room is None:
            self.keep_worker()
        return self.kept

    def keep_worker(self) -> None:
        """Keep one training worker for all following trainings and evaluations.

        Not with several workers, nor with ZeRO 3: it replaces functions of torch in its process,
        so a later evaluation would round differently.
        """
        a, r = self.allocation, self.config.resources
        if self.kept is None and a.training_workers == 1 and r.zero_stage < 3:
            self.kept = KeptWorker(a.worker, wait_s=r.wait_s)

    def _close_worker(self) -> None:
        if self.kept is not None:
            self.kept.close()
            self.kept = None

    def close(self) -> None:
        """Stop workers, engines and Ray; safe to call twice."""
        for part in (self.kept, self._pool, self._room):
            if part is not None:
                with contextlib.suppress(Exception):  # Ray may be gone already
                    part.close()
        self.kept = self._pool = self._room = None
        if self._started_ray:
            ray.shutdown()
            self._started_ray = False
            self._allocation = None

    def _cpu_slots(self, a: Allocation) -> int:
        """Logical CPUs of the local Ray; its processes take turns on the cores."""
        workers = a.most_workers * a.worker.cpus
        beside = workers + max(a.scorers * a.scorer.cpus + 2, self.config.selection.shards)
        each = a.engines * a.engine.cpus + beside
        return max(os.cpu_count() or 1, each * max(1, self.trials))


def _stop(signum: int, frame: FrameType | None) -> None:
    sys.exit(128 + signum)


def _quiet_ray_data() -> None:
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    # It logs only errors of workers, with tracebacks; the command reports their cause.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
