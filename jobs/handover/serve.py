"""`minirec serve`: the trained policy behind HTTP (Ray Serve)."""

from __future__ import annotations

import logging
import signal
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from jobs.cluster.session import Session
from jobs.console import quiet, say
from jobs.handover.recommend import recommender_spec, trained_run
from minirec.errors import EngineError

if TYPE_CHECKING:
    from actors.serving.recommender import RecommenderSpec


def serve(run_dir: str, *, host: str, port: int, replicas: int, queue: int, analysis: bool) -> None:
    """Answer requests until the command is interrupted or terminated.

    Args:
        run_dir: of a run that was trained and evaluated.
        host: address to listen on.
        port: port to listen on.
        replicas: processes with a policy each.
        queue: requests that may wait; more are answered with 503.
        analysis: off: nothing is written before the items are ranked, which is far faster.

    Raises:
        ArtifactError: the run has no trained policy.
        ConfigError: there is no room for so many replicas, and never will be.
        EngineError: the port is taken, a replica did not start, or the cluster's Ray Serve has
            another application.
    """
    run, config = trained_run(run_dir)
    quiet(config)
    with Session(config) as session:
        session.start_ray()
        shape = session.allocation.scorer
        session.wait_for_room([shape.bundle()] * replicas)
        spec = recommender_spec(run, config, analysis=analysis, threads=max(1, int(shape.cpus)))
        _until_told(replace(spec, gpus=shape.gpus), host, port, replicas, queue)


def _until_told(spec: RecommenderSpec, host: str, port: int, replicas: int, queue: int) -> None:
    from ray import serve

    from actors.serving.http import application

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    if there := sorted(serve.status().applications):
        raise EngineError(
            f"Ray Serve of this cluster serves {there[0]!r} already, whose address and end it "
            f"would share; give RAY_ADDRESS of another cluster, or none for one of its own"
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
