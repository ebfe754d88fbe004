"""Rewards from a judge: a function of the user that orders the rollouts of a prompt.

After GPTRank of LLMs as references (arXiv 2305.14239), where an LLM orders a numbered list. There
the order of the list is known to matter, so a judge here gets the texts shuffled.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any

from minirec.errors import ConfigError, EngineError

JudgeFunction = Callable[[str, list[str]], Sequence[int | Sequence[int]]]
"""``(prompt, texts) -> order``: the positions of all texts, the best first.

Positions inside a list of their own, as in ``[2, [0, 3], 1]``, are a tie.
"""


class OrderError(ValueError):
    """What a judge returned is no order of its texts."""


def dense_rewards(order: Any, *, count: int, size: int) -> list[float]:
    """Rewards of `count` texts by their order: the dense rank from the worst, 1, divided by `size`.

    Raises:
        OrderError: the order does not name each position 0..count-1 once.
    """
    levels: dict[int, int] = {}
    wrong = not isinstance(order, Sequence) or isinstance(order, str)
    for level, place in enumerate(() if wrong else order):
        tied = place if isinstance(place, Sequence) and not isinstance(place, str) else [place]
        wrong = wrong or not tied
        for position in tied:
            whole = isinstance(position, int) and not isinstance(position, bool)
            wrong = wrong or not whole or position in levels
            levels[position if whole else -1] = level
    if wrong or sorted(levels) != [*range(count)]:
        raise OrderError(
            f"{order!r} is no order of {count} texts; return each of the positions 0 to "
            f"{count - 1} once, the best first, and ties as a list, such as [1, [0, 2]]"
        )
    most = 1 + max(levels.values())
    return [(most - levels[position]) / size for position in range(count)]


def judged(judge: JudgeFunction, prompt: str, texts: Sequence[str], *, seed: int) -> list[float]:
    """The rewards (G,) of the texts of a prompt, above 0 and at most 1.

    The judge gets each distinct text once, in an order by `seed`. So equal texts earn the same, and
    no place is favoured. It is not asked about a single text.

    Raises:
        OrderError: as `dense_rewards`.
    """
    distinct = sorted(set(texts))
    random.Random(seed).shuffle(distinct)
    order = judge(prompt, list(distinct)) if len(distinct) > 1 else [0]
    rewards = dense_rewards(order, count=len(distinct), size=len(texts))
    found = dict(zip(distinct, rewards, strict=True))
    return [found[text] for text in texts]


def judge_all(
    judge: JudgeFunction,
    asked: Sequence[tuple[str, Sequence[str]]],
    seeds: Sequence[int],
    *,
    name: str,
    calls: int,
    deadline_s: float,
) -> list[list[float]]:
    """`judged` for each prompt with its texts, with at most `calls` at a time.

    The calls are in threads that do not keep the process alive, since nothing can stop a function
    that hangs.

    Args:
        name: of the judge, for messages.
        deadline_s: the longest wait for the next answer.

    Raises:
        ConfigError: an answer is no order.
        EngineError: the judge raised, or did not answer in time.
    """
    todo: SimpleQueue[int] = SimpleQueue()
    done: SimpleQueue[tuple[int, list[float] | Exception]] = SimpleQueue()
    for number in range(len(asked)):
        todo.put(number)

    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            try:
                number = todo.get_nowait()
            except Empty:
                return
            try:
                done.put((number, judged(judge, *asked[number], seed=seeds[number])))
            except Exception as error:
                done.put((number, error))

    for _ in range(min(calls, len(asked))):
        threading.Thread(target=work, daemon=True).start()
    found: dict[int, list[float]] = {}
    try:
        while len(found) < len(asked):
            number, answer = done.get(timeout=deadline_s)
            if isinstance(answer, Exception):
                raise _refused(name, answer) from answer
            found[number] = answer
    except Empty:
        raise EngineError(
            f"reward.judge {name} gave no answer for {deadline_s:g} s; make it faster, or raise "
            f"reward.judge_deadline_s"
        ) from None
    finally:
        ended.set()
    return [found[number] for number in range(len(asked))]


def _refused(name: str, error: Exception) -> Exception:
    if isinstance(error, OrderError):
        return ConfigError(f"reward.judge {name} returned {error}")
    return EngineError(f"reward.judge {name} failed: {type(error).__name__}: {error}")
