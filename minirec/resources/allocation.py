"""How many engines, scorers and training workers a cluster has room for.

Engines run during the whole run. Scorers run during `score` and `evaluate`, training workers during
`warm`, `proxy`, `train` and `gradients`. So scorers and workers share the same CPUs and GPUs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from minirec.config.resources import ResourcesConfig
from minirec.config.run import Config
from minirec.config.training import TrainingConfig

MEMORY_PER_PROCESS_GIB = 2.0  # an engine or scorer on the CPU with a small model


@dataclass(frozen=True)
class Node:
    """A machine: logical CPUs, GPUs, memory in GiB, and its id in the cluster."""

    name: str
    cpus: float
    gpus: float = 0
    memory_gib: float = math.inf
    id: str = ""


@dataclass(frozen=True)
class Shape:
    """CPUs and GPUs of one process."""

    cpus: int
    gpus: float

    def bundle(self) -> dict[str, float]:
        """The shape as a bundle of Ray."""
        return {"CPU": float(self.cpus)} | ({"GPU": float(self.gpus)} if self.gpus else {})


@dataclass(frozen=True)
class Allocation:
    """Numbers and shapes of processes; `engines` is from `engines_min` to `engines_max`."""

    engines: int
    engines_min: int
    engines_max: float
    engine: Shape
    scorers: int
    scorer: Shape
    training_workers: int
    proxy_workers: int
    warm_workers: int
    worker: Shape

    @property
    def most_workers(self) -> int:
        """The most training workers of a stage."""
        return max(self.training_workers, self.proxy_workers, self.warm_workers)

    def workers(self, stage: str) -> int:
        """Training workers of a stage: ``warm``, ``proxy`` or ``train``."""
        return {
            "warm": self.warm_workers,
            "proxy": self.proxy_workers,
            "train": self.training_workers,
        }[stage]

    def bundles(self, beside: str, *, engines: int | None = None) -> list[dict[str, float]]:
        """Bundles of `engines` engines (default: the fewest) and of the other processes of a stage.

        Args:
            beside: the stage: ``score``, ``warm``, ``proxy`` or ``train``.
        """
        count = self.engines_min if engines is None else engines
        number, shape = self.scorers, self.scorer
        if beside != "score":
            number, shape = self.workers(beside), self.worker
        return [self.engine.bundle()] * count + [shape.bundle()] * number

    def sentence(self) -> str:
        """One line for the user."""
        return (
            f"resources: {_count(self.engines, 'engine')} ({_shape(self.engine)}), "
            f"{_count(self.scorers, 'scorer')} ({_shape(self.scorer)}), "
            f"{_count(self.most_workers, 'training worker')} ({_shape(self.worker)})"
        )


def allocate(config: Config, nodes: Sequence[Node], *, local: bool) -> Allocation:
    """Resolve every ``auto`` for a cluster.

    About a quarter of the CPUs (of the GPUs if processes use them) goes to the training workers,
    and the same quarter to the scorers. The engines get the rest, since generation costs more. Each
    kind gets at least one process, even if it does not fit; but there are no engines if the policy
    writes no analysis. Workers with a share of a GPU are alone, and several workers get whole GPUs.

    Args:
        nodes: the whole cluster, including resources in use.
        local: whether the processes share the cores of this machine.
    """
    r = config.resources
    gpus = sum(node.gpus for node in nodes)
    share = 0.0 if gpus == 0 else 0.5 if gpus < 2 else 1.0
    engine = Shape(
        1 if r.cpus_per_engine == "auto" else r.cpus_per_engine,
        share if r.gpus_per_engine == "auto" else r.gpus_per_engine,
    )
    scorer = Shape(r.cpus_per_scorer, share if r.gpus_per_scorer == "auto" else r.gpus_per_scorer)
    several = r.training_workers != "auto" and r.training_workers > 1
    worker = Shape(
        1 if r.cpus_per_worker == "auto" else r.cpus_per_worker,
        # NCCL refuses two workers on one GPU.
        (float(gpus > 0) if several else share)
        if r.gpus_per_worker == "auto"
        else r.gpus_per_worker,
    )
    workers = 1 if 0 < worker.gpus < 1 else _quarter(nodes, worker)
    low, high = _bounds(r) if config.rollout.analysis else (0, 0)
    training = _workers(r, config.training, workers)
    proxy = _workers(r, config.proxy.training, workers)
    # A warm start that the run does not have must not change the other numbers.
    most = workers if "warm" in config.earlier_policies else max(training, proxy)
    found = Allocation(
        engines=1,
        engines_min=low,
        engines_max=high,
        engine=engine,
        scorers=_quarter(nodes, scorer) if r.scorers == "auto" else r.scorers,
        scorer=scorer,
        training_workers=training,
        proxy_workers=proxy,
        warm_workers=_workers(r, config.warm.training, most),
        worker=worker,
    )
    found = replace(found, engines=engines_for(found, nodes))
    if r.scorers == "auto" and config.rollout.analysis:  # more would wait for the engines
        found = replace(found, scorers=min(found.scorers, found.engines))
    if local and r.cpus_per_worker == "auto":
        cores = max(1, int(nodes[0].cpus) // found.most_workers)
        found = replace(found, worker=replace(worker, cpus=cores))
    if local and r.cpus_per_engine == "auto" and found.engines == 1 and _take_turns(config, engine):
        found = replace(found, engine=replace(engine, cpus=max(1, int(nodes[0].cpus))))
    return found


def engines_for(allocation: Allocation, nodes: Sequence[Node]) -> int:
    """Number of engines that fit beside the scorers or workers, within the bounds."""
    room = sum(_rooms(allocation, nodes))
    return int(min(max(room, allocation.engines_min), allocation.engines_max))


def engine_places(allocation: Allocation, nodes: Sequence[Node]) -> list[str]:
    """A node id for each engine of `engines_for`, in rotation; "" for engines without room."""
    rooms = enumerate(_rooms(allocation, nodes))
    turns = sorted((turn, i) for i, room in rooms for turn in range(room))
    count = engines_for(allocation, nodes)
    return ([nodes[i].id for _, i in turns] + [""] * count)[:count]


def _rooms(allocation: Allocation, nodes: Sequence[Node]) -> list[int]:
    """Number of engines that fit on each node beside the scorers or workers."""
    a = allocation
    workers = _placed(nodes, a.worker, a.most_workers)
    scorers = _placed(nodes, a.scorer, a.scorers)
    rooms = []
    for node, working, scoring in zip(nodes, workers, scorers, strict=True):
        cpus = node.cpus - max(working * a.worker.cpus, scoring * a.scorer.cpus)
        gpus = node.gpus - max(working * a.worker.gpus, scoring * a.scorer.gpus)
        if not a.engine.gpus:
            beside = max(working, scoring)
            cpus = min(cpus, node.memory_gib // MEMORY_PER_PROCESS_GIB - beside)
        rooms.append(_copies(replace(node, cpus=cpus, gpus=gpus), a.engine))
    return rooms


def refusal(bundles: Sequence[dict[str, float]], nodes: Sequence[Node]) -> str | None:
    """Why these nodes can never hold all bundles together, or None."""
    for name, there in (("CPU", [n.cpus for n in nodes]), ("GPU", [n.gpus for n in nodes])):
        asked = [bundle.get(name, 0.0) for bundle in bundles]
        if sum(asked) > sum(there):
            return f"the run asks for {sum(asked):g} {name}s, the cluster has {sum(there):g}"
        if max(asked, default=0) > max(there, default=0):
            return (
                f"one process asks for {max(asked):g} {name}s, the largest node has "
                f"{max(there):g} of them"
            )
    return None


def this_machine(*, gpus: float = 0) -> Node:
    """The machine of this process."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return Node("this machine", os.cpu_count() or 1, gpus, memory)


def unused_gpus(config: Config, gpus: float) -> str | None:
    """A line for the user if a real model would be trained on CPUs although there are GPUs.

    Args:
        gpus: GPUs of this machine or of the cluster.
    """
    r, model = config.resources, config.model
    if model.name == "demo" or not gpus or r.gpus_per_worker:
        return None
    given = {"engine": r.gpus_per_engine, "worker": 0, "scorer": r.gpus_per_scorer}
    settings = [f"resources.gpus_per_{process}=auto" for process, n in given.items() if not n]
    if model.dtype == "float32":
        settings.append("model.dtype=bfloat16")
    return (
        f"note: {model.name} is trained in {model.dtype} on CPUs, although there are GPUs "
        f"({gpus:g}); to train on them, give {' '.join(settings)}"
    )


def _take_turns(config: Config, engine: Shape) -> bool:
    """Whether an engine on CPUs is idle while the training computes."""
    return not engine.gpus and not config.training.staleness + config.proxy.training.staleness


def _bounds(resources: ResourcesConfig) -> tuple[int, float]:
    engines = resources.engines
    if engines == "auto":
        return 1, math.inf
    return engines if isinstance(engines, tuple) else (engines, engines)


def _quarter(nodes: Sequence[Node], shape: Shape) -> int:
    """Processes that fill a quarter of the GPUs, or of the CPUs if they use none; at least 1."""
    total = sum(node.gpus if shape.gpus else node.cpus for node in nodes)
    return max(1, int(total / 4 / (shape.gpus or shape.cpus)))


def _workers(resources: ResourcesConfig, training: TrainingConfig, most: int) -> int:
    """The largest number up to `most` that divides a step into whole micro-batches."""
    if resources.training_workers != "auto":
        return resources.training_workers
    rounds = training.prompts_per_step // training.prompts_per_micro_batch
    return max(n for n in range(1, min(rounds, most) + 1) if rounds % n == 0)


def _placed(nodes: Sequence[Node], shape: Shape, count: int) -> list[int]:
    """Processes on each node if the nodes are filled in order."""
    placed = []
    for node in nodes:
        placed.append(min(count, _copies(node, shape)))
        count -= placed[-1]
    return placed


def _copies(node: Node, shape: Shape) -> int:
    """Processes that fit on a node; a share of a GPU is always on one GPU."""
    copies = max(0, node.cpus // shape.cpus)
    if shape.gpus:
        whole, rest = divmod(max(0.0, round(node.gpus, 6)), 1)
        if shape.gpus >= 1:
            copies = min(copies, whole // shape.gpus)
        else:
            copies = min(copies, whole * _floor(1 / shape.gpus) + _floor(rest / shape.gpus))
    return int(copies)


def _floor(ratio: float) -> int:
    return int(ratio + 1e-6)  # ten processes fit where each takes 0.1 GPU


def _count(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def _shape(shape: Shape) -> str:
    cpus = f"{shape.cpus} CPU"
    return f"{cpus}, {shape.gpus:g} GPU" if shape.gpus else cpus
