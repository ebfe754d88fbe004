"""What a Ray cluster has, whether a run fits it, and whether its nodes see the run directory."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import ray
from ray._private import state as ray_state
from ray.autoscaler.sdk import request_resources
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from minirec.errors import ConfigError, EngineError
from minirec.resources.allocation import Node, Shape, refusal

Bundles = Sequence[dict[str, float]]
PROBE_S = 60.0  # a node that cannot read a small file within this time does not see it


class Cluster:
    """The cluster that this process has joined; tests pass an object of their own."""

    def joined(self) -> bool:
        """Whether this process works in a Ray already, as a trial of a sweep does."""
        return ray.is_initialized()

    def nodes(self) -> list[Node]:
        """The nodes that are alive, with all that they have."""
        return [
            Node(
                f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})",
                node["Resources"].get("CPU", 0),
                node["Resources"].get("GPU", 0),
                node["Resources"].get("memory", 0) / 2**30,
                node["NodeID"],
            )
            for node in ray.nodes()
            if node["Alive"]
        ]

    def free(self) -> dict[str, float]:
        """Resources that nothing uses; one that is used up is left out."""
        return ray.available_resources()

    def free_by_node(self) -> dict[str, dict[str, float]]:
        """The same by the id of a node."""
        return ray_state.available_resources_per_node()  # Ray has no public way to ask

    def has_room(self, bundles: Bundles, *, wait_s: float) -> bool:
        """Whether all bundles have room at the same time, after a wait; nothing is reserved."""
        group = placement_group(list(bundles), strategy="PACK")
        try:
            return group.wait(wait_s)
        finally:
            remove_placement_group(group)

    def request(self, bundles: Bundles) -> None:
        """Ask the autoscaler for nodes; replaces the request before."""
        request_resources(bundles=list(bundles))


class Room:
    """Waits until the cluster has room, and asks the autoscaler for it where there is one."""

    def __init__(
        self, cluster: Cluster, *, wait_s: float, autoscaling: bool, requests: bool = True
    ) -> None:
        """Args:
        wait_s: the longest wait.
        autoscaling: whether an autoscaler may add nodes.
        requests: whether the autoscaler is asked ahead for what comes. It keeps one request for
            the whole cluster, so trials that share it must not ask: it adds what they wait for.
        """
        self.autoscaling = autoscaling
        self._cluster = cluster
        self._wait_s = wait_s
        self._requests = autoscaling and requests
        self._others: dict[str, tuple[float, float]] = {}

    def nodes(self, engine: Shape, here: Mapping[str, int]) -> list[Node]:
        """The nodes that live, less what other jobs use of them.

        Ray does not say which job uses what. So the scorers and workers of this run look like those
        of another job; but they come and go, so the smallest use ever seen counts as that of other
        jobs. Call it once before the run has started anything.

        Args:
            engine: what each engine takes.
            here: engines at work by the id of their node.
        """
        free = self._cluster.free_by_node()
        found = []
        for node in self._cluster.nodes():
            there, engines = free.get(node.id, {}), here.get(node.id, 0)
            cpus = node.cpus - there.get("CPU", 0.0) - engines * engine.cpus
            gpus = node.gpus - there.get("GPU", 0.0) - engines * engine.gpus
            seen = self._others.get(node.id, (node.cpus, node.gpus))
            others = min(seen[0], max(0, round(cpus, 4))), min(seen[1], max(0, round(gpus, 4)))
            self._others[node.id] = others
            found.append(replace(node, cpus=node.cpus - others[0], gpus=node.gpus - others[1]))
        return found

    def refuse_impossible(self, bundles: Bundles) -> None:
        """Refuse what the cluster cannot hold even when nothing else runs.

        With an autoscaler nothing is refused: the cluster may become larger.

        Raises:
            ConfigError: with both numbers.
        """
        if not self.autoscaling and (why := refusal(bundles, self._cluster.nodes())):
            raise ConfigError(
                f"{why}; lower the numbers under resources, or enlarge the cluster (with an "
                f"autoscaler, set resources.autoscaling=true)"
            )

    def wait(self, bundles: Bundles, *, held: Bundles = ()) -> None:
        """Return when all bundles have room at the same time.

        Args:
            bundles: what will be started next.
            held: what the run has started before, which the autoscaler must keep.

        Raises:
            EngineError: there was no room within `wait_s`; names what is asked, free and total.
        """
        if self._requests:
            self._cluster.request([*held, *bundles])
        if not self._cluster.has_room(bundles, wait_s=self._wait_s):
            raise EngineError(
                f"the cluster had no room within {self._wait_s:g} s (resources.wait_s): "
                f"{self._asked(bundles)}; wait for other jobs to end, or lower the numbers under "
                f"resources"
            )

    def _asked(self, bundles: Bundles) -> str:
        nodes, free = self._cluster.nodes(), self._cluster.free()
        total = {"CPU": sum(n.cpus for n in nodes), "GPU": sum(n.gpus for n in nodes)}
        return ", ".join(
            f"{name}: {asked:g} asked, {free.get(name, 0):g} free of {there:g}"
            for name, there in total.items()
            if (asked := sum(bundle.get(name, 0) for bundle in bundles))
        )

    def close(self) -> None:
        """Take the request back from the autoscaler."""
        if self._requests:
            self._cluster.request([])


def check_shared(folder: Path, cluster: Cluster) -> None:
    """Refuse a run directory that a node of the cluster does not see.

    Raises:
        ConfigError: names the nodes.
    """
    token = secrets.token_hex(8)
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".probe-{token}"
    probe.write_text(token)
    try:
        blind = _blind(cluster, probe, token)
    finally:
        probe.unlink()
    if blind:
        raise ConfigError(
            f"run_dir {folder} is not seen by {', '.join(blind)}; choose a directory that every "
            f"node mounts at the same place (NFS) or s3://BUCKET/FOLDER"
        )


def _blind(cluster: Cluster, probe: Path, token: str) -> list[str]:
    """Names of the nodes that do not read the token from the file."""
    reads = {
        _read.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)
        ).remote(str(probe)): node
        for node in cluster.nodes()
    }
    ray.wait(list(reads), num_returns=len(reads), timeout=PROBE_S)
    alive = {node.id for node in cluster.nodes()}  # one may have left
    return [node.name for ref, node in reads.items() if node.id in alive and not _holds(ref, token)]


def _holds(ref: ray.ObjectRef, token: str) -> bool:
    done, _ = ray.wait([ref], timeout=0)
    return bool(done) and ray.get(ref) == token


@ray.remote(num_cpus=0)
def _read(path: str) -> str | None:
    end = time.monotonic() + 10  # NFS may show a new file a few seconds late
    while time.monotonic() < end:
        try:
            return Path(path).read_text()
        except FileNotFoundError:
            time.sleep(0.2)
        except OSError:  # this node may not read it, or its mount is broken
            return None
    return None
