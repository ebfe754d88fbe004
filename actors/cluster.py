"""What a Ray cluster has, whether a run fits it, and whether its nodes see the run directory."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import ray
from ray._private import state as ray_state
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray.autoscaler.sdk import request_resources
from ray.autoscaler.v2.schema import ClusterStatus
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.experimental.internal_kv import _internal_kv_get
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from minirec.errors import ConfigError, EngineError
from minirec.resources.allocation import Node, Shape, refusal

Bundles = Sequence[dict[str, float]]
STATUS_S = 10.0  # an autoscaler tells its status some seconds after the cluster has started
PROBE_S = 60.0  # a node that cannot read a small file within this time is taken as blind


def alive_nodes() -> list[Node]:
    """The nodes of the cluster that live, with all that they have."""
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


def grows() -> bool | None:
    """Whether an autoscaler works for the cluster, so that nodes may come; None: not known yet.

    Ray does not say so itself; but nodes that it only watches are named after their id.
    """
    if is_autoscaler_v2():
        return owned(types_v2(get_cluster_status(ray.get_runtime_context().gcs_address)))
    return owned(types_v1(_internal_kv_get(DEBUG_AUTOSCALING_STATUS)))


def types_v1(kept: bytes | None) -> set[str]:
    """The types of the nodes in the status that Ray's first autoscaler keeps as JSON."""
    report = (json.loads(kept).get("autoscaler_report") if kept else None) or {}
    return {*report.get("active_nodes", {}), *(report.get("idle_nodes") or {})}


def types_v2(status: ClusterStatus) -> set[str]:
    """The same of its second one."""
    return {node.ray_node_type_name for node in [*status.active_nodes, *status.idle_nodes]}


def owned(types: set[str]) -> bool | None:
    """Whether an autoscaler gave some node its type; None where there is none to judge by."""
    if not types:
        return None
    return not all(re.fullmatch("node_[0-9a-f]{56}", name) for name in types)


class Room:
    """Waits until the cluster has room, and asks the autoscaler for it where there is one."""

    def __init__(self, wait_s: float, *, requests: bool = True) -> None:
        """Args:
        wait_s: the longest wait.
        requests: whether the autoscaler is asked ahead for what comes. It keeps one request for
            the whole cluster, so of several trials none may: it adds what they wait for.
        """
        self._grows = grows()
        self._wait_s = wait_s
        self._requests = requests
        self._others: dict[str, tuple[float, float]] = {}

    @property
    def grows(self) -> bool:
        """Whether nodes may come; asked again until the autoscaler has told its status."""
        if self._grows is None:
            self._grows = grows()
        return bool(self._grows)

    def nodes(self, engine: Shape, here: Mapping[str, int]) -> list[Node]:
        """The nodes that live, less what other jobs use of them.

        What the run itself has beside its engines looks like another job's, but it comes and
        goes: the least ever seen is taken. First asked before the run has anything.

        Args:
            engine: what each engine takes.
            here: engines at work by the id of their node.
        """
        free = ray_state.available_resources_per_node()
        found = []
        for node in alive_nodes():
            there, engines = free.get(node.id, {}), here.get(node.id, 0)
            cpus = node.cpus - there.get("CPU", 0.0) - engines * engine.cpus
            gpus = node.gpus - there.get("GPU", 0.0) - engines * engine.gpus
            seen = self._others.get(node.id, (node.cpus, node.gpus))
            others = min(seen[0], max(0, round(cpus, 4))), min(seen[1], max(0, round(gpus, 4)))
            self._others[node.id] = others
            found.append(replace(node, cpus=node.cpus - others[0], gpus=node.gpus - others[1]))
        return found

    def refuse_impossible(self, bundles: Bundles) -> None:
        """Refuse what a cluster that does not grow cannot hold even when nothing else runs.

        Raises:
            ConfigError: with both numbers.
        """
        why = refusal(bundles, alive_nodes())
        end = time.monotonic() + STATUS_S
        while why and not self.grows and self._grows is None and time.monotonic() < end:
            time.sleep(0.5)
        if why and not self.grows:
            raise ConfigError(f"{why}; lower the numbers under resources, or enlarge the cluster")

    def wait(self, bundles: Bundles, *, held: Bundles = ()) -> None:
        """Return when all bundles have room at the same time.

        The room is only looked for, not kept: a placement group takes it and gives it back.

        Args:
            bundles: what will be started next.
            held: what the run has started before, for the autoscaler to keep.

        Raises:
            EngineError: there was no room within `wait_s`; says asked, free and total.
        """
        if self._requests and self.grows:
            request_resources(bundles=[*held, *bundles])
        group = placement_group(list(bundles), strategy="PACK")
        try:
            if not group.wait(self._wait_s):
                raise EngineError(
                    f"the cluster had no room within {self._wait_s:g} s (resources.wait_s): "
                    f"{_asked(bundles)}; wait for other jobs to end, or lower the numbers under "
                    f"resources"
                )
        finally:
            remove_placement_group(group)

    def close(self) -> None:
        """Take the request back from the autoscaler."""
        if self._requests and self.grows:
            request_resources(bundles=[])


def _asked(bundles: Bundles) -> str:
    free, total = ray.available_resources(), ray.cluster_resources()
    return ", ".join(
        f"{name}: {asked:g} asked, {free.get(name, 0):g} free of {total.get(name, 0):g}"
        for name in ("CPU", "GPU")
        if (asked := sum(bundle.get(name, 0) for bundle in bundles))
    )


def check_shared(folder: Path) -> None:
    """Refuse a run directory that some node of the cluster does not see.

    Raises:
        ConfigError: names the nodes.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    token = secrets.token_hex(8)
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".probe-{token}"
    probe.write_text(token)
    try:
        blind = _blind(nodes, probe, token)
    finally:
        probe.unlink()
    if blind:
        raise ConfigError(
            f"run_dir {folder} is not seen by {', '.join(blind)}; choose a directory that every "
            f"node mounts at the same place (NFS) or s3://BUCKET/FOLDER"
        )


def _blind(nodes: Sequence[dict], probe: Path, token: str) -> list[str]:
    """Names of the nodes where the file does not hold the token."""
    reads = {
        _read.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(str(probe)): node
        for node in nodes
    }
    ray.wait(list(reads), num_returns=len(reads), timeout=PROBE_S)
    still = {node["NodeID"] for node in ray.nodes() if node["Alive"]}  # one may have left meanwhile
    return [
        f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        for ref, node in reads.items()
        if node["NodeID"] in still and not _holds(ref, token)
    ]


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
