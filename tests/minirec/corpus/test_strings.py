"""Texts in an Arrow array read like a list of strings."""

import pickle

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirec.corpus.table import PIECE, Strings


@given(st.lists(st.text(max_size=4), max_size=9), st.lists(st.text(max_size=4), max_size=3))
def test_it_reads_like_a_list(texts, more):
    half = len(texts) // 2
    chunks = pa.chunked_array([texts[:half], texts[half:]], pa.string())
    for found in (Strings(texts), Strings(chunks), Strings(pa.array(texts, pa.string()))):
        assert list(found) == texts and len(found) == len(texts)
        assert [found[i] for i in range(len(texts))] == texts
        assert found[1:3] == texts[1:3]
        assert list(found + more) == texts + more
        assert list(pickle.loads(pickle.dumps(found))) == texts
        with pytest.raises(IndexError):
            found[len(texts)]


def test_all_pieces_are_read_in_order():
    texts = [str(i) for i in range(2 * PIECE + 5)]
    assert list(Strings(texts)) == texts
