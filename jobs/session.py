"""What the stages of one command share: Ray, and a pool of engines that stays up between stages."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from types import FrameType
from typing import Any

from actors.pool import Pool, PoolHandle
from actors.rollout import engine_spec, resolve_engine
from jobs.console import without_stderr
from minirec.config import Config


class Session:
    """Starts Ray and the engine pool when first needed; closes both at the end."""

    def __init__(self, config: Config, *, trials: int = 0):
        """`trials` of a sweep that work at a time share the cluster; 0: no sweep."""
        self.config = config
        self.trials = trials
        self._pool: Pool | None = None
        self._model: str | None = None
        self._started_ray = False

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start_ray(self) -> None:
        """Join the cluster of RAY_ADDRESS, or start a local one for this process."""
        import ray

        if ray.is_initialized():
            return
        # The driver of a job has a 3 s grace after SIGTERM; each stage can be resumed anyway.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if not os.environ.get("RAY_ADDRESS"):
            options |= {
                "address": "local",  # else a cluster that happens to run here is joined
                "num_cpus": self._cpu_slots(),
                # Without it Ray Train does not see that a stopped trial is gone.
                "include_dashboard": self.trials > 0,
                "object_store_memory": 300 << 20,
            }
        with without_stderr():
            ray.init(**options)
        self._started_ray = True
        _quiet_ray_data()
        # ray.init replaces a handler that was set before it.
        signal.signal(signal.SIGTERM, _stop)

    def pool(self, model_path: str) -> PoolHandle:
        """The pool for a model, started at the first call.

        It does not wait for the engines: trainers and scorers start meanwhile, and their first
        call waits, with the pool's deadline.
        """
        if self._pool is None or self._model != model_path:
            self._start_pool(model_path)
        assert self._pool is not None
        return self._pool.handle()

    def _start_pool(self, model_path: str) -> None:
        self.start_ray()
        if self._pool is not None:
            self._pool.close()
        c = self.config
        length = c.model.max_prompt_tokens + c.rollout.max_new_tokens + 8
        self._pool = Pool.start(
            engine_spec(c, model_path, length),
            engine=resolve_engine(c.rollout),
            engines=c.rollout.engines,
            gpus_per_engine=c.rollout.gpus_per_engine,
            deadline_s=c.rollout.deadline_s,
            start_deadline_s=c.rollout.start_deadline_s,
            max_restarts=c.rollout.max_restarts,
        )
        self._model = model_path

    def close(self) -> None:
        """Stop engines and Ray; safe to call twice."""
        if self._pool is not None:
            with contextlib.suppress(Exception):  # Ray may be gone already
                self._pool.close()
            self._pool = None
        if self._started_ray:
            import ray

            ray.shutdown()
            self._started_ray = False

    def _cpu_slots(self) -> int:
        """Logical CPUs: engines and what works beside them take turns on the cores."""
        c = self.config
        workers = max(c.training.workers, c.proxy.training.workers)
        beside = max(workers + c.scoring.scorers + 2, c.selection.shards)
        each = c.rollout.engines + beside
        return max(os.cpu_count() or 1, each * max(1, self.trials))


def _stop(signum: int, frame: FrameType | None) -> None:
    sys.exit(128 + signum)


def _quiet_ray_data() -> None:
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
