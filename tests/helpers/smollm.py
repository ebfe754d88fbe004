"""The GGUF file that `make smollm` fetches."""

from pathlib import Path

import pytest

from helpers.paths import ROOT

FILE = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm() -> Path:
    """Its path; skips the test where it is absent."""
    if not FILE.exists():
        pytest.skip(f"{FILE.relative_to(ROOT)} is absent; `make smollm` fetches it")
    return FILE
