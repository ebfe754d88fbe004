"""The policies and references of ``evaluation.json``, in the order in which pages show them."""

from __future__ import annotations

from typing import Any

POLICIES = {
    "trained": ("trained policy", "the policy after training"),
    "trained_alone": (
        "trained policy alone",
        "the same policy without the prior; it was trained to add to it, not to rank alone",
    ),
    "prior": (
        "prior alone",
        "co-occurrence, transitions and titles with fitted weights, without a policy",
    ),
    "warm": ("warm start", "the policy after supervision, before reinforcement"),
    "proxy": ("proxy policy", "the policy that was trained on a small random subset"),
    "base": ("before training", "the base model"),
}
"""Name -> label, and what it is."""
REFERENCES = {
    "shortcut": ("shortcut", "the sum of co-occurrence, transitions and titles, equal weights"),
    "sasrec": ("SASRec", "a transformer over item ids, trained on the same samples"),
    "transitions": ("transitions", "what came next after the items of the history"),
    "cooccurrence": ("co-occurrence", "what the users of the history's items also have"),
    "title_likeness": ("likeness of titles", "titles that are similar to those of the history"),
    "popularity": ("popularity", "the items with the most users"),
}
"""As `POLICIES`. References need no LLM."""
WITH_PRIOR = ("trained", "warm", "proxy", "base")
"""Policies that rank with the collaborative prior if the run has one."""


def label(name: str) -> str:
    """The name of a policy or reference on a page; a reference says that it is one."""
    if name in REFERENCES:
        return f"reference: {REFERENCES[name][0]}"
    return POLICIES[name][0] if name in POLICIES else name


def what(name: str, *, prior: bool) -> str:
    """What a policy or reference is. `prior`: whether the run has a collaborative prior."""
    text = (POLICIES | REFERENCES).get(name, ("", ""))[1]
    return f"{text}, with the prior" if prior and name in WITH_PRIOR else text


def ordered(found: dict[str, Any]) -> list[str]:
    """The names of `found`: policies, references, then unknown ones."""
    known = [name for name in (*POLICIES, *REFERENCES) if name in found]
    return known + [name for name in found if name not in known]
