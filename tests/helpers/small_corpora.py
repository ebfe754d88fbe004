"""Small corpora of files, and reading them as `prepare` does, without Ray."""

import json
from pathlib import Path

import pyarrow as pa

from minirec.config.corpus import CorpusConfig
from minirec.corpus.assemble import Assembled, assemble
from minirec.corpus.blocks import BLOCKS, read_blocks
from minirec.corpus.sources import locate
from minirec.corpus.specs import BY_FILE
from minirec.corpus.vectorised import parse

RATINGS = "user_id,parent_asin,rating,timestamp\n"


def read(*, weight: str | None = None, **corpus) -> Assembled:
    """The corpus of these settings (`CorpusConfig`), with the column `weight` of the catalogue."""
    located = locate(CorpusConfig(**corpus), weight=weight)
    tables = [
        pa.concat_tables(
            [parse(b, {spec.path: spec}) for spec in specs for b in read_blocks(spec)]
            or [parse(BLOCKS.empty_table(), {s.path: s for s in specs})]
        )
        for specs in (located.events, located.items)
    ]
    by_file = corpus.get("columns", {}).get("order") == BY_FILE
    return assemble(*tables, inline=located.inline, by_file=by_file)


def shown(got: Assembled) -> list[dict[str, str]]:
    """What the catalogue shows to a policy."""
    return got.catalogue.select(["key", "title", "text"]).to_pylist()


def amazon(folder: Path, ratings: str | bytes, items: list[dict] | None = None) -> Path:
    """Write ratings.csv (text without, bytes with the header) and meta.jsonl."""
    raw = ratings if isinstance(ratings, bytes) else (RATINGS + ratings).encode()
    (folder / "ratings.csv").write_bytes(raw)
    if items is None:
        items = [{"parent_asin": f"i{n}", "title": f"Title {n}", "price": None} for n in range(5)]
    (folder / "meta.jsonl").write_text("".join(json.dumps(i) + "\n" for i in items))
    return folder
