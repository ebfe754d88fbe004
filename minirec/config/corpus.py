"""Settings of the corpus: where interactions come from, and what counts as a sample."""

from __future__ import annotations

import difflib
from datetime import date, datetime
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from minirec.config.choices import Source
from minirec.config.section import PathText, Section


class DemoConfig(Section):
    """The generated corpus with planted truth (`minirec.corpus.demo`)."""

    users: int = Field(420, ge=20)
    """Number of users of the demo corpus."""
    items: int = Field(300, ge=20)
    """Number of items of the demo corpus."""
    tastes: int = Field(10, ge=2)
    """Number of latent tastes of the demo's users."""
    events_per_user: int = Field(8, ge=3)
    """Mean number of events of a user."""
    trivial: float = Field(0.1, ge=0, le=1)
    """Share of events that are bestsellers."""
    noise: float = Field(0.25, ge=0, le=1)
    """Share of events that are drawn at random."""
    duplicates: float = Field(0.15, ge=0, le=1)
    """Share of users that copy the events of another user."""

    @model_validator(mode="after")
    def _shares(self) -> DemoConfig:
        if self.trivial + self.noise > 1:
            raise ValueError(
                f"trivial + noise is {self.trivial + self.noise:g}; lower one, "
                f"so that they sum to 1 or less"
            )
        if self.tastes > self.items:
            raise ValueError(f"{self.tastes} tastes exceed {self.items} items; lower tastes")
        return self


class CorpusConfig(Section):
    """Where interactions come from and how they become samples."""

    source: Source = "demo"
    """Where the interactions come from."""
    path: PathText | None = None
    """Folder with the files of the source; for the source datasets also owner/name of a dataset of
    the Hugging Face hub."""
    ratings: PathText | list[PathText] | None = None
    """File with the interactions, a pattern such as logs/*.csv.gz for all files that match, or a
    list of these; null finds it in corpus.path."""
    metadata: PathText | list[PathText] | None = None
    """File with the catalogue, a pattern, or a list of these; null finds it in corpus.path."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Columns of the files for the sources table, datasets and recbole, {role: column}, with the
    roles user, item, rating, event, time, order, title, text and catalogue_item. event is the type
    of an event, which corpus.events explains. order replaces time for events
    without times: a column of whole numbers, or file for the order of the rows. catalogue_item is
    the item column of the catalogue if it has another name there."""
    events: dict[str, str | float] = Field(default_factory=dict)
    """What becomes of each type of event, {type: use}, for example {view: drop, cart: 3, purchase:
    keep}. drop leaves such events out, keep keeps them, and a number is their rating, whatever the
    rating column holds. corpus.columns.event names the column with the types."""
    separator: str = ","
    """Character between the fields of .csv files. Shops that write decimal commas often use a
    semicolon."""
    decimal_comma: bool = False
    """Whether numbers are written with a decimal comma, such as 1.234,56."""
    dates: str | None = None
    """How dates are written, as Python's strptime takes it, e.g. '%d.%m.%Y %H:%M' for 31.12.2024
    14:05. null reads ISO 8601, such as 2024-12-31 14:05, and numbers."""
    category: str | None = None
    """Name of the domain for the prompts; null takes it from the files."""
    appended: list[PathText] = Field(default_factory=list)
    """Files with later interactions, oldest first, which are added to the corpus of the other
    settings one after the other. A finished corpus only gets the new ones: its own files are not
    read again."""
    appended_metadata: list[PathText | None] = Field(default_factory=list)
    """For each file of corpus.appended the file with the catalogue of its new items; null, also for
    files beyond the end of this list, takes the catalogue of the corpus."""
    download: bool | Literal["5core"] = False
    """Whether the Amazon 2023 category is downloaded; 5core takes the subset in which each user and
    item has at least 5 events."""
    start: str | None = None
    """First day that is kept, YYYY-MM-DD, UTC; null keeps the earliest."""
    end: str | None = None
    """First day that is dropped, YYYY-MM-DD, UTC; null keeps the latest."""
    k_core: int = Field(1, ge=1)
    """Smallest number of events of each user and item that is kept."""
    history: int = Field(10, ge=1)
    """Number of most recent events that the policy is shown."""
    choices: int = Field(0, ge=0)
    """Most pairs of the history for which the prompt says that the user chose one item over the
    other, because it has the higher rating."""
    min_history: int = Field(1, ge=1)
    """Number of earlier events of its user that a target needs."""
    same_time: Literal["exclude", "keep"] = "exclude"
    """Other events of the target's user and time: exclude leaves them out of history and ranking
    (the task is the next visit); keep puts those before the target, by ties, into the history (the
    task is the next event)."""
    ties: Literal["hash", "key", "file"] = "hash"
    """Order of a user's events at one time: hash is arbitrary but fixed, key sorts by item key,
    file keeps the order of the files."""
    min_rating: float | None = None
    """Events with a lower rating are dropped; null keeps all."""
    rating_range: tuple[float, float] = (0.0, 5.0)
    """Lowest and highest valid rating."""
    max_rejected: float = Field(0.01, ge=0, le=1)
    """Share of malformed rows above which the command stops."""
    split: tuple[float, float, float] | Literal["leave_one_out"] = (0.8, 0.1, 0.1)
    """Shares of train, valid and test over all samples by time; leave_one_out puts the last time of
    each user in test and the one before it in valid."""
    demo: DemoConfig = DemoConfig()

    @field_validator("start", "end", mode="before")
    @classmethod
    def _day(cls, day: Any) -> Any:
        if isinstance(day, date):  # YAML reads 2020-01-31 as a date
            return day.isoformat()[:10]
        try:
            return day if day is None else datetime.strptime(day, "%Y-%m-%d").date().isoformat()
        except (TypeError, ValueError):
            raise ValueError(f"{day!r} is not a date; write YYYY-MM-DD") from None

    @field_validator("separator")
    @classmethod
    def _one_character(cls, separator: str) -> str:
        plain = len(separator) == 1 and separator.isascii() and not separator.isalnum()
        if plain and separator not in '\r\n".-':
            return separator
        raise ValueError(f"{separator!r} cannot separate fields; write one character, e.g. ';'")

    @field_validator("dates")
    @classmethod
    def _format(cls, dates: str | None) -> str | None:
        # A day that the format cannot show in full is read as another day, or not at all.
        try:
            last = datetime(2024, 12, 31)
            if (
                dates is None
                or datetime.strptime(last.strftime(dates), dates).date() == last.date()
            ):
                return dates
        except ValueError:
            pass
        raise ValueError(
            f"{dates!r} is not a format with year, month and day; write e.g. '%d.%m.%Y' for "
            f"31.12.2024, or '%m/%d/%Y %H:%M'"
        )

    @field_validator("ratings", "metadata", mode="before")
    @classmethod
    def _named(cls, names: Any) -> Any:
        if names is None or isinstance(names, str):
            return names
        if isinstance(names, (list, tuple)) and names and all(isinstance(n, str) for n in names):
            return list(names)
        raise ValueError(f"{names!r} names no file; write a file, a pattern or a list of these")

    @field_validator("events", mode="before")
    @classmethod
    def _events(cls, events: Any) -> Any:
        if not isinstance(events, dict):
            return events
        for name, use in events.items():
            if isinstance(name, bool) or name is None:
                raise ValueError(
                    f"YAML reads one of the types as {name}; put the type in quotes, e.g. 'yes'"
                )
            _check_use(name, use)
        # YAML reads the type 1 as a number, and ids in files have single spaces.
        return {" ".join(str(name).split()): use for name, use in events.items()}

    @field_validator("split", mode="before")
    @classmethod
    def _split(cls, split: Any) -> Any:
        shares = isinstance(split, (list, tuple)) and len(split) == 3
        if split == "leave_one_out" or (shares and all(isinstance(s, (int, float)) for s in split)):
            return split
        raise ValueError(
            f"{split!r} is neither three shares nor leave_one_out; write [0.8, 0.1, 0.1], or "
            f"leave_one_out"
        )

    @model_validator(mode="after")
    def _check(self) -> CorpusConfig:
        shares = self.split if isinstance(self.split, tuple) else (1.0,)
        if abs(sum(shares) - 1) > 1e-9 or min(shares) <= 0:
            raise ValueError(f"split {self.split} must be three positive shares that sum to 1")
        if self.source != "demo" and not (self.path or self.ratings):
            raise ValueError(f"source {self.source} needs corpus.path or corpus.ratings")
        if self.rating_range[0] >= self.rating_range[1]:
            raise ValueError(f"rating_range {self.rating_range} must rise")
        if self.start and self.end and self.start >= self.end:
            raise ValueError(
                f"start {self.start} is not before end {self.end}; swap or correct them"
            )
        low, high = self.rating_range
        for name, use in self.events.items():
            if isinstance(use, float) and not low <= use <= high:
                raise ValueError(
                    f"events gives {name!r} the rating {use:g}, which is outside rating_range "
                    f"{[low, high]}; change one of the two"
                )
        if self.events and set(self.events.values()) == {"drop"}:
            raise ValueError(
                f"events drops every type ({', '.join(self.events)}); keep one, or give it a rating"
            )
        files = ["path", "ratings", "metadata", "columns", "events", "decimal_comma", "dates"]
        files += ["download", "appended"]
        given = [name for name in files if getattr(self, name)]
        if self.source == "demo" and given:
            raise ValueError(
                f"{given[0]} has no effect with source demo, which is generated; name the source "
                f"of your files or leave {given[0]} out"
            )
        if self.appended and self.whole_only:
            raise ValueError(
                f"corpus.appended cannot be used with {self.whole_only}; leave one of the two out"
            )
        if len(self.appended_metadata) > len(self.appended):
            raise ValueError(
                f"appended_metadata has {len(self.appended_metadata)} entries for the "
                f"{len(self.appended)} files of corpus.appended; give at most one for each"
            )
        return self

    @property
    def additions(self) -> list[CorpusConfig]:
        """The settings that read each file of `appended`."""
        catalogues = [*self.appended_metadata, *[None] * len(self.appended)]
        return [
            self.model_copy(
                update={
                    "ratings": file,
                    "metadata": catalogue or self.metadata,
                    "appended": [],
                    "appended_metadata": [],
                }
            )
            for file, catalogue in zip(self.appended, catalogues, strict=False)
        ]

    @property
    def whole_only(self) -> str | None:
        """The setting, and why, that needs all events at once; None: events can be appended."""
        if self.source == "demo":
            return "corpus.source=demo, which is generated as a whole"
        if self.download:
            return "corpus.download, whose files hold all events"
        if self.k_core > 1:
            return f"corpus.k_core={self.k_core}, since new events can bring old ones back"
        if self.split == "leave_one_out":
            return "corpus.split=leave_one_out, since each new event moves the old ones of its user"
        if self.columns.get("order") == "file":
            return "corpus.columns.order=file, since rows of another file have no place among them"
        return None


def _check_use(name: Any, use: Any) -> None:
    """Refuse a use of a type of event that is neither ``drop``, ``keep`` nor a number."""
    if use in ("drop", "keep") or (isinstance(use, (int, float)) and not isinstance(use, bool)):
        return
    near = difflib.get_close_matches(str(use), ["drop", "keep"], n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    raise ValueError(f"{use!r} of {name!r} is unknown; {meant}write drop, keep or a rating")
