"""A Ray cluster of several raylets on this machine, whose nodes can be killed and added."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import psutil

from helpers.ports import free_ports

# A worker of the local run would otherwise have all cores, and other last digits.
SAME = ("corpus.demo.users=160", "resources.cpus_per_worker=1")


class Nodes:
    """A cluster whose head has no CPUs, and nodes that are known by their numbers."""

    def __init__(self, *cpus: int) -> None:
        from ray.cluster_utils import Cluster

        common = {"object_store_memory": 100 << 20, "include_dashboard": False}
        head = {"num_cpus": 0, "dashboard_agent_listen_port": free_ports(1)[0], **common}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = {}
        for count in cpus:
            self.add(count)

    def address(self) -> str:
        return self.cluster.address

    def add(self, cpus: int) -> int:
        node = self.cluster.add_node(
            num_cpus=cpus, object_store_memory=100 << 20, include_dashboard=False
        )
        self.nodes[len(self.nodes)] = node
        return len(self.nodes) - 1

    def kill(self, number: int) -> None:
        """SIGKILL a node's raylet and what the raylet started, as if its machine were gone."""
        node, self.nodes[number] = self.nodes[number], None
        self._kill(node)

    def kill_all(self) -> None:
        """SIGKILL every process of the cluster, the head last."""
        for number, node in self.nodes.items():
            if node is not None:
                self.kill(number)
        self._kill(self.cluster.head_node)

    def _kill(self, node) -> None:
        processes = family(node)
        self.cluster.remove_node(node, allow_graceful=False)
        for process in processes:
            if process.is_running():
                process.kill()

    def running(self, title: str) -> list[int]:
        """The nodes that have a process whose title holds `title`."""
        return [
            number
            for number, node in self.nodes.items()
            if node is not None and any(title in found for found in titles(node))
        ]

    def shutdown(self) -> None:
        self.cluster.shutdown()


class NodesProcess:
    """`Nodes` in a process of its own: Ray reads the mode of authentication when it is loaded."""

    def __init__(self, *cpus: int) -> None:
        self._process = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        self.address = self._ask(_start, *cpus)

    def _ask(self, function, *arguments):
        return self._process.submit(function, *arguments).result(timeout=120)

    def add(self, cpus: int) -> int:
        return self._ask(_call, "add", cpus)

    def kill(self, number: int) -> None:
        self._ask(_call, "kill", number)

    def kill_all(self) -> None:
        self._ask(_call, "kill_all")

    def running(self, title: str) -> list[int]:
        return self._ask(_call, "running", title)

    def shutdown(self) -> None:
        self._ask(_call, "shutdown")
        self._process.shutdown()


_nodes: list[Nodes] = []  # of the process of `NodesProcess`


def _start(*cpus: int) -> str:
    _nodes.append(Nodes(*cpus))
    return _nodes[0].address()


def _call(name: str, *arguments):
    return getattr(_nodes[0], name)(*arguments)


def family(node) -> list[psutil.Process]:
    """The processes of a node, found by those that its Ray node object has started."""
    roots = [info.process.pid for infos in node.all_processes.values() for info in infos]
    found = []
    for pid in roots:
        if psutil.pid_exists(pid):
            one = psutil.Process(pid)
            found += [one, *one.children(recursive=True)]
    return found


def titles(node) -> list[str]:
    found = []
    for process in family(node):
        try:
            found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found
