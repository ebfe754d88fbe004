"""Small corpora of files, and reading them as `prepare` does."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from minirec.config.corpus import CorpusConfig
from minirec.corpus.assemble import Assembled, assemble, rejected_rows
from minirec.corpus.events import CLEAN, Events, encode
from minirec.corpus.files.sources import locate
from minirec.corpus.files.specs import BY_FILE
from minirec.corpus.items import Items
from minirec.corpus.places import Places
from minirec.corpus.reading import LocalReader, Reader
from minirec.corpus.rejects import with_others
from minirec.corpus.samples import Samples, make_samples
from minirec.corpus.schema import REJECTED

RATINGS = "user_id,parent_asin,rating,timestamp\n"


@dataclass(frozen=True)
class Read:
    """A corpus of files in memory; its catalogue has only items with events."""

    assembled: Assembled
    clean: pa.Table
    rejected: pa.Table

    @property
    def events(self) -> Events:
        return Events.of(self.clean)

    @property
    def named_events(self) -> list[tuple[str, str, float, int]]:
        """User id, item key, rating and time of each event."""
        good = self.clean.filter(self.clean["reason"].is_null())
        keys = self.assembled.items.table["key"].take(good["item"])
        columns = (good["user"], keys, good["rating"], good["time"])
        return list(zip(*(column.to_pylist() for column in columns), strict=True))

    @property
    def users(self) -> list[str]:
        return self.events.users.to_pylist()

    @property
    def catalogue(self) -> pa.Table:
        items = sorted(set(self.clean["item"].drop_null().to_pylist()))
        return self.assembled.items.table.take(items).drop_columns(["category"])

    @property
    def keys(self) -> list[str]:
        return self.catalogue["key"].to_pylist()

    @property
    def category(self) -> str | None:
        found = set(self.clean["item"].drop_null().to_pylist())
        inside = [item in found for item in range(len(self.assembled.items))]
        return self.assembled.items.category(np.array(inside))

    @property
    def notes(self) -> list[str]:
        return self.assembled.notes

    @property
    def rows(self) -> int:
        return self.assembled.rows

    @property
    def counts(self) -> dict[str, int]:
        return self.assembled.counts()

    def samples(self, **settings) -> Samples:
        return make_samples(self.clean, self.assembled.items, CorpusConfig(**settings))


def read(*, weight: str | None = None, reader: Reader | None = None, **corpus) -> Read:
    """The corpus of these settings (`CorpusConfig`), with the column `weight` of the catalogue."""
    located = locate(CorpusConfig(**corpus), weight=weight)
    reader = reader or LocalReader()
    places = Places(spec.path for spec in (*located.events, *located.items))
    by_file = corpus.get("columns", {}).get("order") == BY_FILE
    got = assemble(
        reader.events(located.events, places, by_file=by_file),
        reader.catalogue(located.items, places, inline=located.inline),
        places,
        inline=located.inline,
    )
    (clean,) = got.parts.each(lambda part: part.cast(CLEAN))
    rows = got.parts.changed(rejected_rows).ordered(["order"])
    rejected = map(places.rejected, with_others(rows, got.items.rejected))
    return Read(got, clean, pa.concat_tables([REJECTED.empty_table(), *rejected]))


def shown(got: Read) -> list[dict[str, str]]:
    """What the catalogue shows to a policy."""
    return got.catalogue.select(["key", "title", "text"]).to_pylist()


def made_of(rows, **corpus) -> Samples:
    """The samples of rows (user, item, rating, time) with settings of `CorpusConfig`."""
    return make_samples(*clean_of(rows), CorpusConfig(**corpus))


def clean_of(rows) -> tuple[pa.Table, Items]:
    """Rows (user, item, rating, time) as `CLEAN`, and their items."""
    user, users = encode(pa.array([r[0] for r in rows], pa.string()))
    item, keys = encode(pa.array([r[1] for r in rows], pa.string()))
    nothing = pa.nulls(len(keys), pa.string())
    names = ["key", "title", "text", "category", "weight"]
    items = Items.of(pa.table([keys, keys, keys, nothing, nothing], names=names))
    events = Events(
        user=user,
        item=item,
        rating=np.array([r[2] for r in rows], dtype=np.float32),
        time=np.array([r[3] for r in rows], dtype=np.int64),
        order=np.arange(len(rows)),
        users=users,
    )
    return events.clean(), items


def amazon(folder: Path, ratings: str | bytes, items: list[dict] | None = None) -> Path:
    """Write ratings.csv (text without, bytes with the header) and meta.jsonl."""
    raw = ratings if isinstance(ratings, bytes) else (RATINGS + ratings).encode()
    (folder / "ratings.csv").write_bytes(raw)
    if items is None:
        items = [{"parent_asin": f"i{n}", "title": f"Title {n}", "price": None} for n in range(5)]
    (folder / "meta.jsonl").write_text("".join(json.dumps(i) + "\n" for i in items))
    return folder
