"""Runs the code cells of a notebook in one namespace, without Jupyter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def script(notebook: Path) -> str:
    """The code cells as one program."""
    cells = json.loads(notebook.read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    # Trials are processes that import the program again.
    body = "\n".join(f"    {line}" for source in sources for line in source.splitlines())
    return f"if __name__ == '__main__':\n{body}\n"


def run(notebook: Path, folder: Path, *, timeout: int) -> subprocess.CompletedProcess[str]:
    """Run the notebook in `folder`."""
    program = folder / "notebook.py"
    program.write_text(script(notebook))
    return subprocess.run(
        [sys.executable, str(program)], cwd=folder, capture_output=True, text=True, timeout=timeout
    )
