"""`minirec serve`: serve the trained policy over HTTP with Ray Serve."""

from __future__ import annotations

import logging
import signal
import threading
from typing import TYPE_CHECKING

from jobs.cluster.session import Session
from jobs.console import quiet, say
from jobs.handover.recommend import finished_run, recommender_spec
from minirec.errors import EngineError

if TYPE_CHECKING:
    from actors.serving.recommender import RecommenderSpec


def serve(run_dir: str, *, host: str, port: int, replicas: int, queue: int, analysis: bool) -> None:
    """Answer requests until the command is interrupted or terminated.

    Args:
        run_dir: of a run that was trained and evaluated.
        replicas: number of processes, each with its own policy.
        queue: number of requests that may wait; further ones get the status 503.
        analysis: whether the policy writes an analysis before it ranks, which is much slower.

    Raises:
        ArtifactError: the run has no trained policy, or it was not evaluated.
        ConfigError: the cluster can never hold this number of replicas.
        EngineError: the port is in use, a replica did not start, or Ray Serve of the cluster
            already has an application.
    """
    run, config = finished_run(run_dir, "train")
    quiet(config)
    with Session(config) as session:
        session.start_ray()
        shape = session.allocation.scorer
        session.wait_for_room([shape.bundle()] * replicas)
        threads, gpus = shape.cpus, shape.gpus
        spec = recommender_spec(run, config, analysis=analysis, threads=threads, gpus=gpus)
        _until_signal(spec, host, port, replicas, queue)


def _until_signal(spec: RecommenderSpec, host: str, port: int, replicas: int, queue: int) -> None:
    from ray import serve

    from actors.serving.http import application

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    if there := sorted(serve.status().applications):
        raise EngineError(
            f"Ray Serve of this cluster already serves {there[0]!r}, and both would share one "
            f"address and one shutdown; set RAY_ADDRESS to another cluster, or unset it"
        )
    stop = threading.Event()
    try:
        serve.start(http_options={"host": host, "port": port})
        serve.run(application(spec, replicas=replicas, queue=queue))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        say(f"serve: http://{host}:{port}/recommend answers; /openapi.json describes it")
        stop.wait()
        say("serve: closing")
    except RuntimeError as error:
        raise EngineError(f"the server did not start: {error}") from error
    finally:
        serve.shutdown()
