"""Shortens Ray's report on a failed task, actor or training worker to one sentence."""

from __future__ import annotations

import re

from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError

RAISED = re.compile(r"^(?:\w+\.)*(\w*(?:Error|Exception|Interrupt|Exit|Warning)): *(.*)$")
# Ray Data appends advice that begins here to the message of every exception.
RETRIED = re.compile(r"\nFailed to .* attempts \(total backoff")
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
        used = re.search(r"([\d.]+ ?[GM]i?B) / ([\d.]+ ?[GM]i?B)", text)
        numbers = f" ({used[1]} of {used[2]} were used)" if used else ""
        return f"Ray killed its process, since the node ran out of memory{numbers}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    raised = [match for line in lines if (match := RAISED.match(line))]
    # Ray Train reports the death of a worker under its own name.
    died = raised and (raised[-1][1] in DEATHS or raised[-1][2].startswith(ACTOR_DIED))
    if raised and not died:
        return f"{raised[-1][1]}: {raised[-1][2]}"
    if raised or isinstance(error, (RayActorError, WorkerCrashedError)):
        return _death(text)
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__


def raised_in(error: BaseException) -> BaseException:
    """The exception that a task or a nested task raised; any other error unchanged.

    A `RayTaskError` is also an instance of its cause's type, but its text is Ray's report.
    """
    while isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    return error


def taken_away(error: RayActorError) -> bool:
    """Whether an actor ended because its node died or because its owner killed it."""
    return "ray.kill" in str(error) or cause(error).endswith(WITH_NODE)


def _death(text: str) -> str:
    pid = re.search(r"(?:Worker PID|pid)[:=] *(\d+)", text)
    process = f"its process {pid[1]}" if pid else "its process"
    if re.search(r"node (?:has )?(?:died|was terminated|is dead)", text):
        return f"{process} {WITH_NODE}"
    return (
        f"{process} was killed or crashed without an error message: SIGKILL, which the kernel also "
        f"sends when memory runs out, or a crash such as SIGSEGV"
    )
