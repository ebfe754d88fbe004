"""Writes the config of a draft: each guess with a comment that names the other candidates."""

from __future__ import annotations

from typing import Any

import yaml

from minirec.corpus.guessing.draft import Catalogue, Draft
from minirec.corpus.guessing.guesses import Guess
from minirec.corpus.guessing.looking import Look, shown

ROLES = ("user", "item", "time", "order", "title", "rating", "event", "text")
HISTORY = 10
"""Default of ``corpus.history``."""
CHARACTERS = 3
"""About how many characters of a title a token of the demo model's tokenizer has."""


def corpus_columns(found: Draft) -> dict[str, str]:
    """The value of ``corpus.columns``, in the order of the roles."""
    if found.look is None or found.guess is None:
        return {}
    columns = dict(found.guess.columns)
    if not found.guess.uses:
        columns.pop("event", None)
    if "time" not in columns:
        columns.setdefault("order", "file")
    else:
        columns.pop("order", None)
    if found.catalogue:
        columns |= _of(found.catalogue, columns["item"])
        if "text" not in found.catalogue.columns:
            columns.pop("text", None)
    columns.setdefault("title", columns["item"])
    if not found.catalogue and "text" in columns and "title" not in found.guess.columns:
        columns.pop("text")
    roles = (*ROLES, "catalogue_item")
    return {role: columns[role] for role in roles if role in columns}


def _of(catalogue: Catalogue, item: str) -> dict[str, str]:
    columns = {role: name for role, name in catalogue.columns.items() if role != "item"}
    other = catalogue.columns["item"]
    return columns | ({"catalogue_item": other} if other != item else {})


def written(found: Draft, *, run_dir: str, name: str) -> str:
    """The text of the config.

    Args:
        run_dir: value of the setting.
        name: what the user gave, for the first line.
    """
    tokens, prompt = sizes(found)
    lines = [
        f"# Written by `minirec init {name}`. Check the guesses, then run",
        "#   minirec run --config THIS_FILE",
        "# Paths are relative to the folder in which you run it. `minirec settings` explains all.",
        f"run_dir: {_flow(run_dir)}",
        "corpus:",
        *(f"  {line}" for line in _corpus(found)),
        *_weights(found.guess),
        "# The tiny model needs no GPU and shows that all works. A real one, from the hub:",
        "# model: {name: Qwen/Qwen2.5-0.5B-Instruct, max_prompt_tokens: 512, max_item_tokens: 48}",
        "# with rollout, training and resources as in configs/qwen2.5-0.5b.yaml; docs/models.md.",
        f"model: {{name: demo, max_prompt_tokens: {prompt}, max_item_tokens: {tokens}, "
        f"demo: {{vocabulary: 1500, warmup_steps: 100}}}}",
        "rollout: {max_new_tokens: 12}",
        "warm: {training: {steps: 50}}",
        "# Share of the training samples that is worth reinforcing; a number of samples works too.",
        "selection: {mode: live, budget: 0.25}",
        "training: {steps: 10, prompts_per_step: 32, prompts_per_micro_batch: 32, "
        "learning_rate: 3.0e-4, item_refresh_steps: 1}",
        "evaluation: {policies: [trained]}",
    ]
    return "\n".join(lines) + "\n"


def _corpus(found: Draft) -> list[str]:
    lines = [f"source: {found.source}"]
    if found.path is not None:
        lines.append(f"path: {_flow(found.path)}")
    if len(found.ratings) == 1:
        lines.append(f"ratings: {_flow(found.ratings[0])}")
    elif found.ratings:
        lines.append(f"ratings: {_flow(list(found.ratings))}")
    if found.look is None or found.guess is None:
        return [*lines, "# category: name of the domain in the prompts"]
    if found.catalogue:
        path = found.catalogue.look.table.path
        lines.append(f"metadata: {_flow(path.name)}  # the titles")
    lines.append("columns:")
    lines += [f"  {line}" for line in _columns(found, found.look, found.guess)]
    if found.beside:
        lines += _beside(found, found.beside)
    return lines + _notation(found.guess) + _events(found.guess)


def _columns(found: Draft, looked: Look, guess: Guess) -> list[str]:
    lines = []
    for role, name in corpus_columns(found).items():
        own = guess.columns.get(role) == name
        notes = []
        if own:
            values = looked.texts(name, 200)
            notes.append(f"e.g. {shown(values[0])}" if values else "")
        elif role == "order" and name == "file":
            notes.append("no column holds times; name one here instead: time: COLUMN")
        elif role == "title" and not found.catalogue:
            notes.append("no titles were found, so the ids stand for them")
        else:
            notes.append("of the catalogue")
        if role in guess.unnamed:
            notes.append("a guess by its values")
        others = [other for other in guess.others.get(role, []) if other != name]
        if others:
            notes.append(f"or {', '.join(others[:4])}")
        comment = " ".join("; ".join(filter(None, notes)).split())
        lines.append(f"{role}: {_flow(name)}" + (f"  # {comment}" if comment else ""))
    missing = [role for role in ("rating", "title") if role not in corpus_columns(found)]
    lines += [f"# {role}: COLUMN  # none was found" for role in missing]
    return lines


def _beside(found: Draft, beside: Catalogue) -> list[str]:
    columns = corpus_columns(found) | _of(beside, corpus_columns(found)["item"])
    path = beside.look.table.path
    file = str(path.relative_to(path.cwd())) if path.is_relative_to(path.cwd()) else str(path)
    return [
        f"# {path.name} beside it has titles. To use them, replace `columns` above by these lines:",
        f"# metadata: {_flow(file)}",
        f"# columns: {_flow(columns)}",
    ]


def _notation(guess: Guess) -> list[str]:
    lines = []
    if guess.notation.separator != ",":
        lines.append(f"separator: {_quoted(guess.notation.separator)}")
    if guess.notation.decimal_comma:
        lines.append("decimal_comma: true  # 1.234,56")
    if guess.notation.dates:
        others = f"  # or {', '.join(guess.dates[1:4])}" if len(guess.dates) > 1 else ""
        lines.append(f"dates: {_quoted(guess.notation.dates)}{others}")
    if guess.rating_range:
        low, high = guess.rating_range
        lines.append(f"rating_range: [{low:g}, {high:g}]  # lowest and highest rating")
    return lines


def _events(guess: Guess) -> list[str]:
    if not guess.uses:
        return []
    lines = ["events:  # drop, keep, or the rating of such an event"]
    for kind, use in guess.uses.items():
        value = use if isinstance(use, str) else f"{use:g}"
        lines.append(f"  {_quoted(kind)}: {value}")
    return lines


def _weights(guess: Guess | None) -> list[str]:
    if guess is None or not guess.prices:
        return []
    return [
        "# To weight items by their price:",
        f"# reward: {{item_weight: {_flow(guess.prices[0])}}}",
    ]


def sizes(found: Draft) -> tuple[int, int]:
    """``model.max_item_tokens`` and ``model.max_prompt_tokens``, which hold most titles."""
    at = found.catalogue.columns["title"] if found.catalogue else None
    looked = found.catalogue.look if found.catalogue else found.look
    at = at or (corpus_columns(found).get("title") if found.look else None)
    if looked is None or at is None:
        return 20, 224
    lengths = sorted(len(text) for text in looked.texts(at)) or [0]
    usual = lengths[len(lengths) * 9 // 10] // CHARACTERS + 4
    tokens = min(48, max(16, usual))
    return tokens, min(512, 32 * -(-(HISTORY * tokens + 32) // 32))


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(
        value, default_flow_style=True, width=10**6, allow_unicode=True, sort_keys=False
    )
    return text.removesuffix("\n").removesuffix("\n...").strip()


def _quoted(text: str) -> str:
    """A text as YAML in quotes."""
    dumped = yaml.safe_dump(text, default_style='"', width=10**6, allow_unicode=True)
    return dumped.strip()
