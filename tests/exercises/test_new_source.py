"""Exercise: a source of your own.

A source is a function of the settings of the corpus that says which files hold the interactions and
the catalogue, and which column has which role. Here it is named by the setting as
``package.module:function``. To ship it with MiniRec instead, move it to
`minirec.corpus.files.sources` and add the line ``"library": library`` to `SOURCES` there: it then
has a name of its own.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.small_corpora import read

from minirec.config.corpus import CorpusConfig
from minirec.corpus.files.sources import Located
from minirec.corpus.files.specs import events_spec, items_spec
from minirec.errors import CorpusError

LOANS = {"user": "reader", "item": "isbn", "time": "day"}
BOOKS = {"item": "isbn", "title": "name", "text": "blurb"}


def library(corpus: CorpusConfig) -> Located:
    """Loans of a library: loans.csv and books.jsonl."""
    folder = Path(corpus.path or ".")
    return Located(
        [events_spec(corpus, folder / "loans.csv", LOANS)],
        [items_spec(folder / "books.jsonl", BOOKS)],
        "Books",
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "loans.csv").write_text(
        "reader,isbn,day\nann,2,2024-01-03\nann,1,2024-01-02\nbob,1,2024-01-05\n"
    )
    (tmp_path / "books.jsonl").write_text(
        '{"isbn": "1", "name": "Emma", "blurb": "A comedy."}\n{"isbn": "2", "name": "Ulysses"}\n'
    )
    return tmp_path


def test_the_setting_names_the_source(folder):
    found = read(source=f"{__name__}:library", path=str(folder))
    assert found.rows == 5 and found.rejected.num_rows == 0
    assert found.catalogue["title"].to_pylist() == ["Emma", "Ulysses"]
    assert len(found.events.user) == 3


def test_a_missing_column_is_named(folder):
    (folder / "loans.csv").write_text("reader,book,day\nann,2,2024-01-03\n")
    with pytest.raises(CorpusError, match=r"loans.csv has no column 'isbn'; found 'reader'"):
        read(source=f"{__name__}:library", path=str(folder))
