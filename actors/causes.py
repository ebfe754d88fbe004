"""Why a task, an actor or a training worker ended: one sentence made from Ray's long report."""

from __future__ import annotations

import re

from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError

RAISED = re.compile(r"^(?:\w+\.)*(\w*(?:Error|Exception|Interrupt|Exit|Warning)): *(.*)$")
RETRIED = re.compile(r"\nFailed to .* attempts \(total backoff")
"""Where Ray Data's own advice begins, which it appends to the message of any exception."""
ACTOR_DIED = ("The actor is dead because", "The actor died")
WITH_NODE = "is gone with its node"
DEATHS = {"ActorDiedError", "RayActorError", "ActorUnavailableError", "WorkerCrashedError"}


def cause(error: BaseException) -> str:
    """Type and message of the exception that a worker raised, or how its process ended.

    Ray's report contains the traceback of the worker and ends with the exception. If the process
    ended without one, the report lists possible reasons.
    """
    if isinstance(error, RayTaskError) and error.cause is not None:
        return cause(error.cause) if isinstance(error.cause, Exception) else str(error.cause)
    text = RETRIED.split(str(error))[0]
    if isinstance(error, OutOfMemoryError) or "node running low on memory" in text:
        return _out_of_memory(text)
    raised = [match for line in text.splitlines() if (match := RAISED.match(line.strip()))]
    # Ray Train reports the death of a worker under its own name.
    died = raised and (raised[-1][1] in DEATHS or raised[-1][2].startswith(ACTOR_DIED))
    if raised and not died:
        return f"{raised[-1][1]}: {raised[-1][2]}"
    if raised or isinstance(error, (RayActorError, WorkerCrashedError)):
        return _death(text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__


def raised_in(error: BaseException) -> BaseException:
    """The exception that a task raised, also a task within a task; any other error unchanged.

    A `RayTaskError` is an instance of its cause's type too, but its text is Ray's report.
    """
    while isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    return error


def taken_away(error: RayActorError) -> bool:
    """Whether an actor ended with its node, or because its owner let it go."""
    return "ray.kill" in str(error) or cause(error).endswith(WITH_NODE)


def _death(text: str) -> str:
    pid = re.search(r"(?:Worker PID|pid)[:=] *(\d+)", text)
    process = f"its process {pid[1]}" if pid else "its process"
    if "node" in text and re.search(r"node (?:has )?(?:died|was terminated|is dead)", text):
        return f"{process} {WITH_NODE}"
    return (
        f"{process} was killed or crashed without a word: SIGKILL, which the kernel also sends "
        f"when memory runs out, or a crash such as SIGSEGV"
    )


def _out_of_memory(text: str) -> str:
    used = re.search(r"([\d.]+ ?[GM]i?B) / ([\d.]+ ?[GM]i?B)", text)
    numbers = f" ({used[1]} of {used[2]} were used)" if used else ""
    return f"Ray killed its process, since the node ran out of memory{numbers}"
