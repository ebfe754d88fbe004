"""Types of events: dropped, kept, or rated by ``corpus.events``."""

import json
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.small_corpora import read
from hypothesis import given
from hypothesis import strategies as st

from minirec.config.corpus import CorpusConfig
from minirec.config.reading import load
from minirec.corpus.files.event_types import DROPPED, UNLISTED, counted, notes
from minirec.corpus.files.parse import EVENTS
from minirec.corpus.files.sources import locate
from minirec.errors import ConfigError, CorpusError

TYPED = {"event": "kind"}
LOG = [
    ("u1", "a", "view", 1_600_000_000),
    ("u1", "b", "view", 1_600_000_001),
    ("u1", "b", "cart", 1_600_000_002),
    ("u2", "a", "purchase", 1_600_000_003),
    ("u2", "b", "wish", 1_600_000_004),
]


def shop(folder, *, log=LOG, columns=("user", "item", "kind", "time"), format="csv"):
    """Write events and a catalogue of the items a and b; returns the settings that read them."""
    rows = [dict(zip(columns, row, strict=True)) for row in log]
    if format == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), folder / "events.parquet")
    elif format == "jsonl":
        (folder / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = [",".join(map(str, row)) for row in (columns, *log)]
        (folder / "events.csv").write_text("\n".join(lines) + "\n")
    (folder / "items.csv").write_text("item,title\na,Apple\nb,Pear\n")
    return {"source": "table", "path": str(folder), "columns": TYPED}


def rated(got):
    """(user, item, rating) of each event in the order of the file."""
    rows = zip(got.events.order.tolist(), got.named_events, strict=True)
    return [event[:3] for _, event in sorted(rows)]


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
def test_types_are_dropped_kept_or_rated(tmp_path, format):
    uses = {"view": "drop", "cart": 3, "purchase": "keep", "wish": 1.5}
    got = read(**shop(tmp_path, format=format), events=uses)
    assert rated(got) == [("u1", "b", 3.0), ("u2", "a", 5.0), ("u2", "b", 1.5)]
    assert got.notes == ["2 view events are dropped (corpus.events)"]
    assert len(got.rejected) == 0
    assert got.rows == 3 + 2, "events that are left, and the catalogue"


def test_a_type_that_is_not_listed_is_a_rejected_row(tmp_path):
    got = read(**shop(tmp_path), events={"view": "drop", "cart": "keep", "purchase": "keep"})
    (row,) = got.rejected.to_pylist()
    assert (row["reason"], row["line"]) == ("event type not in corpus.events", 6)
    assert row["text"] == "u2,b,wish,1600000004"
    with pytest.raises(CorpusError, match="1 of 5 rows are malformed") as error:
        got.assembled.check_rejected(limit=0.19)
    assert "list it there with drop, keep or a rating" in str(error.value)
    got.assembled.check_rejected(limit=0.2)


def test_a_row_without_a_type(tmp_path):
    log = [*LOG[:4], ("u2", "b", "", 1_600_000_004), ("u2", "b", "nan", 1_600_000_005)]
    got = read(
        **shop(tmp_path, log=log), events={"view": "keep", "cart": "keep", "purchase": "keep"}
    )
    assert got.counts == {"missing event": 2}


def test_a_dropped_event_is_not_looked_at_any_further(tmp_path):
    log = [*LOG, ("", "b", "view", "soon"), ("u3", "", "view", ""), ("", "b", "cart", 1)]
    uses = {"view": "drop", "cart": "keep", "purchase": "keep", "wish": "drop"}
    got = read(**shop(tmp_path, log=log), events=uses)
    assert got.counts == {"missing user": 1}
    assert got.notes[0] == "4 view and 1 wish events are dropped (corpus.events)"


def test_a_number_wins_over_the_rating_column(tmp_path):
    log = [
        ("u1", "a", "rate", 2, 1_600_000_000),
        ("u1", "b", "cart", "", 1_600_000_001),
        ("u1", "a", "cart", 1, 1_600_000_002),
        ("u1", "b", "rate", "", 1_600_000_003),
    ]
    settings = shop(tmp_path, log=log, columns=("user", "item", "kind", "rating", "time"))
    got = read(**settings, events={"rate": "keep", "cart": 4})
    assert rated(got) == [("u1", "a", 2.0), ("u1", "b", 4.0), ("u1", "a", 4.0)]
    assert got.counts == {"bad number": 1}


def test_what_the_note_says_about_ratings(tmp_path):
    settings = shop(tmp_path) | {"min_rating": 3}
    with pytest.raises(CorpusError, match="corpus.min_rating=3 needs ratings"):
        locate(CorpusConfig(**settings, events={"view": "drop", "cart": "keep"}))
    found = locate(CorpusConfig(**settings, events={"view": 1, "cart": "keep"}))
    assert found.notes == [
        "there is no rating column: each event that corpus.events keeps counts as 5"
    ]
    assert locate(CorpusConfig(**settings, events={"view": 1, "cart": 3})).notes == []


@pytest.mark.parametrize(
    ("events", "two"),
    [
        ({"view": 1, "cart": 3}, True),
        ({"view": 1, "cart": "keep"}, True),
        ({"view": "drop", "cart": 3}, False),
        ({"view": 5, "cart": "keep"}, False),  # what is kept counts as the highest rating
        ({"view": "drop", "cart": "keep"}, False),
    ],
)
def test_choices_need_two_ratings(tmp_path, events, two):
    settings = CorpusConfig(**shop(tmp_path), events=events, choices=2)
    if two:
        locate(settings)
        return
    with pytest.raises(CorpusError, match="corpus.choices=2 compares ratings"):
        locate(settings)


@pytest.mark.parametrize(
    ("values", "uses", "kept"),
    [
        ([0, 1, 1], {0: "drop", 1: "keep"}, 2),
        ([0.0, 1.0, None], {0: "drop", 1: "keep"}, 1),
        ([True, False, True], {"true": "keep", "false": "drop"}, 2),
        ([" add  to cart", "add to cart", "view"], {"add to  cart ": 2, "view": "drop"}, 2),
    ],
)
def test_types_that_are_no_plain_words(tmp_path, values, uses, kept):
    log = [("u", "ab"[n % 2], value, 1_600_000_000 + n) for n, value in enumerate(values)]
    got = read(**shop(tmp_path, log=log, format="parquet"), events=uses)
    assert len(got.events) == kept
    assert set(got.counts) <= {"missing event"}


def test_types_of_recbole(tmp_path):
    (tmp_path / "x.inter").write_text(
        "user_id:token\titem_id:token\tkind:token\ttimestamp:float\n"
        "u\t1\tclick\t1600000000\nu\t2\tbuy\t1600000001\n"
    )
    (tmp_path / "x.item").write_text("item_id:token\ttitle:token\n1\tOne\n2\tTwo\n")
    got = read(
        source="recbole", path=str(tmp_path), columns=TYPED, events={"click": "drop", "buy": 4}
    )
    assert rated(got) == [("u", "2", 4.0)]


def test_titles_of_dropped_events_count(tmp_path):
    """Without a catalogue all rows name the items."""
    log = [("u", "a", "view", 1_600_000_000, "Apple"), ("u", "a", "buy", 1_600_000_001, "")]
    settings = shop(tmp_path, log=log, columns=("user", "item", "kind", "time", "title"))
    (tmp_path / "items.csv").unlink()
    got = read(**settings, events={"view": "drop", "buy": "keep"})
    assert got.catalogue["title"].to_pylist() == ["Apple"]
    assert (len(got.events), len(got.rejected)) == (1, 0)


def test_all_events_dropped(tmp_path):
    with pytest.raises(CorpusError, match=r"drops all events \(2 view\)"):
        read(**shop(tmp_path, log=LOG[:2]), events={"view": "drop", "buy": "keep"})


# ---- settings that are refused


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"columns": TYPED}, "'kind' holds the types of the events, but corpus.events does not"),
        ({"events": {"buy": "keep"}}, r"name it in corpus.columns \(event: COLUMN\)"),
        ({"columns": {"event": "knd"}, "events": {"buy": "keep"}}, "no column 'knd'"),
    ],
)
def test_one_setting_without_the_other(tmp_path, given, words):
    with pytest.raises(CorpusError, match=words):
        locate(CorpusConfig(**(shop(tmp_path) | {"columns": {}} | given)))


def test_sources_with_fixed_columns(tmp_path):
    with pytest.raises(CorpusError, match="corpus.events has no effect with corpus.source=amazon"):
        locate(CorpusConfig(source="amazon", path=str(tmp_path), events={"buy": "keep"}))


@pytest.mark.parametrize(
    ("uses", "words"),
    [
        ("{buy: kep}", "'kep' of 'buy' is unknown; did you mean keep\\? write drop, keep or a ra"),
        ("{buy: true}", "True of 'buy' is unknown; write drop, keep or a rating"),
        ("{yes: keep}", "YAML reads one of the types as True; put the type in quotes"),
        ("{buy: 6}", "gives 'buy' the rating 6, which is outside rating_range \\[0.0, 5.0\\]"),
        ("{buy: .nan}", "corpus.events"),
        ("{view: drop, buy: drop}", "drops every type \\(view, buy\\); keep one"),
        ("[view]", "expected names with values, {name: value}"),
    ],
)
def test_settings_that_mean_nothing(uses, words):
    with pytest.raises(ConfigError, match=words):
        load(None, ["corpus.source=table", "corpus.path=x", f"corpus.events={uses}"])


def test_the_demo_has_no_types():
    with pytest.raises(ConfigError, match="events has no effect with source demo"):
        load(None, ["corpus.events={buy: keep}"])


# ---- the table of parsed events


REASONS = st.sampled_from([None, DROPPED, UNLISTED, "bad date"])
NO_VALUES = {"user": None, "item": None, "rating": None, "time": None, "number": None}


@given(rows=st.lists(st.tuples(REASONS, st.sampled_from(["view", "click"])), min_size=1))
def test_only_dropped_rows_are_taken_out(rows):
    table = pa.Table.from_pylist(
        [
            NO_VALUES | {"file": "f", "line": line, "reason": reason, "raw": kind}
            for line, (reason, kind) in enumerate(rows)
        ],
        schema=EVENTS,
    )
    left = [line for line, (reason, _) in enumerate(rows) if reason != DROPPED]
    rest, tally = counted(table)
    assert rest["line"].to_pylist() == left
    assert tally == Counter(kind for reason, kind in rows if reason == DROPPED)
    if tally and not left:
        with pytest.raises(CorpusError, match="drops all events"):
            notes(tally, rest=0)
