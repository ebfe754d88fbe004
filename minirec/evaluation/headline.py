"""What a run says first: where the trained policy stands beside the best reference."""

from __future__ import annotations

from typing import Any

from minirec.evaluation.policies import REFERENCES

NDCG, VALUE = "ndcg@10", "value@10"
SHOWN = {NDCG: "NDCG@10", VALUE: VALUE}
"""Metrics as they are written in a sentence."""


def headline(evaluation: dict[str, Any]) -> str | None:
    """NDCG@10 of the trained policy on test, beside the reference that is best on valid.

    Where items have weights, value@10 comes first. `evaluation` is the content of
    ``evaluation.json``. None if it lacks the test split, the trained policy or a reference.
    """
    by_value = [_sentences(evaluation, VALUE)] if "value" in evaluation else []
    found = [text for text in (*by_value, _sentences(evaluation, NDCG)) if text]
    return " ".join(found) or None


def _sentences(evaluation: dict[str, Any], metric: str) -> str | None:
    """The headline in one metric."""
    tests = evaluation["value"] if metric == VALUE else evaluation
    best = tests.get("best_reference", {})
    test = best.get("paired", {}).get("trained", {}).get("test")
    if test is None:
        return None
    policies = evaluation["policies"]
    ours, name = policies["trained"]["test"][metric], best["name"]
    theirs = policies[name]["test"][metric]["mean"]
    digits = _digits(ours["mean"], theirs)
    if test["low"] > 0:
        place = "above"
    elif test["high"] < 0:
        place = "below"
    else:
        place = "not significantly different from"
    return (
        f"On test the trained policy has {SHOWN[metric]} {ours['mean']:.{digits}f} "
        f"({ours['low']:.{digits}f} to {ours['high']:.{digits}f}), {place} the best reference, "
        f"{REFERENCES[name][0]} (chosen on valid), with {theirs:.{digits}f}: "
        f"{test['difference']:+.{digits}f} ({test['low']:+.{digits}f} to "
        f"{test['high']:+.{digits}f})."
        f"{_better_on_test(policies, name, metric, digits)}"
    )


def _better_on_test(policies: dict[str, Any], chosen: str, metric: str, digits: int) -> str:
    """A further sentence if test would choose another reference."""
    means = {
        name: policies[name]["test"][metric]["mean"]
        for name in REFERENCES
        if "test" in policies.get(name, {})
    }
    best = max(means, key=means.__getitem__)
    if means[best] <= means[chosen]:
        return ""
    return f" On test {REFERENCES[best][0]} is higher, with {means[best]:.{digits}f}."


def shortcuts_sentence(found: dict[str, Any]) -> str:
    """How far a corpus goes without training; `found` is ``shortcuts`` of ``corpus.json``."""
    ndcg, best = found[NDCG], found["best"]
    digits = _digits(ndcg[best])
    if best == "popularity":
        reached = f"popularity, the best of them, reaches NDCG@10 {ndcg[best]:.{digits}f}"
    else:
        reached = (
            f"{REFERENCES[best][0]}, the best of them, reaches NDCG@10 {ndcg[best]:.{digits}f} and "
            f"popularity {ndcg['popularity']:.{digits}f}"
        )
    return (
        f"Of the references without training, {reached} on valid ({found['samples']:,} samples); "
        f"a trained model has to exceed this figure."
    )


def _digits(*values: float) -> int:
    return 3 if min(values) >= 0.1 else 4
