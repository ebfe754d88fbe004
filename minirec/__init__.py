"""MiniRec: data-efficient reinforcement learning of LLM recommenders (arXiv 2602.04278).

`select`, `run`, `compare` and `RunResults` are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobs.api import RunResults, compare, run
    from minirec.selection.subset import select

__version__ = "0.1.0"
__all__ = ["RunResults", "__version__", "compare", "run", "select"]

# Only here does the inner ring name the outer one; see "Three rings" in docs/architecture.md.
_PLACES = {
    "select": "minirec.selection.subset",
    "run": "jobs.api",
    "compare": "jobs.api",
    "RunResults": "jobs.api",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'minirec' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
