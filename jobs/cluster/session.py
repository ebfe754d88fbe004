"""What the stages of one command share: Ray, and engines that stay up between stages."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import ray

from actors.cluster import Bundles, Cluster, Room, check_shared
from actors.engines.engine import engine_spec, resolve_engine
from actors.pool.handle import PoolHandle
from actors.pool.pool import Pool
from jobs.cluster.joining import check_cluster, cluster_address, not_started
from jobs.cluster.workers import KeptWorker
from jobs.console import console, say, without_stderr
from minirec.config.run import Config
from minirec.errors import ConfigError
from minirec.resources.allocation import (
    Allocation,
    Node,
    allocate,
    engine_places,
    engines_for,
    refusal,
    this_machine,
)


class Session:
    """Starts Ray and the engine pool when first needed; closes both at the end."""

    def __init__(
        self,
        config: Config,
        *,
        trials: int = 0,
        on_cluster: bool = False,
        cluster: Cluster | None = None,
    ):
        """Args:
        trials: of a sweep, that work at a time on this machine; 0: no sweep.
        on_cluster: the caller, a trial, shares a cluster with other jobs and waits for its room.
        cluster: in place of Ray's own answers.
        """
        self.config = config
        self.trials = trials
        self._on_cluster = on_cluster
        self.kept: KeptWorker | None = None
        self._cluster = cluster or Cluster()
        self._pool: Pool | None = None
        self._model: str | None = None
        self._started_ray = False
        self._room: Room | None = None
        self._allocation: Allocation | None = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start_ray(self) -> None:
        """Join the cluster of RAY_ADDRESS, or start a local one for this process.

        Raises:
            ConfigError: the address is not valid, or the machine cannot hold the run.
            EngineError: no cluster answers there, or Ray does not start.
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
                "address": "local",  # else a cluster that happens to run here is joined
                "num_cpus": self._cpu_slots(self._allocation),
                # Without it Ray Train does not see that a stopped trial is gone.
                "include_dashboard": self.trials > 0,
                "object_store_memory": 300 << 20,
            }
        try:
            with without_stderr():
                ray.init(**options)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # of a file or the disk
                raise
            raise not_started(error, address) from error
        self._started_ray = True
        if self._allocation is None:
            self._allocation = self._fit_cluster()
        console.print(self._allocation.sentence())
        _quiet_ray_data()
        # ray.init replaces a handler that was set before it.
        signal.signal(signal.SIGTERM, _stop)

    def _set_up_train(self) -> None:
        """What Ray Train reads in the process that starts a training, a trial of a sweep too."""
        # The driver of a job has a 3 s grace after SIGTERM; each stage can be resumed anyway.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
        # Without this limit, Ray Train would try to start workers forever where there is no room.
        os.environ.setdefault(
            "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", f"{self.config.resources.wait_s:g}"
        )

    @property
    def allocation(self) -> Allocation:
        """How many engines, scorers and workers; starts Ray, since ``auto`` depends on it."""
        self.start_ray()
        assert self._allocation is not None
        return self._allocation

    def _fit_this_machine(self) -> Allocation:
        """Processes take turns on the cores of this machine, but never on its GPUs.

        Raises:
            ConfigError: it has fewer GPUs than the run asks for.
        """
        import torch

        machine = this_machine(gpus=torch.cuda.device_count())
        found = allocate(self.config, [machine], local=True)
        for stage in ("score", "proxy", "train"):
            why = refusal(found.bundles(stage), [replace(machine, cpus=math.inf)])
            if why:
                raise ConfigError(f"{why}; lower the numbers under resources (0.5 shares a GPU)")
        return found

    def _fit_part(self) -> Allocation:
        """One of each, unless numbers are given: this is one of several trials in the cluster."""
        gpus = sum(node.gpus for node in self._cluster.nodes())
        found = allocate(self.config, [Node("a part", 0, min(2.0, gpus))], local=False)
        if self._on_cluster:
            self._room = self._new_room(requests=False)
            self._room.nodes(found.engine, {})  # before it has anything
        return replace(found, engines_max=found.engines)

    def _fit_cluster(self) -> Allocation:
        """Fit what the nodes have; refuse what they cannot hold, or a run directory not shared."""
        found = allocate(self.config, self._cluster.nodes(), local=False)
        self._room = self._new_room(requests=True)
        for stage in ("score", "proxy", "train"):
            self._room.refuse_impossible(found.bundles(stage))
        if "://" not in self.config.run_dir:
            check_shared(Path(self.config.run_dir).absolute(), self._cluster)
        return replace(found, engines=engines_for(found, self._room.nodes(found.engine, {})))

    def _new_room(self, *, requests: bool) -> Room:
        r = self.config.resources
        return Room(self._cluster, wait_s=r.wait_s, autoscaling=r.autoscaling, requests=requests)

    def make_room(self, beside: str, *, engines: bool = True) -> None:
        """Wait for the room of what works `beside` the engines, and of engines not yet started.

        Args:
            beside: ``score``, ``proxy`` or ``train``.
            engines: whether the pool will be used.

        Raises:
            EngineError: a cluster had no room within ``resources.wait_s``.
        """
        a = self.allocation
        if self._room is None:
            return
        held = [a.engine.bundle()] * a.engines_min if engines and self._pool else []
        asked = a.bundles(beside, engines=None if engines and not held else 0)
        self._room.wait(asked, held=held)

    def wait_for_room(self, bundles: Bundles) -> None:
        """Wait until a cluster has room for these bundles.

        Raises:
            ConfigError: the cluster, or the Ray of this machine, never will have it.
            EngineError: as `make_room`.
        """
        if self._room is not None:
            self._room.refuse_impossible(bundles)
            self._room.wait(bundles)
        elif why := refusal(bundles, self._cluster.nodes()):
            raise ConfigError(f"{why}; lower the numbers under resources, or --replicas")

    def room_for(self, actors: int) -> int:
        """How many of `actors`, each with one CPU, have room now; all, if an autoscaler adds nodes.

        The engines of the pool stay, so that they need not start again for the next stage.
        """
        self.start_ray()
        if self._room is None or self._room.autoscaling:
            return actors
        return min(actors, int(self._cluster.free().get("CPU", 0)))

    def join_cluster(self) -> None:
        """Join the cluster of RAY_ADDRESS, if there is one, and refuse what it cannot hold.

        A command does so first: it must not fail after an hour of other stages.
        """
        if cluster_address():
            self.start_ray()

    def pool(self, model_path: str, *, beside: str) -> PoolHandle:
        """The pool for a model. The first call waits for room and starts it.

        It does not wait for the engines: trainers and scorers start meanwhile, and their first
        call waits, with the pool's deadline.
        """
        if self._pool is not None and self._model != model_path:
            self._pool.close()
            self._pool = None
        self.make_room(beside)
        if self._pool is None:
            self._pool = self._start_pool(model_path)
            self._model = model_path
        return self._pool.handle()

    def _start_pool(self, model_path: str) -> Pool:
        c, a = self.config, self.allocation
        length = c.model.max_prompt_tokens + c.rollout.max_new_tokens + 8
        return Pool(
            engine_spec(c, model_path, length, shape=a.engine),
            engine=resolve_engine(c.rollout),
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
        """A node for each engine that the nodes of this moment hold; empty for any node.

        With an autoscaler, the most that were asked for: it adds nodes for engines that wait.

        Args:
            here: engines at work by the id of their node.
        """
        a, room = self.allocation, self._room
        assert room is not None
        places = engine_places(a, room.nodes(a.engine, here))
        if room.autoscaling and math.isfinite(a.engines_max):
            places += [""] * (int(a.engines_max) - len(places))
        return places

    def keep_worker(self) -> None:
        """Keep a training worker up: the trainings and evaluations that follow share it.

        None is kept where several train, or with ZeRO 3: it replaces functions of torch in its
        process, so that an evaluation after it would round in another way.
        """
        a, r = self.allocation, self.config.resources
        if self.kept is None and a.training_workers == 1 and r.zero_stage < 3:
            self.kept = KeptWorker(a.worker, wait_s=r.wait_s)

    def close(self) -> None:
        """Stop workers, engines and Ray; safe to call twice."""
        if self.kept is not None:
            with contextlib.suppress(Exception):  # Ray may be gone already
                self.kept.close()
            self.kept = None
        if self._pool is not None:
            with contextlib.suppress(Exception):  # Ray may be gone already
                self._pool.close()
            self._pool = None
        if self._room is not None:
            with contextlib.suppress(Exception):
                self._room.close()
            self._room = None
        if self._started_ray:
            ray.shutdown()
            self._started_ray = False
            self._allocation = None

    def _cpu_slots(self, a: Allocation) -> int:
        """Logical CPUs: engines, and what works beside them, take turns on the cores."""
        workers = max(a.training_workers, a.proxy_workers) * a.worker.cpus
        beside = workers + max(a.scorers * a.scorer.cpus + 2, self.config.selection.shards)
        each = a.engines * a.engine.cpus + beside
        return max(os.cpu_count() or 1, each * max(1, self.trials))


def _stop(signum: int, frame: FrameType | None) -> None:
    sys.exit(128 + signum)


def _quiet_ray_data() -> None:
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    # It logs only errors of workers, with tracebacks; the command itself tells their cause.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
