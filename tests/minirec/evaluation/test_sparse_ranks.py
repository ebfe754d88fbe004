"""Ranks by sparse scores are those by the same scores as an array, and by counting."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from minirec.evaluation.references import ranked


@st.composite
def cases(draw):
    items, rows = draw(st.integers(1, 8)), draw(st.integers(1, 5))

    def numbers(values, count):
        return draw(st.lists(st.sampled_from(values), min_size=count, max_size=count))

    scores = np.array(numbers([0, 0, 0, 0.5, 1, -1], rows * items), float).reshape(rows, items)
    ties = np.array(numbers([0, 0, 1, 2], items), float)
    item = st.integers(0, items - 1)
    target = draw(st.lists(item, min_size=rows, max_size=rows))
    excluded = draw(st.lists(st.lists(item, max_size=5), min_size=rows, max_size=rows))
    stored = np.array(numbers([True, False], rows * items)).reshape(rows, items)
    return scores, ties, target, excluded, stored


def counted(scores, ties, target, excluded):
    """1 + the rivals that are not behind the target, one by one."""
    found = []
    for score, own, out in zip(scores, target, excluded, strict=True):
        key = (score[own], ties[own])
        rivals = [v for v in range(len(score)) if v != own and v not in out]
        found.append(1 + sum((score[v], ties[v]) >= key for v in rivals))
    return found


@given(cases(), st.integers(1, 6))
@settings(max_examples=300)
def test_sparse_and_dense_scores_give_the_counted_ranks(case, block):
    scores, ties, target, excluded, stored = case
    # A zero may be stored or not.
    row, column = np.nonzero((scores != 0) | stored)
    given_sparse = sparse.csr_matrix((scores[row, column], (row, column)), shape=scores.shape)
    for given_scores in (scores, given_sparse):
        place = iter(range(0, len(target), block))

        def score(history, given_scores=given_scores, place=place):
            start = next(place)
            return given_scores[start : start + len(history)], ties

        ranks = ranked(
            score,
            items=scores.shape[1],
            history=[[]] * len(target),
            target=target,
            excluded=excluded,
            block=block,
        )
        assert ranks.tolist() == counted(scores, ties, target, excluded)


def test_an_item_outside_the_catalogue_is_refused():
    with pytest.raises(ValueError, match=r"target entry 0 is 3; expected 0\.\.2"):
        ranked(lambda _: (None, None), items=3, history=[[]], target=[3], excluded=[[]])
