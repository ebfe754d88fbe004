"""Weights of items: numbers as files write them, the column in each source, and the factors."""

from __future__ import annotations

import json
import math
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.small_corpora import amazon, read, shown
from hypothesis import given
from hypothesis import strategies as st

from jobs.corpus import from_demo
from minirec.config.corpus import CorpusConfig, DemoConfig
from minirec.config.reading import load
from minirec.corpus.demo import margins
from minirec.corpus.table import load_catalogue, load_samples
from minirec.corpus.weights import Facts, complete, load_factors, read_number, target_factors
from minirec.errors import ArtifactError, ConfigError, CorpusError

EVENTS = "u1,i1,5.0,1522540800000\nu1,i0,4,1522540900000\n"


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("12.99", 12.99),
        ("$12.99", 12.99),
        ("1,299.00", 1299.0),
        ("1,234,567", 1234567.0),
        (" US$ 3 ", 3.0),
        ("EUR 5", 5.0),
        ("5 €", 5.0),
        ("-$2.50", -2.5),
        ("$-2.50", -2.5),
        (".5", 0.5),
        ("7.", 7.0),
        ("1e3", 1000.0),
        (4, 4.0),
        (0.25, 0.25),
        (Decimal("9.90"), 9.9),
        ("0", 0.0),
    ],
)
def test_numbers_that_are_read(value, number):
    assert read_number(value) == number


@pytest.mark.parametrize(
    "value",
    ["", " ", "None", "nan", "inf", "$", "€ ", "free", "from 3", "$9.99 - $19.99", "12,99", "1,2,3"]
    + ["1,2345", "1.299,00", "1 299", "--3", "1e999", "9" * 400, "1e15", "٣", "3..4", ".", "e3"]
    + [None, True, math.nan, math.inf, 10**400, [3], {"amount": 3}, b"3"],
)
def test_values_that_are_no_number(value):
    assert read_number(value) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=3,
)
near_numbers = st.text(alphabet="0123456789.,$€+-eE US", max_size=12)


@given(json_values | near_numbers)
def test_no_value_raises_and_every_number_is_finite(value):
    number = read_number(value)
    assert number is None or (isinstance(number, float) and abs(number) < 1e15)


@given(
    st.integers(-(10**12), 10**12),
    st.sampled_from(["{}", "${}", "USD {}", "{} EUR", "{}€", " {} "]),
    st.booleans(),
)
def test_a_written_price_is_read_back(cents, form, grouped):
    price = Decimal(cents) / 100
    written = f"{price:,.2f}" if grouped else f"{price:.2f}"
    assert read_number(form.format(written)) == float(price)


def test_a_comma_never_changes_the_digits_that_are_read():
    for text in ("1,299", "12,345.5", "999,999,999"):
        assert read_number(text) == float(text.replace(",", ""))


def test_missing_and_negative_weights_count_as_the_median():
    raw = [4.0, np.nan, 1.0, -3.0, 10.0, np.nan]
    weights, facts = complete("price", raw, targets=np.bincount([0, 0, 2, 3], minlength=len(raw)))
    assert weights.tolist() == [4, 4, 1, 4, 10, 4]
    assert facts == Facts("price", known=3, missing=2, negative=1, median=4.0, mean=13 / 4)
    assert facts.sentence() == (
        "weights of items from the column price: 6 items, 2 without a readable number, 1 with a "
        "negative one, which count as the median, 4; mean over the targets of train 3.25"
    )


def test_columns_without_a_use_are_refused():
    with pytest.raises(CorpusError, match="no item has a number of 0 or more .1 cannot be read, 1"):
        complete("price", [np.nan, -1.0], targets=[1, 0])
    with pytest.raises(CorpusError, match="price is 0 for all targets of the train split"):
        complete("price", [0.0, 5.0], targets=[2, 0])
    complete("price", [0.0, 5.0], targets=[1, 1])


# ---- sources


def test_amazon(tmp_path):
    items = [
        {"parent_asin": "i0", "title": "A", "price": "$1,000.50", "features": ["f"]},
        {"parent_asin": "i1", "title": "B", "price": None, "features": []},
    ]
    amazon(tmp_path, EVENTS, items)
    got = read(source="amazon", path=str(tmp_path), weight="price")
    assert got.catalogue["weight"].to_pylist() == [1000.5, None]
    assert shown(got)[0]["text"] == "f"
    plain = read(source="amazon", path=str(tmp_path))
    assert plain.catalogue["weight"].to_pylist() == [None, None]
    assert shown(plain) == shown(got)


def test_movielens(tmp_path):
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n")
    (tmp_path / "movies.csv").write_text('movieId,title,genres,fee\n31,Heat,Crime,"1,250"\n')
    got = read(source="movielens", path=str(tmp_path), weight="fee")
    assert got.catalogue["weight"].to_pylist() == [1250.0]


def test_recbole(tmp_path):
    """The column of weights is no part of the text, as all other columns are."""
    (tmp_path / "ml.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\nu\t7\t4\t1260759144.0\n"
    )
    (tmp_path / "ml.item").write_text(
        "item_id:token\ttitle:token_seq\tyear:token\tprice:float\n7\tA film\t1995\t3.5\n"
    )
    got = read(source="recbole", path=str(tmp_path), weight="price")
    assert got.catalogue["weight"].to_pylist() == [3.5]
    assert shown(got) == [{"key": "7", "title": "A film", "text": "1995"}]


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("inline", [True, False])
def test_table(tmp_path, format, inline):
    events = {"user": ["u", "u"], "item": ["a", "b"], "time": [1577836800, 1577923200]}
    items = {"item": ["a", "b"], "title": ["A", "B"], "margin": ["3", "free"]}
    write(pa.table(events | (items if inline else {})), tmp_path / f"events.{format}")
    if not inline:
        write(pa.table(items), tmp_path / f"items.{format}")
    got = read(source="table", path=str(tmp_path), weight="margin")
    assert got.catalogue["weight"].to_pylist() == [3.0, None]


def write(table, path):
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".csv":
        lines = [table.column_names, *zip(*table.to_pydict().values(), strict=True)]
        path.write_text("".join(",".join(map(str, line)) + "\n" for line in lines))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))


@pytest.mark.parametrize("source", ["amazon", "movielens", "table"])
def test_a_column_that_is_not_there_is_refused_with_those_found(tmp_path, source):
    if source == "amazon":
        amazon(tmp_path, EVENTS)
        columns = "'parent_asin', 'title', 'price'"
    elif source == "movielens":
        head = "userId,movieId,rating,timestamp\n"
        (tmp_path / "ratings.csv").write_text(head + "1,31,2,1260759144\n")
        (tmp_path / "movies.csv").write_text("movieId,title\n31,Heat\n")
        columns = "'movieId', 'title'"
    else:
        (tmp_path / "events.csv").write_text("user,item,time\nu,a,1577836800\n")
        write(pa.table({"item": ["a"], "title": ["A"]}), tmp_path / "items.parquet")
        columns = "'item', 'title'"
    with pytest.raises(CorpusError) as error:
        read(source=source, path=str(tmp_path), weight="margin")
    assert f"has no column 'margin'; found {columns}; set reward.item_weight" in str(error.value)


# ---- the demo corpus, and factors


def test_demo(tmp_path):
    demo = CorpusConfig(demo=DemoConfig(users=40, items=40, tastes=3))
    from_demo(demo, tmp_path / "plain", 5)
    from_demo(demo, tmp_path / "weighted", 5, weight="margin")
    plain, weighted = (
        pq.read_table(tmp_path / name / "items.parquet") for name in ("plain", "weighted")
    )
    assert plain.column_names == ["item_id", "key", "title", "text"]
    assert weighted.drop_columns("margin").equals(plain)
    for name in ("train", "valid", "test", "truth"):  # the margin changes nothing else
        files = [(tmp_path / made / f"{name}.parquet") for made in ("plain", "weighted")]
        assert files[0].read_bytes() == files[1].read_bytes()
    number = [int(key.removeprefix("item")) for key in plain["key"].to_pylist()]
    assert weighted["margin"].to_pylist() == margins(40, seed=5)[number].tolist()
    assert len(load_catalogue(tmp_path / "weighted")) == len(plain)

    factors = load_factors(tmp_path / "weighted", "margin")
    train = load_samples(tmp_path / "weighted", "train")
    assert np.mean([factors[sample.target] for sample in train]) == pytest.approx(1)
    margin = np.array(weighted["margin"].to_pylist())
    assert factors / factors[0] == pytest.approx(margin / margin[0])
    test = load_samples(tmp_path / "weighted", "test")
    assert target_factors(tmp_path / "weighted", "test", "margin").tolist() == [
        factors[sample.target] for sample in test
    ]
    assert load_factors(tmp_path / "plain", None) is None
    for corpus, column in (("plain", "margin"), ("weighted", "price")):
        with pytest.raises(ArtifactError, match=f"run `minirec prepare` with .*={column}"):
            load_factors(tmp_path / corpus, column)


def test_demo_margins_are_lognormal():
    logs = np.log(margins(4000, seed=3) / 5)
    assert (logs.mean(), logs.std()) == pytest.approx((0, 1), abs=0.05)
    assert (margins(10, seed=3) == margins(4000, seed=3)[:10]).all()
    assert (margins(10, seed=3) != margins(10, seed=4)).any()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["reward.item_weight=price"], "reward.item_weight price is no column of the demo corpus"),
        (["reward.item_weight=title"], "rename the column with the weights"),
    ],
)
def test_settings_that_are_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        load(None, words)


def test_the_setting_is_in_fingerprints_only_where_set():
    assert "item_weight" not in load().reward.settings()
    assert load(None, ["reward.item_weight=margin"]).reward.settings()["item_weight"] == "margin"
