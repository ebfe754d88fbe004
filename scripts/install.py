#!/usr/bin/env python3
"""Install MiniRec into `.venv` with uv, by hash from locks/. It is safe to interrupt or repeat it.

The CPU build of torch is in no lock. It comes from a folder of PIP_FIND_LINKS that has the wheel,
or from PyTorch's index. The file `.venv/minirec-installed` is written last. If it matches, the next
call does nothing; if it is missing, the next call makes a new `.venv`.
"""

import ctypes.util
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv/bin/python"
STAMP = ROOT / ".venv/minirec-installed"
SUPPORTED = ("3.11", "3.12")
# Checks that the packages work together, and compiles their byte-code.
IMPORTS = """
import deepspeed, peft, ray.data, ray.serve, ray.train.torch, ray.tune, sklearn, torch, vllm
from transformers import AutoModelForCausalLM, Qwen2ForCausalLM
from vllm import LLM
if torch.version.cuda and not torch.cuda.is_available():
    print("install: note: torch sees no GPU; the driver may be too old")
"""


def version_of(python: str) -> str:
    """For example `3.11`; empty if this Python does not exist or cannot make a `.venv`."""
    code = "import ensurepip, sys, venv; print('{}.{}'.format(*sys.version_info))"
    try:
        printed = subprocess.check_output([python, "-c", code], stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return printed.decode().strip()


def choose_python() -> str:
    """A supported Python: the running one, or one on the PATH."""
    for python in (sys.executable, *(f"python{version}" for version in SUPPORTED)):
        if version_of(python) in SUPPORTED:
            return python
    sys.exit(
        "install: MiniRec needs Python 3.11 or 3.12 with its module venv, and this is Python "
        f"{sys.version.split()[0]}: install python3.11 and python3.11-venv, or name a Python with "
        "`make PYTHON=/path/to/python3.11`."
    )


def fingerprint(flavor: str, root: Path) -> str:
    """Hash of all that an installation depends on. Scripts in .venv/bin contain the path `root`."""
    digest = hashlib.sha256(f"{flavor}\0{root}\0".encode())
    for name in (f"locks/{flavor}.txt", "locks/uv.txt", "setup.cfg", "scripts/install.py"):
        digest.update((root / name).read_bytes())
    return digest.hexdigest()


def torch_source(folders: str, wheel: str) -> list[str]:
    """Arguments that tell uv where to find the CPU build of torch."""
    found = [f for f in folders.split() if "://" in f or any(Path(f).glob(wheel))]
    links = [word for folder in found for word in ("--find-links", folder)]
    return links or ["--torch-backend", "cpu"]


def run(*command: object, stdin: str = "") -> None:
    """Run a tool; pass pip's settings for index and certificate to uv."""
    environment = dict(os.environ)
    for ours, pips in (("UV_DEFAULT_INDEX", "PIP_INDEX_URL"), ("SSL_CERT_FILE", "PIP_CERT")):
        if pips in environment:
            environment.setdefault(ours, environment[pips])
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=ROOT, env=environment, input=stdin.encode())
    if done.returncode:
        sys.exit(
            f"install: `{' '.join(words[:5])} ...` failed (see above). Fix the cause (usually the "
            "network or a full disk) and run the same command again."
        )


def install(flavor: str) -> None:
    """Install the packages of the lock and this project into `.venv`."""
    wanted = fingerprint(flavor, ROOT)
    finished = PYTHON.exists() and STAMP.exists()
    if finished and STAMP.read_text() == wanted:
        return
    print(f"install: locks/{flavor}.txt into .venv", flush=True)
    if not finished:  # an interrupted installation may hold half a package
        run(choose_python(), "-m", "venv", "--clear", ".venv")
    STAMP.unlink(missing_ok=True)
    run(PYTHON, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", "locks/uv.txt")
    uv = (PYTHON, "-m", "uv", "pip")
    sync = (*uv, "sync", "--python", PYTHON, f"locks/{flavor}.txt")
    if flavor == "cpu":
        pin = re.findall(r"\btorch==(\S+)", (ROOT / "setup.cfg").read_text())[0] + "+cpu"
        wheel = f"torch-{pin}-cp{version_of(str(PYTHON)).replace('.', '')}-*.whl"
        source = torch_source(os.environ.get("PIP_FIND_LINKS", ""), wheel)
        run(*sync, "-", *source, stdin=f"torch=={pin}\n")
    else:
        run(*sync)
    run(*uv, "install", "--python", PYTHON, "--no-deps", "--no-build-isolation", "--editable", ".")
    print("install: importing the largest packages", flush=True)
    run(PYTHON, "-c", IMPORTS)
    if flavor == "cpu" and not ctypes.util.find_library("numa"):
        print("install: note: vLLM for CPUs needs libnuma to start (`apt-get install libnuma1`)")
    STAMP.write_text(wanted)


if __name__ == "__main__":
    if sys.argv[1:] not in (["cpu"], ["gpu"]):
        sys.exit("usage: install.py cpu|gpu")
    try:
        install(sys.argv[1])
    except KeyboardInterrupt:
        sys.exit("install: interrupted; the same command goes on from here")
