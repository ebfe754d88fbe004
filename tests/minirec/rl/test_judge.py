"""Rewards from the order of a judge."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirec.errors import ConfigError, EngineError
from minirec.rl.judge import OrderError, dense_rewards, judge_all, judged


def longest_first(prompt, texts):
    return sorted(range(len(texts)), key=lambda i: -len(texts[i]))


def ask(judge, texts=("a", "bb"), **changes):
    settings = {"name": "mine:judge", "calls": 1, "deadline_s": 20, **changes}
    return judge_all(judge, [("p", texts)] * 3, [1, 2, 3], **settings)


def test_dense_ranks_by_hand():
    assert dense_rewards([2, 0, 1], count=3, size=3) == [2 / 3, 1 / 3, 1]
    # Text 1 is the best, 0 and 3 tie, and 2 is the worst: three ranks of four rollouts.
    assert dense_rewards([1, [3, 0], 2], count=4, size=4) == [0.5, 0.75, 0.25, 0.5]


@pytest.mark.parametrize(
    "order",
    [None, 1, "10", [0], [0, 0], [0, 1, 2], [1, 2], [0, "1"], [0, True], [[0], []], [0, 1.0], [[]]],
)
def test_what_is_no_order_is_refused(order):
    with pytest.raises(OrderError, match="is no order of 2 texts; return each of the positions"):
        dense_rewards(order, count=2, size=2)


@given(st.lists(st.text("ab", max_size=3), min_size=1, max_size=6), st.integers(0, 9), st.randoms())
def test_positions_and_seeds_change_nothing(texts, seed, random):
    """For a judge that reads texts alone, a text has one reward wherever it stands."""
    order = [*range(len(texts))]
    random.shuffle(order)

    def alphabetical(prompt, given):
        return sorted(range(len(given)), key=lambda i: given[i])

    found = judged(alphabetical, "p", texts, seed=seed)
    moved = judged(alphabetical, "p", [texts[i] for i in order], seed=seed + 1)
    assert moved == [found[i] for i in order]
    assert min(found) == 1 / len(texts)


def test_a_judge_that_favours_a_place_sees_shuffled_texts():
    first = [judged(lambda p, texts: [0, 1], "p", ["a", "b"], seed=s)[0] for s in range(20)]
    assert set(first) == {0.5, 1}
    again = [judged(lambda p, texts: [0, 1], "p", ["a", "b"], seed=s)[0] for s in range(20)]
    assert again == first


def test_equal_texts_are_not_judged():
    assert judged(None, "p", ["a", "a"], seed=1) == [0.5, 0.5]
    asked = []

    def judge(prompt, texts):
        asked.append(sorted(texts))
        return longest_first(prompt, texts)

    assert judged(judge, "p", ["a", "bb", "a", "a"], seed=1) == [0.25, 0.5, 0.25, 0.25]
    assert asked == [["a", "bb"]]


def test_all_prompts_in_order_with_several_calls():
    asked = [(f"p{i}", ["a" * (i % 3 + 1), "bb"]) for i in range(9)]

    def judge(prompt, texts):
        time.sleep(0.02 * (9 - int(prompt[1:])))
        return longest_first(prompt, texts)

    settings = {"name": "j", "deadline_s": 20}
    many = judge_all(judge, asked, [*range(9)], calls=4, **settings)
    assert many == judge_all(longest_first, asked, [*range(9)], calls=1, **settings)


def test_a_wrong_answer_names_the_judge():
    with pytest.raises(ConfigError, match=r"reward\.judge mine:judge returned \[0\] is no order"):
        ask(lambda prompt, texts: [0])


def test_an_error_of_the_judge_is_one_sentence():
    def judge(prompt, texts):
        raise ConnectionError("no route")

    with pytest.raises(
        EngineError, match=r"reward\.judge mine:judge failed: ConnectionError: no route"
    ):
        ask(judge)


def test_a_judge_that_hangs_has_a_deadline():
    ended = threading.Event()

    def judge(prompt, texts):
        ended.wait(20)
        return [0, 1]

    with pytest.raises(EngineError, match=r"gave no answer for 0\.1 s; make it faster"):
        ask(judge, deadline_s=0.1)
    ended.set()
