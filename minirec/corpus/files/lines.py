"""Finds the lines of a block of bytes, and those that any reader of CSV or JSON takes alike."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from minirec.corpus.files.quoting import Line, leaves_open
from minirec.corpus.files.rows import BOM, rows_of_lines
from minirec.corpus.files.spec import FileSpec

MOST_BRACKETS = 200
"""The json module refuses deeper nesting only at about 1,000 brackets."""
_LONG_NUMBER = re.compile(rb"[0-9]{4300}")  # the json module refuses such an integer
_LF, _CR, _QUOTE, _BACKSLASH = b'\n\r"\\'
_OPENING = b"{["


@dataclass(frozen=True)
class Lines:
    """The L lines of a block.

    Attributes:
        data: the block.
        first: number of its first line.
        start: (L,) int64, where each line begins.
        end: (L,) int64, where it ends, without its line feed and one carriage return before it.
        next: (L,) int64, where the next line begins.
    """

    data: bytes
    first: int
    start: np.ndarray
    end: np.ndarray
    next: np.ndarray

    @classmethod
    def of(cls, data: bytes, first: int) -> Lines:
        """Find the lines of a block."""
        chars = np.frombuffer(data, np.uint8)
        feeds = np.flatnonzero(chars == _LF)
        open_end = len(data) > 0 and data[-1] != _LF
        stop = np.r_[feeds + 1, len(data)] if open_end else feeds + 1
        end = np.r_[feeds, len(data)] if open_end else feeds.copy()
        start = np.r_[0, stop[:-1]] if len(stop) else stop
        if b"\r\n" in data:
            before = chars[np.maximum(feeds - 1, 0)] == _CR
            end[: len(feeds)] -= before & (feeds > start[: len(feeds)])
        return cls(data, first, start, end, stop)

    def __len__(self) -> int:
        return len(self.start)

    @functools.cached_property
    def chars(self) -> np.ndarray:
        """The block as uint8."""
        return np.frombuffer(self.data, np.uint8)

    def raw(self, index: int) -> bytes:
        """A line without its line break."""
        return self.data[self.start[index] : self.end[index]]

    def onward(self, index: int) -> Iterator[bytes]:
        """The lines from this one on, with their line breaks."""
        stream = io.BytesIO(self.data)
        stream.seek(self.start[index])
        return iter(stream)

    def only(self, chosen: np.ndarray) -> bytes:
        """The bytes of some lines with their line breaks; `chosen` are their ascending indices."""
        if len(chosen) == len(self):
            return self.data
        breaks = np.flatnonzero(np.diff(chosen) != 1)
        firsts = self.start[chosen[np.r_[0, breaks + 1]]]
        lasts = self.next[chosen[np.r_[breaks, len(chosen) - 1]]]
        runs = zip(firsts.tolist(), lasts.tolist(), strict=True)
        view = memoryview(self.data)
        return b"".join(view[begin:end] for begin, end in runs)

    def count(self, places: np.ndarray) -> np.ndarray:
        """How many of these ascending places lie in each line, (L,) int64."""
        return np.searchsorted(places, self.next) - np.searchsorted(places, self.start)


def odd_rows(found: Lines, plain: np.ndarray, spec: FileSpec) -> Iterator[tuple[int, int, Line]]:
    """Rows that do not have one plain line, in order; blank lines are none.

    Args:
        plain: (L,) bool. Plain lines that belong to such a row become False.

    Yields:
        index of the first line of a row, index after its last one, and the row.
    """
    quoted = spec.quoted and spec.has_header
    done = 0
    for index in np.flatnonzero(~plain).tolist():
        if index < done:
            continue
        number, raw = found.first + index, found.raw(index)
        done = index + 1
        if quoted and leaves_open(raw, spec.delimiter):
            row = next(rows_of_lines(found.onward(index), spec, first=number))
            if b"\n" in row[1]:
                done = _after(found, index, row[1].count(b"\n"), spec)
                plain[index:done] = False
            yield index, done, row
        else:
            for row in rows_of_lines([raw], spec, first=number):
                yield index, done, row


def _after(found: Lines, index: int, more: int, spec: FileSpec) -> int:
    """The line after a row that begins on a line and goes on over `more` lines, blanks apart."""
    blank = b" " if spec.format == "tsv" else None
    while more:
        index += 1
        more -= bool(found.raw(index).rstrip(b"\r\n").strip(blank))
    return index + 1


def plain_csv(lines: Lines, spec: FileSpec) -> np.ndarray:
    """Whether a line is one row with all fields for every reader of csv or tsv, (L,) bool.

    If quotes have a meaning, each quote begins or ends a field, so none is doubled or unmatched.
    """
    delimiter, width = spec.delimiter, len(spec.header)
    if width < 2:  # such a line could be blank
        return np.zeros(len(lines), dtype=bool)
    plain = _plain_text(lines)
    places = np.flatnonzero(lines.chars == ord(delimiter))
    count = lines.count(places)
    if spec.quoted and b'"' in lines.data:
        plain &= _paired(lines, ord(delimiter))
        count -= _enclosed(lines, places, count)
    return plain & (count == width - 1)


def _paired(lines: Lines, delimiter: int) -> np.ndarray:
    """Whether the quotes of a line in turn begin and end a field, (L,) bool."""
    chars, quotes = lines.chars, np.flatnonzero(lines.chars == _QUOTE)
    count = lines.count(quotes)
    paired = count % 2 == 0
    line = np.repeat(np.arange(len(lines)), count)
    begins = (np.arange(len(quotes)) - np.repeat(np.cumsum(count) - count, count)) % 2 == 0
    before = (quotes == lines.start[line]) | (chars[quotes - 1] == delimiter)
    after = (quotes + 1 == lines.end[line]) | (
        chars[np.minimum(quotes + 1, len(chars) - 1)] == delimiter
    )
    paired[line[~np.where(begins, before, after)]] = False
    return paired


def _enclosed(lines: Lines, places: np.ndarray, count: np.ndarray) -> np.ndarray:
    """How many of the places of each line lie between its paired quotes, (L,) int64."""
    # Only the parity is used, which a sum of 8 bits keeps.
    before = np.cumsum(lines.chars == _QUOTE, dtype=np.uint8)
    at_start = np.where(lines.start > 0, before[lines.start - 1], 0)
    line = np.repeat(np.arange(len(lines)), count)
    inside = (before[places] - at_start[line]) % 2 == 1
    return np.bincount(line[inside], minlength=len(lines))


def plain_json(lines: Lines) -> np.ndarray:
    """Whether a line can only be whole objects without escapes, (L,) bool."""
    plain = _plain_text(lines) & (lines.end > lines.start)
    last = np.maximum(lines.end - 1, 0)
    plain &= (lines.chars[lines.start] == ord("{")) & (lines.chars[last] == ord("}"))
    if _BACKSLASH in lines.data:
        plain &= lines.count(np.flatnonzero(lines.chars == _BACKSLASH)) == 0
    opening = np.flatnonzero((lines.chars == _OPENING[0]) | (lines.chars == _OPENING[1]))
    plain &= lines.count(opening) <= MOST_BRACKETS
    for index in np.flatnonzero(plain & (lines.end - lines.start >= 4300)).tolist():
        plain[index] = not _LONG_NUMBER.search(lines.raw(index))
    return plain


def _plain_text(lines: Lines) -> np.ndarray:
    """Whether a line is UTF-8 without a byte order mark or a carriage return inside, (L,) bool."""
    plain = np.ones(len(lines), dtype=bool)
    if b"\r" in lines.data:
        returns = np.flatnonzero(lines.chars == _CR)
        inside = returns != lines.end[np.repeat(np.arange(len(lines)), lines.count(returns))]
        plain[_line_of(lines, returns[inside])] = False
        if lines.data[-1] == _CR:
            plain[-1] = False
    if not lines.data.isascii():
        _refuse_bad_text(lines, plain)
    return plain


def _line_of(lines: Lines, places: np.ndarray) -> np.ndarray:
    return np.searchsorted(lines.start, places, side="right") - 1


def _refuse_bad_text(lines: Lines, plain: np.ndarray) -> None:
    """Mark lines that are not UTF-8 or begin with a byte order mark as not plain, in place."""
    marked = lines.chars[lines.start] == BOM[0]
    for index in np.flatnonzero(marked).tolist():
        plain[index] &= not lines.raw(index).startswith(BOM)
    try:
        lines.data.decode("utf-8")
    except UnicodeDecodeError:
        high = np.unique(_line_of(lines, np.flatnonzero(lines.chars >= 0x80)))
        for index in high.tolist():
            try:
                lines.raw(index).decode("utf-8")
            except UnicodeDecodeError:
                plain[index] = False
