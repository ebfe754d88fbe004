"""Guesses which column of a table has which role."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from minirec.corpus.guessing import words
from minirec.corpus.guessing.looking import Look
from minirec.corpus.guessing.notations import (
    MOST,
    formats,
    has_decimal_commas,
    is_text,
    share_of_times,
)
from minirec.corpus.notation import Notation
from minirec.corpus.weights import read_number

EARLIEST = 631_152_000  # 1990-01-01 in s: a smaller number is hardly a time
MOST_TYPES = 20
TYPICAL = words.DROPPED + words.UNDONE + words.MIDDLE + words.BOUGHT


@dataclass(frozen=True)
class Guess:
    """What the columns of a table mean.

    Attributes:
        columns: role -> column.
        others: role -> further columns that may have it.
        notation: how it is written.
        dates: all formats of dates that fit; more than one if they are ambiguous.
        uses: ``corpus.events``, empty without types of events.
        rating_range: lowest and highest rating, None for the default.
        unnamed: roles whose column was found by its values alone.
        prices: columns with numbers that may be weights of items.
    """

    columns: dict[str, str]
    others: dict[str, list[str]]
    notation: Notation
    dates: list[str] = field(default_factory=list)
    uses: dict[str, str | float] = field(default_factory=dict)
    rating_range: tuple[float, float] | None = None
    unnamed: tuple[str, ...] = ()
    prices: tuple[str, ...] = ()


def guess(looked: Look) -> Guess:
    """Guess the roles of the columns of a table of interactions or of a catalogue."""
    values = {name: looked.texts(name) for name in looked.names}
    values = {name: found for name, found in values.items() if found}
    comma = any(has_decimal_commas(found) for found in values.values())
    plain = Notation(looked.separator, comma)
    ranked = {
        "event": _ranked("event", values, lambda name, found: _types(name, found)),
        "rating": _ranked("rating", values, lambda _, found: _ratings(found, plain)),
        "title": _ranked("title", values, lambda _, found: 2 * is_text(found) + _variety(found)),
        "text": _ranked("text", values, lambda _, found: 1 + is_text(found)),
        "order": _ranked("order", values, lambda _, found: _whole(found)),
        "user": _ranked("user", values, lambda _, found: _ids(found)),
        "item": _ranked("item", values, lambda _, found: _ids(found)),
    }
    ranked["time"], dates = _times(values, plain)
    columns: dict[str, str] = {}
    for role in ("time", "event", "rating", "user", "item", "title", "text", "order"):
        free = [name for name in ranked[role] if name not in columns.values()]
        if free and not (role == "order" and "time" in columns):
            columns[role] = free[0]
    unnamed = _by_values(columns, values)
    fmt = dates.get(columns.get("time", ""), [])
    others = {
        role: [name for name in names if name != columns.get(role)]
        for role, names in ranked.items()
    }
    taken = set(columns.values())
    return Guess(
        columns=columns,
        others=others,
        notation=Notation(looked.separator, comma, fmt[0] if fmt else None),
        dates=fmt,
        uses=_uses(looked, columns),
        rating_range=_range(values.get(columns.get("rating", ""), []), plain),
        unnamed=unnamed,
        prices=tuple(
            name
            for name, found in values.items()
            if name not in taken and set(words.words(name)) & {"price", "preis", "margin", "marge"}
            if _share(found, plain) >= 0.5
        ),
    )


def _ranked(
    role: str, values: dict[str, list[str]], content: Callable[[str, list[str]], int]
) -> list[str]:
    """Columns that may have a role, the likeliest first; `content` is 0 for an impossible one."""
    scores = {}
    for name, found in values.items():
        by_name, by_values = words.named(name, role), content(name, found)
        if by_name and by_values:
            scores[name] = by_name + by_values
    return sorted(scores, key=lambda name: -scores[name])


def _times(
    values: dict[str, list[str]], notation: Notation
) -> tuple[list[str], dict[str, list[str]]]:
    """Columns with times, the likeliest first, and the formats of their dates."""
    scores, dates = {}, {}
    for name, found in values.items():
        numbers = [read_number(value, notation) for value in found]
        by_name = words.named(name, "time")
        fits = share_of_times(found, notation) >= MOST
        if fits and all(number is not None for number in numbers):
            late = min(n for n in numbers if n is not None) >= EARLIEST
            if by_name or (late and not _named(name)):
                scores[name] = by_name + late
        elif fits:
            scores[name] = by_name + 2
        elif fmt := formats(found):
            scores[name], dates[name] = by_name + 2, fmt
        elif by_name and share_of_times(found, notation) >= 0.8:
            scores[name] = by_name
    # Of two times the one with the finer clock orders more events.
    return sorted(scores, key=lambda name: (-scores[name], -len(set(values[name])))), dates


def _named(name: str) -> bool:
    return any(words.named(name, role) for role in ("user", "item", "rating", "title", "order"))


def _by_values(columns: dict[str, str], values: dict[str, list[str]]) -> tuple[str, ...]:
    """Add users and items whose columns have other names; returns the roles found so.

    A catalogue has one row for each item. So the values of both repeat. The first such column is
    the user, and the next one the item.
    """
    found = []
    for role in ("user", "item"):
        free = [
            name
            for name, texts in values.items()
            if name not in columns.values() and 3 <= len(set(texts)) < len(texts) and _ids(texts)
            if not any(words.named(name, other) for other in ("time", "rating", "event", "text"))
            if not any(words.among(word, words.OTHER) for word in words.words(name))
            if not any(words.named(name, other) for other in ("user", "item"))
        ]
        if role not in columns and free:
            columns[role] = free[0]
            found.append(role)
    return tuple(found)


def _ids(found: list[str]) -> int:
    """3 for values that can be ids, 0 for long texts and broken numbers."""
    head = found[:1000]
    long = sum(len(value) > 64 or value.count(" ") > 3 for value in head)
    return 3 if 10 * long < len(head) else 0


def _variety(found: list[str]) -> int:
    return 1 if len(set(found)) > 2 else 0


def _whole(found: list[str]) -> int:
    return int(all(value.isdecimal() for value in found))


def _types(name: str, found: list[str]) -> int:
    """Whether values can be types of events: few distinct ones, at least two."""
    kinds = {value.lower() for value in found}
    if not 2 <= len(kinds) <= MOST_TYPES or len(kinds) > len(found) / 2:
        return 0
    typical = [kind for kind in kinds if _typical(kind)]
    flags = kinds <= {"true", "false", "0", "1", "yes", "no", "ja", "nein"}
    plainly = set(words.words(name)) & {"event", "action", "behavior", "ereignis", "aktion"}
    return 5 if typical else 1 if plainly and not flags else 0


def _typical(kind: str) -> bool:
    return any(words.among(word, TYPICAL) for word in words.words(kind))


def _share(found: list[str], notation: Notation) -> float:
    return sum(read_number(value, notation) is not None for value in found) / max(1, len(found))


def _ratings(found: list[str], notation: Notation) -> int:
    numbers = [n for value in found if (n := read_number(value, notation)) is not None]
    if len(numbers) < MOST * len(found):
        return 0
    return 3 if min(numbers) >= -100 and max(numbers) <= 100 and len(set(numbers)) <= 201 else 0


def _range(found: list[str], notation: Notation) -> tuple[float, float] | None:
    """The range of ratings, if it is not inside the default one."""
    numbers = [n for value in found if (n := read_number(value, notation)) is not None]
    if not numbers or (min(numbers) >= 0 and max(numbers) <= 5):
        return None
    high = next((h for h in (1, 5, 10, 100) if max(numbers) <= h), math.ceil(max(numbers)))
    return float(min(0, math.floor(min(numbers)))), float(high)


def _uses(looked: Look, columns: dict[str, str]) -> dict[str, str | float]:
    """What becomes of each type of event.

    Views are dropped if enough other events are left, three for each user; otherwise they count
    least.
    """
    if "event" not in columns:
        return {}
    kinds = [" ".join(k.split()) for k in looked.texts(columns["event"], len(looked.rows))]
    counts = Counter(kinds)
    strong = {kind for kind in counts if _is(kind, words.BOUGHT)}
    middle = {kind for kind in counts if _is(kind, words.MIDDLE)} - strong
    weak = {kind for kind in counts if _is(kind, words.DROPPED)} - strong - middle
    undone = {kind for kind in counts if _is(kind, words.UNDONE)}
    rest = sum(n for kind, n in counts.items() if kind not in weak | undone)
    users = len(set(looked.texts(columns["user"], len(looked.rows)))) if "user" in columns else 1
    enough = rest >= 3 * users
    uses: dict[str, str | float] = {}
    for kind, _ in counts.most_common():
        if kind in undone or (kind in weak and enough):
            uses[kind] = "drop"
        elif kind in weak:
            uses[kind] = 1.0
        else:
            uses[kind] = 3.0 if kind in middle and strong else "keep"
    return uses if set(uses.values()) != {"drop"} else dict.fromkeys(uses, "keep")


def _is(kind: str, known: list[str]) -> bool:
    return any(words.among(word, known) for word in words.words(kind))
