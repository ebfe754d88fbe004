"""Texts of the prompts. Markers inside catalogue text are neutralised first."""

from __future__ import annotations

import random
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

ANSWER = "<answer>"
"""Ends an analysis and an item text; the hidden state at its last token is the vector."""

_BRACKETS = str.maketrans({"<": "‹", ">": "›"})
_JOINERS = "\u200c\u200d"  # in Persian, in scripts of India, and in emoji
_WITHIN_WORDS = frozenset("\u00ad\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\ufeff")
_MARKER = re.compile(r"\[(/?(?:INST|SYS|[A-Z]+(?:_[A-Z]+)+))\]", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]{3,}")
_STOP_WORDS = frozenset({"the", "and", "for", "with", "from", "inch", "pack", "set", "new"})


def begun(ids: list[int], tokenizer: Any) -> list[int]:
    """Token ids of a whole text, with the BOS token in front if the tokenizer adds it.

    A chat template may already contain it. Models that were trained with BOS, such as Gemma and
    Llama, give other hidden states without it.
    """
    bos = [tokenizer.bos_token_id]
    return [*bos, *ids] if tokenizer.encode("")[:1] == bos != ids[:1] else list(ids)


def neutralise(text: str) -> str:
    """Catalogue text without markers of chat templates or answers.

    Angle brackets become typographic ones, which breaks ``<answer>`` and ``<|im_start|>``.
    ``[INST]``, ``[TOOL_CALLS]`` and similar markers get round brackets. Control characters and runs
    of white space become one space. Soft hyphens and marks of direction are removed, and joiners
    too, except between letters or emoji that need them.
    """
    text = unicodedata.normalize("NFC", text)
    if not text.isprintable():
        text = "".join(_visible(text, place) for place in range(len(text)))
        text = unicodedata.normalize("NFC", text)
    text = text.translate(_BRACKETS)
    text = _MARKER.sub(r"(\1)", text)
    return " ".join(text.split())


def _visible(text: str, place: int) -> str:
    """The character at this place, or its replacement."""
    char = text[place]
    if char in _JOINERS:
        kept = place and _joined(text[place - 1]) and _joined(text[place + 1 : place + 2])
        return char if kept else ""
    if char in _WITHIN_WORDS:
        return ""
    return " " if unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp") else char


def _joined(char: str) -> bool:
    """Whether a joiner next to this character has a meaning: letters, marks, emoji."""
    return char > "\x7f" and unicodedata.category(char)[0] in "LMS"


def chosen_pairs(
    history: Sequence[int], ratings: Sequence[float], *, most: int
) -> list[tuple[int, int]]:
    """Pairs of places in a history whose ratings differ, the one with the higher rating first.

    After ICPRL (arXiv 2602.08244), whose policy reads preferences and no rewards. The most recent
    pairs come first: by the later of the two events, then by the other. Of the events of an item
    only the last one counts, so that no item is chosen over itself.

    Args:
        history, ratings: item ids and their ratings, oldest first; no ratings give no pairs.
        most: pairs that are returned at most.
    """
    found: list[tuple[int, int]] = []
    last = {item: place for place, item in enumerate(history)} if ratings and most else {}
    places = sorted(last.values(), reverse=True)
    for number, late in enumerate(places):
        for early in places[number + 1 :]:
            if ratings[late] > ratings[early]:
                found.append((late, early))
            elif ratings[late] < ratings[early]:
                found.append((early, late))
            if len(found) == most:
                return found
    return found


def chosen_lines(titles: Sequence[str], pairs: Sequence[tuple[int, int]]) -> str:
    """A line for each pair of places in the titles, of which the first was preferred."""
    return "".join(f"chose {titles[a]} over {titles[b]}\n" for a, b in pairs)


def instruction(
    titles: Sequence[str],
    *,
    category: str,
    options: Sequence[str] = (),
    pairs: Sequence[tuple[int, int]] = (),
) -> str:
    """User message for a model with a chat template; titles are oldest first.

    `options` are titles among which the next one is, in any order, and `pairs` places in the
    titles, of which the first was preferred to the second (`chosen_pairs`).
    """
    chosen = f"Of these, the customer\n{chosen_lines(titles, pairs)}" if pairs else ""
    listed = "".join(f"- {title}\n" for title in options)
    among = f"The next one is among these:\n{listed}" if options else ""
    lines = "\n".join(f"{i}. {title}" for i, title in enumerate(titles, 1))
    return (
        f"Here is what a customer bought in {category}, oldest first:\n{lines}\n{chosen}{among}"
        f"Describe in a few words what this customer likes and will want next, then write {ANSWER}"
    )


def plain(
    titles: Sequence[str],
    *,
    options: Sequence[str] = (),
    pairs: Sequence[tuple[int, int]] = (),
) -> str:
    """Prompt for a model without a chat template; the arguments are those of `instruction`."""
    among = "\nOptions: " + " | ".join(options) if options else ""
    chosen = "\n" + chosen_lines(titles, pairs).rstrip("\n") if pairs else ""
    return "History: " + " | ".join(titles) + chosen + among + "\nLikes:"


def item_text(title: str, text: str) -> str:
    """Text of a catalogue item, before `ANSWER`."""
    return f"Item: {title}. {text}" if text else f"Item: {title}."


def comparable(title: str) -> str:
    """A title in a form that ignores case, extra spaces and the Unicode form of accents."""
    parts = (part.strip() for part in neutralise(title).casefold().split(","))
    return unicodedata.normalize("NFC", ", ".join(part for part in parts if part))


def analysis(
    titles: Sequence[str], *, rng: random.Random, words: int = 4, as_written: bool = False
) -> str:
    """An analysis of a history from a template: random words, preferably frequent and recent ones.

    It teaches the demo model the form of an answer, not which item comes next. Words are in lower
    case, or as in the titles (`as_written`).
    """
    counts: defaultdict[str, float] = defaultdict(float)
    spelling: dict[str, str] = {}
    for age, title in enumerate(reversed(titles)):
        for word in _WORD.findall(title):
            if (lower := word.lower()) not in _STOP_WORDS:
                counts[lower] += 1 / (1 + age)
                spelling.setdefault(lower, word if as_written else lower)
    chosen: list[str] = []
    while counts and len(chosen) < words:
        word = rng.choices(list(counts), weights=list(counts.values()))[0]
        chosen.append(spelling[word])
        del counts[word]
    return " " + (", ".join(chosen) if chosen else "anything") + " "
