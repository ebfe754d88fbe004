"""How the texts of a file are written: its separator, its numbers and its dates."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from minirec.config.corpus import CorpusConfig

_WITH_COMMA = re.compile(r"[+-]?(?:[0-9]{1,3}(?:\.[0-9]{3})+|[0-9]+)(?:,[0-9]+)?")


@dataclass(frozen=True)
class Notation:
    """The settings ``corpus.separator``, ``corpus.decimal_comma`` and ``corpus.dates``.

    Attributes:
        separator: between the fields of a csv file.
        decimal_comma: whether ``1.234,56`` is a number.
        dates: how dates are written, as Python's strptime takes it; None for ISO 8601 only.
    """

    separator: str = ","
    decimal_comma: bool = False
    dates: str | None = None

    @classmethod
    def of(cls, corpus: CorpusConfig) -> Notation:
        """The notation of the settings."""
        return cls(corpus.separator, corpus.decimal_comma, corpus.dates)

    @property
    def own(self) -> bool:
        """Whether texts of numbers or dates may mean something else than without settings."""
        return self.decimal_comma or self.dates is not None

    def number(self, value: Any) -> Any:
        """A text such as ``1.234,56`` as ``1234.56``; any other value as it is."""
        if not (self.decimal_comma and isinstance(value, str)):
            return value
        text = value.strip()
        return text.replace(".", "").replace(",", ".") if _WITH_COMMA.fullmatch(text) else value

    def date(self, value: Any) -> datetime | None:
        """The date of a text in the format of `dates`, None for any other value."""
        if self.dates is None or not isinstance(value, str):
            return None
        try:
            return datetime.strptime(value.strip(), self.dates)
        except ValueError:
            return None


PLAIN = Notation()
