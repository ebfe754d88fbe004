"""The bytes of a corpus do not depend on the parts in which it is made."""

import itertools
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from helpers.small_corpora import clean_of
from hypothesis import given, settings
from hypothesis import strategies as st

from minirec.config.corpus import CorpusConfig
from minirec.corpus.assemble import rejected_rows
from minirec.corpus.filters import filtered
from minirec.corpus.items import COMPACT
from minirec.corpus.parts import LocalParts
from minirec.corpus.places import Places
from minirec.corpus.rejects import ROWS, Tally, with_others
from minirec.corpus.samples import write_samples
from minirec.corpus.split import plan
from minirec.errors import CorpusError

ROWS_OF_EVENTS = st.lists(
    st.tuples(
        st.sampled_from([f"u{n}" for n in range(6)]),
        st.sampled_from([f"i{n}" for n in range(6)]),
        st.integers(1, 5),
        st.integers(0, 15),
    ),
    min_size=8,
    max_size=60,
    unique_by=lambda row: (row[0], row[1], row[3]),
)
SETTINGS = st.fixed_dictionaries(
    {
        "same_time": st.sampled_from(["exclude", "keep"]),
        "ties": st.sampled_from(["hash", "key", "file"]),
        "split": st.sampled_from([(0.8, 0.1, 0.1), (0.2, 0.4, 0.4), "leave_one_out"]),
        "k_core": st.integers(1, 3),
        "min_rating": st.sampled_from([None, 2.0]),
        "history": st.integers(1, 3),
    }
)


def outcome(tables: list[pa.Table], items, corpus: CorpusConfig) -> dict[str, bytes] | str:
    """The files of the samples, or why there are none."""
    parts = LocalParts(tables)
    try:
        kept = filtered(parts, corpus, items=items)
        planned = plan(parts, corpus, items=items, kept=kept)
    except CorpusError as error:
        return str(error)
    with tempfile.TemporaryDirectory() as name:
        facts = write_samples(
            Path(name),
            parts,
            corpus,
            items=items,
            kept=kept,
            plan=planned,
            watch=lambda batch: None,
        )
        files = {file.name: file.read_bytes() for file in Path(name).iterdir()}
    return files | {"facts": str(facts).encode(), "plan": str(planned).encode()}


@given(
    rows=ROWS_OF_EVENTS,
    owner=st.lists(st.integers(0, 3), min_size=6, max_size=6),
    corpus=SETTINGS,
    data=st.data(),
)
@settings(max_examples=150)
def test_any_parts_give_the_same_bytes(rows, owner, corpus, data):
    clean, items = clean_of(rows)
    corpus = CorpusConfig(**corpus)
    users = clean["user"].to_pylist()
    shuffled = data.draw(st.permutations(range(len(rows))))
    owners = [owner[int(user[1:])] for user in users]
    rows_of = [[row for row in shuffled if owners[row] == part] for part in range(4)]
    tables = [clean.take(pa.array(part, pa.int64())) for part in rows_of]
    assert outcome(tables, items, corpus) == outcome([clean], items, corpus)


def test_row_groups_do_not_depend_on_batches():
    """More rows than a row group, in parts that end inside it."""
    rows = [(f"u{n % 700:03d}", f"i{n % 11}", 3, n) for n in range(70_000)]
    clean, items = clean_of(rows)
    users = np.array([int(user[1:]) for user in clean["user"].to_pylist()])
    tables = [clean.filter(pa.array(users % 3 == part)) for part in range(3)]
    one, several = (outcome(t, items, CorpusConfig()) for t in ([clean], tables))
    assert one == several and isinstance(one, dict)


def rejected(*rows: tuple[int, str, str]) -> pa.Table:
    return pa.table([list(column) for column in zip(*rows, strict=True)], schema=ROWS)


def test_tallies_add_up():
    one = rejected((3, "bad date", "c"), (1, "bad date", "a"), (9, "missing user", "z"))
    two = rejected(*((n, "bad date", f"b{n}") for n in (2, 4, 5, 6, 7)))
    found = Tally.of(one) + Tally.of(two)
    assert found.by_reason() == {"bad date": 7, "missing user": 1}
    assert [order for order, _ in found.examples["bad date"]] == [1, 2, 3, 4, 5]
    whole = Tally.of(pa.concat_tables([two, one]))
    assert found == whole
    assert found.without("bad date").by_reason() == {"missing user": 1}


@pytest.mark.parametrize("sizes", [[3, 3], [1, 0, 5], [6], [0, 2, 0], []])
def test_rows_of_the_catalogue_take_their_places(sizes):
    order = [1, 4, 6, 8, 9, 12][: sum(sizes)]
    events = rejected(*((n, "bad date", "") for n in order)) if order else ROWS.empty_table()
    batches, start = [], 0
    for size in sizes:
        batches.append(events.slice(start, size))
        start += size
    others = rejected((7, "duplicate item", ""), (2, "x", ""), (20, "x", ""))
    found = [n for batch in with_others(batches, others) for n in batch["order"].to_pylist()]
    assert found == sorted([*order, 2, 7, 20])


def test_only_rejected_rows_are_taken():
    clean, _ = clean_of([("u", "i", 3, 1)])
    assert len(rejected_rows(clean)) == 0


def test_names_that_differ_in_zeros_have_one_order():
    names = ["part-1", "part-01", "part-001"]
    orders = {tuple(Places(some).paths) for some in itertools.permutations(names)}
    assert len(orders) == 1


def test_titles_may_have_more_than_two_gib():
    """Two GiB are the most that an array of Arrow's usual strings holds."""
    assert COMPACT.field("title").type == COMPACT.field("text").type == pa.large_string()
