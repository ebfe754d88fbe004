"""Runs exported code without MiniRec."""

import subprocess
import sys


def alone(folder, code, *words):
    """Run code in the folder, in a Python without MiniRec; return its output."""
    hidden = (
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.partition('.')[0] in ('minirec', 'actors', 'jobs'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hide())\nsys.path.insert(0, '.')\n"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-c", hidden + code, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout
