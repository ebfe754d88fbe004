"""Token lists in arrays are the lists that they were made of."""

from hypothesis import given
from hypothesis import strategies as st

from minirec.model.token_lists import TokenLists

LISTS = st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=5), max_size=9)


@given(LISTS, st.integers(-12, 12), st.integers(-12, 12))
def test_it_reads_like_a_list_of_lists(lists, start, stop):
    found = TokenLists(iter(lists))
    assert len(found) == len(lists) and list(found) == lists
    assert found[start:stop] == lists[start:stop]
    assert [found[i - len(lists)] for i in range(len(lists))] == lists
    assert found.tokens == sum(map(len, lists))
    for outside in (len(lists), -len(lists) - 1):
        try:
            found[outside]
        except IndexError:
            continue
        raise AssertionError(f"{outside} was read")
