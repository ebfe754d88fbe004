"""Generates the demo corpus, which has planted truth.

Every item belongs to a series of five within a taste, and its title names both ("Jazz Saxophone
Harbor"). A user has one taste and walks through its series, item by item. There are also
bestsellers, random events, and users that copy another user. Each event has a label:

- ``trivial``: one of six bestsellers, predictable from popularity alone;
- ``learnable``: the next item of the user's walk, predictable from the titles in the history;
- ``noise``: uniform over the catalogue, unrelated to the user;
- ``duplicate``: an event of a user that copies another user.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from minirec.config.corpus import DemoConfig
from minirec.corpus.events import Events, encode
from minirec.corpus.items import Items

LABELS = ("trivial", "learnable", "noise", "duplicate")
START_MS = 1_640_995_200_000  # 2022-01-01 UTC
SPAN_MS = 2 * 365 * 24 * 3600 * 1000
SERIES = 5
BESTSELLERS = (
    ("Bestseller Gift Card", 0.30),
    ("Bestseller Water Bottle", 0.22),
    ("Bestseller Phone Charger", 0.16),
    ("Bestseller Desk Lamp", 0.13),
    ("Bestseller Travel Mug", 0.11),
    ("Bestseller Alarm Clock", 0.08),
)

# A taste: two general words, then six words that name its series.
TASTES = (
    ("jazz", "music", "saxophone", "trumpet", "piano", "swing", "blues", "quartet"),
    ("garden", "plants", "roses", "herbs", "orchid", "compost", "bonsai", "tulips"),
    ("space", "science", "planets", "rockets", "comets", "galaxy", "lunar", "telescope"),
    ("kitchen", "cooking", "pasta", "curry", "sourdough", "barbecue", "noodles", "pastry"),
    ("sailing", "ocean", "yacht", "harbor", "lighthouse", "whales", "coral", "kayak"),
    ("history", "empire", "roman", "viking", "pharaoh", "samurai", "medieval", "colonial"),
    ("crime", "mystery", "detective", "heist", "forensic", "alibi", "smuggler", "verdict"),
    ("mountain", "hiking", "glacier", "summit", "canyon", "alpine", "volcano", "campfire"),
    ("robot", "machine", "android", "circuit", "drone", "laser", "sensor", "turbine"),
    ("magic", "fantasy", "dragon", "wizard", "unicorn", "goblin", "castle", "potion"),
    ("horse", "animal", "pony", "puppy", "kitten", "parrot", "rabbit", "turtle"),
    ("racing", "motor", "rally", "karting", "dragster", "bicycle", "formula", "speedway"),
    ("craft", "sewing", "quilt", "knitting", "origami", "pottery", "crochet", "leather"),
    ("soccer", "sport", "tennis", "hockey", "boxing", "rugby", "archery", "fencing"),
)
NOUNS = (
    "Story", "Guide", "Album", "Journey", "Secret", "Classic", "Handbook", "Legend", "Letters",
    "Evening", "Winter", "Summer", "Bridge", "Window", "Mirror", "Shadow", "Promise", "Return",
    "Morning", "River", "Corner", "Lesson", "Season", "Island", "Memory", "Signal",
)  # fmt: skip
QUALIFIERS = ("", "Grand", "Little", "Hidden", "Golden", "Silent", "Wild", "Modern")


@dataclass(frozen=True)
class _Shop:
    """Items: bestsellers first, then the series; series[i] belongs to taste taste_of[i]."""

    titles: list[str]
    texts: list[str]
    series: list[np.ndarray]
    taste_of: list[int]


def generate(demo: DemoConfig, *, seed: int) -> tuple[Events, Items, np.ndarray]:
    """Generate the corpus.

    Returns:
        events: about ``users x events_per_user`` interactions over two years.
        items: the catalogue; each item has an event, and a weight (`margins`).
        labels: (N,) array of `LABELS`, one for each event.
    """
    rng = np.random.default_rng([seed, 0x0DE30])
    shop = _stock(demo, rng)
    originals = max(1, demo.users - round(demo.users * demo.duplicates))
    walks = [_walk(demo, shop, taste % demo.tastes, rng) for taste in range(originals)]
    for _ in range(demo.users - originals):
        items, times, ratings, _ = walks[rng.integers(originals)]
        # Minutes to hours later, in the same order.
        shifted = times + rng.integers(60_000, 6 * 3_600_000)
        walks.append((items, shifted, ratings, ["duplicate"] * len(items)))
    names = rng.permutation(demo.users)
    users = np.repeat([f"user{n:05d}" for n in names], [len(w[0]) for w in walks])
    item = np.concatenate([w[0] for w in walks])
    user_codes, user_names = encode(pa.array(users))
    item_codes, item_names = encode(pa.array([f"item{i:05d}" for i in item]))
    events = Events(
        user=user_codes,
        item=item_codes,
        rating=np.concatenate([w[2] for w in walks]),
        time=np.concatenate([w[1] for w in walks]),
        order=np.arange(len(item)),
        users=user_names,
    )
    present = [int(key.removeprefix("item")) for key in item_names.to_pylist()]
    margin = margins(len(shop.titles), seed=seed)
    table = pa.table(
        {
            "key": item_names,
            "title": [shop.titles[i] for i in present],
            "text": [shop.texts[i] for i in present],
            "category": pa.nulls(len(present), pa.string()),
            "weight": margin[present],
        }
    )
    return events, Items.of(table), np.concatenate([w[3] for w in walks])


def margins(items: int, *, seed: int) -> np.ndarray:
    """The margin of each item, (V,) float64: ``round(5 e^z, 2)`` with z standard normal.

    z has a generator of its own, so the margin says nothing about taste, series or popularity.
    """
    z = np.random.default_rng([seed, 0x3A261]).standard_normal(items)
    return (5 * np.exp(z)).round(2)


def _stock(demo: DemoConfig, rng: np.random.Generator) -> _Shop:
    titles = [title for title, _ in BESTSELLERS]
    texts = [f"{title}, a bestseller that everybody takes." for title in titles]
    series: list[np.ndarray] = []
    taste_of: list[int] = []
    rest = demo.items - len(BESTSELLERS)
    for taste in range(demo.tastes):
        general = _words(taste)[:2]
        styles = _words(taste)[2:]
        count = rest // demo.tastes + (taste < rest % demo.tastes)
        for number, start in enumerate(range(0, count, SERIES)):
            size = min(SERIES, count - start)
            style = styles[number % len(styles)]
            name = [_qualifier(number // len(styles)), general[number % 2], style]
            nouns = rng.permutation(NOUNS)[:size]
            series.append(np.arange(len(titles), len(titles) + size))
            taste_of.append(taste)
            for noun in nouns:
                titles.append(" ".join([*filter(None, name), noun]).title())
                texts.append(f"A {noun.lower()} of {general[0]} and {general[1]} about {style}.")
    return _Shop(titles, texts, series, taste_of)


def _words(taste: int) -> tuple[str, ...]:
    """Eight words of a taste; tastes beyond `TASTES` get distinct words of syllables."""
    if taste < len(TASTES):
        return TASTES[taste]
    onsets, vowels = "bdfgklmnprstvz", "aeiou"

    def word(n: int) -> str:
        letters = ""
        for _ in range(4):
            n, onset = divmod(n, len(onsets))
            letters += onsets[onset] + vowels[(n + onset) % len(vowels)]
        return letters

    # A factor coprime to 14^4 gives neighbouring numbers different syllables.
    return tuple(word((8 * taste + i) * 7919 % len(onsets) ** 4) for i in range(8))


def _qualifier(number: int) -> str:
    return QUALIFIERS[number] if number < len(QUALIFIERS) else f"Volume {number}"


def _walk(
    demo: DemoConfig, shop: _Shop, taste: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Items, times, ratings and labels of a user's events, oldest first; items do not repeat."""
    count = 3 + int(rng.poisson(demo.events_per_user - 3))
    path = _path(shop, taste, rng)
    weights = np.array([w for _, w in BESTSELLERS])
    taken: list[int] = []
    labels: list[str] = []
    for number in range(count):
        # The first event shows the taste; otherwise the second could not be predicted.
        kind = "learnable" if number == 0 else _kind(demo, rng)
        choice = None
        if kind == "trivial":
            free = np.array([i for i in range(len(weights)) if i not in taken], dtype=int)
            if len(free):
                choice = rng.choice(free, p=weights[free] / weights[free].sum())
        if choice is None and kind != "noise":
            kind = "learnable"
            choice = next((i for i in path if i not in taken), None)
        if choice is None:  # noise, or the taste is used up
            kind = "noise"
            free = np.setdiff1d(np.arange(len(shop.titles)), taken)
            if not len(free):
                break
            choice = rng.choice(free)
        taken.append(int(choice))
        labels.append(kind)
    times = np.sort(rng.integers(0, SPAN_MS, size=len(taken))) + START_MS
    # Equal times would make the order of a history depend on the keys.
    times = np.maximum.accumulate(times - np.arange(len(times))) + np.arange(len(times))
    # Ratings have the same distribution for all labels, so they do not reveal the label.
    ratings = rng.choice([3.0, 4.0, 5.0], p=[0.2, 0.4, 0.4], size=len(taken)).astype(np.float32)
    return np.array(taken, dtype=np.int64), times, ratings, labels


def _kind(demo: DemoConfig, rng: np.random.Generator) -> str:
    draw = rng.random()
    if draw < demo.trivial:
        return "trivial"
    return "noise" if draw < demo.trivial + demo.noise else "learnable"


def _path(shop: _Shop, taste: int, rng: np.random.Generator) -> list[int]:
    """The items of a taste in the order of a walk, with random starts within the series."""
    own = [s for s, t in zip(shop.series, shop.taste_of, strict=True) if t == taste]
    start = rng.integers(len(own)) if own else 0
    order: list[int] = []
    for k in range(len(own)):
        items = own[(start + k) % len(own)]
        order += np.roll(items, -int(rng.integers(len(items)))).tolist()
    return order
