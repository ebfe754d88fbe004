"""Quotes of CSV and TSV: which lines make one row, and which fields a row has.

In CSV a field that begins with a quote ends with the next quote that is not doubled (RFC 4180). It
may hold separators and line breaks. TSV exports usually have no quoting, so a TSV field is quoted
only if it also ends with a quote. Any other quote in TSV is a plain character.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Callable, Iterator
from functools import cache
from typing import Literal

MAX_JOINED_LINES = 100
"""A quoted field may continue on at most this many further lines."""

UNCLOSED = "unclosed quote"
BAD = "bad quotes"
WIDTH = "wrong number of fields"

Line = tuple[int, bytes]
"""The number of a line, from 1, and its bytes without the line break."""

# A field may be as long as its line: the limit of the csv module (128 KiB) would reject rows.
csv.field_size_limit(2**31 - 1)


class BadRow(ValueError):
    """A row with wrong fields; the message is `UNCLOSED`, `BAD` or `WIDTH`."""


def split(text: str, delimiter: str, width: int | None, *, quoted: bool = True) -> list[str]:
    """Fields of a row; quoted fields may hold line breaks.

    Args:
        width: expected number of fields, None if unknown.
        quoted: whether quotes have a meaning.

    Raises:
        BadRow: the number of fields or the quotes are wrong.
    """
    if not quoted or '"' not in text:
        fields = text.split(delimiter)
    elif delimiter == "\t" and "\n" not in text and width in (None, text.count("\t") + 1):
        fields = [_unquoted(field) for field in text.split("\t")]
    else:
        # The csv module would end the row at a carriage return.
        reader = csv.reader([text.replace("\r", " ")], delimiter=delimiter, strict=True)
        try:
            fields = next(reader)
        except csv.Error:
            opened = _state(text.encode(), delimiter) == "open"
            raise BadRow(UNCLOSED if opened else BAD) from None
    if width not in (None, len(fields)):
        raise BadRow(WIDTH)
    return fields


def _unquoted(field: str) -> str:
    inner = field[1:-1]
    quoted = len(field) > 1 and field[0] == field[-1] == '"'
    return inner.replace('""', '"') if quoted and '"' not in inner.replace('""', "") else field


def join(
    lines: Iterator[Line],
    delimiter: str,
    width: int,
    *,
    like_a_row: Callable[[list[str]], bool],
    share: float,
) -> Iterator[Line]:
    """Join the lines of a row whose quoted field holds line breaks; the row gets the first number.

    A quote that is never closed would swallow all rows up to the next quote. So lines are joined
    only if together they make one row of `width` fields and few of the further lines are rows
    themselves. Otherwise each line is a row; in CSV, `split` then rejects the first.

    Args:
        lines: number and text of each line, without its line break.
        like_a_row: whether `width` fields can be a row.
        share: lines are not joined if this share of the further lines, and at least one, are rows.
    """

    def is_plain_row(raw: bytes) -> bool:
        fields = raw.decode("utf-8", errors="replace").split(delimiter)
        return len(fields) == width and like_a_row(fields)

    def is_row(raw: bytes) -> bool:
        # Unquoted, a field of two quotes is not empty, so a row whose title is "" counts as a row.
        if is_plain_row(raw):
            return True
        fields = _fields(raw, delimiter, width)
        return fields is not None and like_a_row(fields)

    def belong_together(raws: list[bytes]) -> bool:
        if _fields(b"\n".join(raws), delimiter, width) is None:
            return False
        # If the first line is not a row, its quote opens a field that ends on the last line. The
        # rest of the last line can look like a row, so that line does not count.
        further = raws[1:] if is_plain_row(raws[0]) else raws[1:-1]
        return sum(map(is_row, further)) < max(1, share * len(further))

    pending: deque[Line] = deque()
    while (line := pending.popleft() if pending else next(lines, None)) is not None:
        if not leaves_open(line[1], delimiter):
            yield line
            continue
        taken: list[Line] = []
        state = "open"
        while state == "open" and len(taken) < MAX_JOINED_LINES:
            following = pending.popleft() if pending else next(lines, None)
            if following is None:
                break
            taken.append(following)
            # The line begins inside quotes, so `_state` needs a quote in front.
            state = _state(b'"' + following[1], delimiter)
        raws = [line[1], *(raw for _, raw in taken)]
        if state == "closed" and belong_together(raws):
            yield line[0], b"\n".join(raws)
        else:
            yield line
            pending.extendleft(reversed(taken))


def leaves_open(raw: bytes, delimiter: str) -> bool:
    """Whether a line ends inside a quoted field that begins on it."""
    return b'"' in raw and _state(raw, delimiter) == "open"


def _fields(raw: bytes, delimiter: str, width: int) -> list[str] | None:
    try:
        return split(raw.decode("utf-8", errors="replace"), delimiter, width)
    except BadRow:
        return None


def _state(raw: bytes, delimiter: str) -> Literal["closed", "open", "bad"]:
    """Whether all quoted fields of a line are closed; "bad": text follows a closing quote."""
    closed, opened = _patterns(delimiter)
    if closed.fullmatch(raw):
        return "closed"
    return "open" if opened.fullmatch(raw) else "bad"


@cache
def _patterns(delimiter: str) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    # Possessive quantifiers (*+) do not backtrack, so a line that does not match fails fast.
    d = re.escape(delimiter.encode())
    inner = rb'"[^"]*+(?:""[^"]*+)*+'
    field = rb'(?:%b"|[^"%b][^%b]*+|)' % (inner, d, d)
    return re.compile(rb"%b(?:%b%b)*+" % (field, d, field)), re.compile(
        rb"(?:%b%b)*%b" % (field, d, inner)
    )
