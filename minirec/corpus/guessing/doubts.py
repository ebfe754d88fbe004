"""What is doubtful in a guess, as sentences."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

from minirec.corpus.guessing.draft import Draft
from minirec.corpus.guessing.guesses import Guess
from minirec.corpus.guessing.looking import TO_UTF8, Look
from minirec.corpus.guessing.preview import Preview

_ZONE = re.compile(r"(?:Z|[+-]\d\d:?\d\d|UTC|GMT)$", re.IGNORECASE)
_FLOAT = re.compile(r"-?\d+\.0+$")


def doubts(found: Draft, read: Preview) -> list[str]:
    """Sentences on what the user should check."""
    sentences = []
    if found.look and found.guess:
        sentences += _of_columns(found, found.look, found.guess)
        sentences += _of_rows(found.look, found.guess)
    sentences += read.notes
    if read.rejected:
        total = read.rejected.total()
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in read.rejected.most_common(4))
        stop = "; a run stops above corpus.max_rejected" if total > 0.01 * read.rows else ""
        sentences.append(
            f"{total:,} of the first {read.rows:,} rows cannot be read: {reasons}{stop}"
        )
    if read.rejected["wrong encoding"]:
        sentences.append(f"the file is not UTF-8; convert it, e.g. `{TO_UTF8}`")
    sentences += _of_events(read)
    return sentences


def _of_columns(found: Draft, looked: Look, guess: Guess) -> list[str]:
    columns, sentences = guess.columns, []
    for role in guess.unnamed:
        sentences.append(
            f"the name of the column {columns[role]!r} does not say that it is the {role}; it "
            f"was taken for its values, which repeat"
        )
    if "time" not in columns:
        what = (
            f"the column {columns['order']!r} orders them"
            if "order" in columns
            else ("the rows are taken in the order of the file")
        )
        sentences.append(f"no column holds times; {what}")
    if len(guess.dates) > 1:
        sentences.append(
            f"dates such as {looked.texts(columns['time'], 1)[0]!r} fit several formats "
            f"({', '.join(guess.dates[:3])}); the first was taken"
        )
    if guess.notation.decimal_comma:
        sentences.append("numbers have decimal commas, so 1.234 is read as 1234")
    if found.catalogue is None and "title" not in columns:
        where = f"; {found.beside.look.table.path.name} beside it has some" if found.beside else ""
        sentences.append(
            f"no column holds titles, so the ids stand for them, and a language model has nothing "
            f"to read{where}"
        )
    if guess.uses:
        uses = ", ".join(f"{kind}: {use}" for kind, use in guess.uses.items())
        sentences.append(f"{columns['event']} holds several types of events; they become {uses}")
    if looked.lists:
        sentences.append(f"{', '.join(looked.lists[:5])} holds lists, which only a text may have")
    if not looked.whole:
        sentences.append(f"the guesses rest on the first {len(looked.rows):,} rows")
    return sentences


def _of_rows(looked: Look, guess: Guess) -> list[str]:
    columns, sentences = guess.columns, []
    if "time" in columns:
        head = looked.texts(columns["time"], 200)
        dated = [text for text in head if not re.fullmatch(r"[\d.,]+", text) or guess.dates]
        if dated and not any(map(_ZONE.search, dated)):
            sentences.append(f"times such as {dated[0]!r} have no zone and are read as UTC")
    for role in ("user", "item"):
        ids = looked.texts(columns[role])
        if floats := sum(bool(_FLOAT.match(value)) for value in ids):
            sentences.append(
                f"{floats:,} of {len(ids):,} values of {columns[role]} look like decimal numbers "
                f"({ids[0]}); 1.0 is read as 1"
            )
    names = [columns[role] for role in ("user", "item", "time", "event") if role in columns]
    tally = Counter(tuple(str(row.get(name)) for name in names) for row in looked.rows)
    if again := len(looked.rows) - len(tally):
        sentences.append(f"{again:,} rows repeat the {', '.join(names)} of another; one stays")
    if "title" in columns:
        titles: dict[str, set[str]] = defaultdict(set)
        for row in looked.rows:
            titles[str(row.get(columns["item"]))].add(str(row.get(columns["title"])))
        several = sum(len(one) > 1 for one in titles.values())
        if several:
            sentences.append(
                f"{several:,} of {len(titles):,} items have several values of "
                f"{columns['title']}; the most frequent one is their title, unless this column "
                f"holds titles of reviews"
            )
    return sentences


def _of_events(read: Preview) -> list[str]:
    sentences = []
    users = Counter(user for user, *_ in read.events)
    if once := sum(n == 1 for n in users.values()):
        sentences.append(
            f"{once:,} of {len(users):,} users have one event, which gives no sample, in the "
            f"first {read.rows:,} rows"
        )
    untitled = sum(item not in read.titles for _, item, *_ in read.events)
    if untitled:
        sentences.append(
            f"{untitled:,} of {len(read.events):,} events are on items without a title"
        )
    return sentences
