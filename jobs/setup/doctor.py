"""`minirec doctor`: what of the installation, the machine and Ray works."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from jobs.setup.checks import Found, checks

Checks = Iterable[tuple[str, Callable[[], Found]]]


def doctor(runs: Path, *, given: Checks | None = None) -> int:
    """Print a line for each check; returns 0 if none fails, else 1.

    Args:
        runs: folder in which runs are kept.
        given: replaces the checks in tests.
    """
    failed = 0
    for name, check in checks(runs) if given is None else given:
        try:
            found = check()
        except Exception as error:  # a broken check must not hide the others
            found = Found("fails", f"{type(error).__name__}: {error}", "report this")
        advice = f"; {found.advice}" if found.advice else ""
        print(f"{found.state:8} {name}: {found.what}{advice}", flush=True)
        failed += found.state == "fails"
    return 1 if failed else 0
