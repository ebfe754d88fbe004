"""Runs the code cells of a notebook in one namespace, without Jupyter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SHELL = "!"


def script(notebook: Path) -> str:
    """The code cells as one program; a line that begins with ``!`` runs in a shell."""
    cells = json.loads(notebook.read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    lines = [
        f"subprocess.run({line[1:]!r}, shell=True, check=True)" if line.startswith(SHELL) else line
        for source in sources
        for line in source.splitlines()
    ]
    # Trials are processes that import the program again.
    body = "\n".join(f"    {line}" for line in lines)
    return f"import subprocess\n\nif __name__ == '__main__':\n{body}\n"


def run(notebook: Path, folder: Path, *, timeout: int) -> subprocess.CompletedProcess[str]:
    """Run the notebook in `folder`, with the commands of this Python first in PATH."""
    program = folder / "notebook.py"
    program.write_text(script(notebook))
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    return subprocess.run(
        ["/usr/bin/env", f"PATH={path}", sys.executable, str(program)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
