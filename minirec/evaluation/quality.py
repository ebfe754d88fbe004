"""The tables of the report about quality, from the content of ``evaluation.json``."""

from __future__ import annotations

import re
from typing import Any

from minirec.evaluation.policies import label, ordered, what


def places(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """A row per policy or reference: what it is, NDCG@10, and its difference to the best
    reference.

    ``value`` holds its value@10 in the same form, where items have weights.
    """
    policies = in_order(evaluation)
    prior = any(name == "prior" for name, _ in policies)
    return [
        {
            "name": label(name),
            "what": what(name, prior=prior),
            **_place(name, splits, evaluation, "ndcg@10"),
            "value": _place(name, splits, evaluation["value"], "value@10")
            if "value" in evaluation
            else None,
        }
        for name, splits in policies
    ]


def _place(name: str, splits: dict[str, Any], tests: dict[str, Any], metric: str) -> dict[str, Any]:
    """One metric of a policy, and whether it is the best reference by this metric."""
    best = tests.get("best_reference", {})
    return {
        "best": name == best.get("name"),
        "valid": splits.get("valid", {}).get(metric),
        "test": splits.get("test", {}).get(metric),
        "difference": best.get("paired", {}).get(name, {}).get("test"),
    }


def metrics(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """One table per split: metric names and a row per policy."""
    result = []
    for split in dict.fromkeys(s for _, splits in in_order(evaluation) for s in splits):
        rows = [(label(name), s[split]) for name, s in in_order(evaluation) if split in s]
        result.append({"split": split, "metrics": sorted(rows[0][1], key=_metric), "rows": rows})
    return sorted(result, key=lambda table: table["split"] != "test")


def paired(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the table of tests, by NDCG@10 and, where items have weights, by value@10."""
    names = {"policy", "versus"}
    tests = [evaluation.get("paired", {}), evaluation.get("value", {}).get("paired", {})]
    return [
        {k: label(v) if k in names else v for k, v in row.items()}
        for name, _ in in_order(evaluation)
        for found in tests
        for split, test in sorted(found.get(name, {}).items(), key=lambda pair: pair[0] != "test")
        for row in [{"policy": name, "split": split, **test}]
    ]


def breakdown(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Test NDCG@10 by group of samples, one column per policy."""
    found = evaluation.get("breakdown", {})
    names = [name for name, _ in in_order(evaluation) if found.get(name, {}).get("test")]
    groups = sorted(found[names[0]]["test"], key=_group) if names else []
    rows = [
        (
            group,
            found[names[0]]["test"][group]["count"],
            [found[name]["test"].get(group, {}).get("ndcg@10") for name in names],
        )
        for group in groups
    ]
    return {"policies": [label(name) for name in names], "rows": [r for r in rows if r[1]]}


def in_order(evaluation: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Policies, references and others in the order of the pages."""
    found = evaluation["policies"]
    return [(name, found[name]) for name in ordered(found)]


def _metric(name: str) -> tuple[int, int]:
    """Sort key: value, NDCG, HR, others; then the cutoff."""
    kind, _, cutoff = name.partition("@")
    return ({"value": -1, "ndcg": 0, "hr": 1}.get(kind, 2), int(cutoff or 0))


def _group(name: str) -> tuple[int, int]:
    """Sort key: warm, cold, repeat, new, then the popularity deciles in order."""
    first = ("warm", "cold", "repeat", "new")
    number = re.search(r"\d+$", name)
    place = first.index(name) if name in first else len(first)
    return (place, int(number[0]) if number else 0)
