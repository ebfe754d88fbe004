"""Processes of a test's own cluster, found by a variable that all of them inherit."""

from __future__ import annotations

import psutil

MARK = "MINIREC_TEST_CLUSTER"


def marked(token: str) -> list[psutil.Process]:
    """Processes that were started by this test, however often they changed their parent."""
    found = []
    for process in psutil.process_iter():
        try:
            # Python's own tracker of shared memory stays as long as pytest.
            own = "multiprocessing.resource_tracker" in " ".join(process.cmdline())
            if not own and process.environ().get(MARK) == token:
                found.append(process)
        except psutil.Error:
            continue
    return found
