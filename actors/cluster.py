"""Resources of a Ray cluster, and checks that a run fits and that all nodes see its directory."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import ray
from ray._private import state as ray_state
from ray.autoscaler.sdk import request_resources
from ray.exceptions import RayError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.causes import raised_in
from minirec.errors import ConfigError, EngineError, MiniRecError
from minirec.resources.allocation import Node, Shape, refusal

Bundles = Sequence[dict[str, float]]
PROBE_S = 60.0  # a node must read a small file within this time


class Cluster:
    """The Ray cluster that this process has joined; tests replace it."""

    def joined(self) -> bool:
        """Whether this process is already connected to Ray, as a trial of a sweep is."""
        return ray.is_initialized()

    def nodes(self) -> list[Node]:
        """The living nodes with their total resources."""
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
        """Unused resources of the cluster; a resource that is used up is missing."""
        return ray.available_resources()

    def free_by_node(self) -> dict[str, dict[str, float]]:
        """Unused resources by node id."""
        return ray_state.available_resources_per_node()  # Ray has no public function for it

    def has_room(self, bundles: Bundles, *, wait_s: float) -> bool:
        """Whether all bundles fit at the same time within `wait_s`; nothing stays reserved."""
        group = placement_group(list(bundles), strategy="PACK")
        try:
            return group.wait(wait_s)
        finally:
            remove_placement_group(group)

    def on_nodes(self, ids: Collection[str], function: Callable[[str], object], text: str) -> None:
        """Call ``function(text)`` once on each of these nodes; raises what it raises there.

        A node that leaves meanwhile does not count.
        """
        task = ray.remote(num_cpus=0)(function)
        running = [
            task.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
            ).remote(text)
            for node in ids
        ]
        for ref, node in zip(running, ids, strict=True):
            try:
                ray.get(ref)
            except RayError as error:
                raised = raised_in(error)
                if isinstance(raised, MiniRecError):
                    raise raised from None
                if node in {there.id for there in self.nodes()}:
                    raise

    def request(self, bundles: Bundles) -> None:
        """Ask the autoscaler for nodes; this replaces the previous request."""
        request_resources(bundles=list(bundles))


class Room:
    """Waits until the cluster has room, and asks an autoscaler for it."""

    def __init__(
        self, cluster: Cluster, *, wait_s: float, autoscaling: bool, requests: bool = True
    ) -> None:
        """Args:
        wait_s: the longest wait.
        autoscaling: whether an autoscaler may add nodes.
        requests: whether to send requests to the autoscaler. It keeps one request for the whole
            cluster, so trials that share a cluster send none; it also adds nodes for what waits.
        """
        self.autoscaling = autoscaling
        self._cluster = cluster
        self._wait_s = wait_s
        self._requests = autoscaling and requests
        self._others: dict[str, tuple[float, float]] = {}

    def nodes(self, engine: Shape, here: Mapping[str, int]) -> list[Node]:
        """The living nodes, without the resources that other jobs use.

        Ray does not report which job uses what, so scorers and workers of this run look like those
        of another job. They come and go, so the smallest use seen so far counts as the use of other
        jobs. Call it once before the run starts anything.

        Args:
            engine: resources of one engine.
            here: number of working engines by node id.
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
        """Raise ConfigError if the bundles do not fit into the empty cluster.

        With an autoscaler nothing is refused: the cluster may become larger.
        """
        if not self.autoscaling and (why := refusal(bundles, self._cluster.nodes())):
            raise ConfigError(
                f"{why}; lower the numbers under resources, or enlarge the cluster (with an "
                f"autoscaler, set resources.autoscaling=true)"
            )

    def wait(self, bundles: Bundles, *, held: Bundles = ()) -> None:
        """Wait until all bundles fit at the same time.

        Args:
            bundles: what will be started next.
            held: what the run has started before, which the autoscaler must keep.

        Raises:
            EngineError: there was no room within `wait_s`.
        """
        if self._requests:
            self._cluster.request([*held, *bundles])
        if self._cluster.has_room(bundles, wait_s=self._wait_s):
            return
        nodes, free = self._cluster.nodes(), self._cluster.free()
        total = {"CPU": sum(n.cpus for n in nodes), "GPU": sum(n.gpus for n in nodes)}
        numbers = ", ".join(
            f"{name}: {asked:g} asked, {free.get(name, 0):g} free of {there:g}"
            for name, there in total.items()
            if (asked := sum(bundle.get(name, 0) for bundle in bundles))
        )
        raise EngineError(
            f"the cluster had no room within {self._wait_s:g} s (resources.wait_s): {numbers}; "
            f"wait for other jobs to end, or lower the numbers under resources"
        )

    def close(self) -> None:
        """Withdraw the request to the autoscaler."""
        if self._requests:
            self._cluster.request([])


def check_shared(folder: Path, cluster: Cluster) -> None:
    """Raise ConfigError if a node of the cluster cannot read the run directory."""
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
            f"run_dir {folder} cannot be read on {', '.join(blind)}; choose a directory that every "
            f"node mounts at the same path (NFS) or s3://BUCKET/FOLDER"
        )


def _blind(cluster: Cluster, probe: Path, token: str) -> list[str]:
    """Names of the nodes that do not read the token from the file."""
    reads = {
        _read.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)
        ).remote(str(probe)): node
        for node in cluster.nodes()
    }
    done, _ = ray.wait(list(reads), num_returns=len(reads), timeout=PROBE_S)
    alive = {node.id for node in cluster.nodes()}  # a node may have left
    return [
        node.name
        for ref, node in reads.items()
        if node.id in alive and not (ref in done and ray.get(ref) == token)
    ]


@ray.remote(num_cpus=0)
def _read(path: str) -> str | None:
    end = time.monotonic() + 10  # NFS may show a new file a few seconds late
    while time.monotonic() < end:
        try:
            return Path(path).read_text()
        except FileNotFoundError:
            time.sleep(0.2)
        except OSError:  # no permission, or a broken mount
            return None
    return None
