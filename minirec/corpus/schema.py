"""Arrow schemas of the tables, versioned (see docs/architecture.md)."""

from __future__ import annotations

import pyarrow as pa

VERSION = "2"
_META = {b"minirec.schema": VERSION.encode()}

ITEMS = pa.schema(
    [
        ("item_id", pa.int32()),
        ("key", pa.string()),
        ("title", pa.string()),
        ("text", pa.string()),
    ],
    metadata=_META,
)
"""Catalogue: item_id is dense, 0..V-1; key is the id of the source."""

SAMPLES = pa.schema(
    [
        ("sample_id", pa.int64()),
        ("user", pa.string()),
        ("history", pa.list_(pa.int32())),
        ("history_rating", pa.list_(pa.float32())),
        ("history_time", pa.list_(pa.int64())),
        ("target", pa.int32()),
        ("rating", pa.float32()),
        ("time", pa.int64()),
    ],
    metadata=_META,
)
"""One target interaction with the events before it, oldest first; times in ms since 1970, or the
numbers of ``corpus.columns.order``."""

SAMPLES_WITH_SAME_TIME = SAMPLES.append(pa.field("same_time", pa.list_(pa.int32())))
"""`SAMPLES` of a corpus with events of one user and time that are excluded from each other's
history. ``same_time`` holds the items of the target's user at the target's time, without the
target. They would be correct answers too, so the ranking and the item loss leave them out."""

REJECTED = pa.schema(
    [
        ("reason", pa.string()),
        ("file", pa.string()),
        ("line", pa.int64()),
        ("text", pa.string()),
    ],
    metadata=_META,
)
"""A malformed row of the input: why, where (line counts from 1), and its first 200 characters."""

TRUTH = pa.schema([("sample_id", pa.int64()), ("label", pa.string())], metadata=_META)
"""Planted truth of the demo corpus: trivial, learnable, noise or duplicate."""

SCORES = pa.schema(
    [
        ("sample_id", pa.int64()),
        ("mean_reward", pa.float64()),
        ("learnability", pa.float64()),
        ("representativeness", pa.float64()),
        ("value", pa.float64()),
    ],
    metadata=_META,
)
"""A score for each sample; representativeness is NaN where no gradient is known."""

SELECTION = pa.schema(
    [
        ("rank", pa.int64()),
        ("sample_id", pa.int64()),
        ("group", pa.int32()),
        ("value", pa.float64()),
        ("novelty", pa.float64()),
        ("learnability", pa.float64()),
        ("representativeness", pa.float64()),
        ("mean_reward", pa.float64()),
    ],
    metadata=_META,
)
"""The chosen subset in training order (rank 0 is trained first).

novelty is NaN where it was not weighed: under a baseline, or without embeddings.
"""

RANKS = pa.schema(
    [
        ("policy", pa.string()),
        ("split", pa.string()),
        ("sample_id", pa.int64()),
        ("rank", pa.int32()),
    ],
    metadata=_META,
)
"""Rank of the target in the full catalogue, 1 is best."""


def features(hidden_size: int) -> pa.Schema:
    """Schema of a features shard for a policy with hidden size `hidden_size`.

    A screened sample has no rollouts: its lists are empty, its `rollout_gradient` is 0, and its
    other vectors are those of the forced answer. A control sample would have been screened and was
    rolled out all the same. The screen's reward and NDCG are null where nothing was screened.
    """
    return pa.schema(
        [
            ("sample_id", pa.int64()),
            ("rewards", pa.list_(pa.float32())),
            ("ndcg", pa.list_(pa.float32())),
            ("hits", pa.int8()),
            ("completions", pa.list_(pa.string())),
            ("tokens", pa.list_(pa.list_(pa.int32()))),
            ("embedding", pa.list_(pa.float16(), hidden_size)),
            ("gradient", pa.list_(pa.float32(), hidden_size)),
            ("rollout_gradient", pa.list_(pa.float32(), hidden_size)),
            ("hvp", pa.list_(pa.float32(), hidden_size)),
            ("el2n", pa.float32()),
            ("rollout_tokens", pa.int64()),
            ("screened", pa.bool_()),
            ("control", pa.bool_()),
            ("screen_reward", pa.float32()),
            ("screen_ndcg", pa.float32()),
        ],
        metadata=_META,
    )


def gradients(dim: int) -> pa.Schema:
    """Schema of a shard of projected gradients with `dim` numbers each."""
    return pa.schema(
        [("sample_id", pa.int64()), ("gradient", pa.list_(pa.float32(), dim))], metadata=_META
    )


TRIALS = pa.schema(
    [
        ("trial", pa.string()),
        ("setting", pa.string()),
        ("method", pa.string()),
        ("table", pa.string()),
        ("budget", pa.float64()),
        ("samples", pa.int64()),
        ("alpha", pa.float64()),
        ("groups", pa.int64()),
        ("learnability", pa.string()),
        ("seed", pa.int64()),
        ("status", pa.string()),
        ("cause", pa.string()),
        ("steps", pa.int64()),
        ("own_rollouts", pa.int64()),
        ("own_seconds", pa.float64()),
        ("rollouts", pa.int64()),
        ("seconds", pa.float64()),
        ("dead_groups", pa.float64()),
        ("gain_kept", pa.float64()),
        ("gain_dropped", pa.float64()),
        ("valid_ndcg@10", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("test_ndcg@10", pa.float64()),
        ("best_valid_ndcg@10", pa.float64()),
        ("front_rollouts", pa.bool_()),
        ("front_seconds", pa.bool_()),
        ("reached_step", pa.int64()),
        ("reached_samples", pa.int64()),
        ("reached_rollouts", pa.int64()),
        ("reached_seconds", pa.float64()),
    ],
    metadata=_META,
)
"""A trial of a sweep or a comparison: finished, stopped (early) or failed.

budget is as in the settings, samples the number it stands for. table is steps or epochs in a
comparison, else empty. Own cost is that of selection and training; the total adds what the trial
is charged with: proxy, scoring, gradients. A sweep counts validations, a comparison does not.
valid_ndcg@10 is that of the final adapter on the whole split, with a 95% interval over users (low,
high), or the last validation of a stopped trial. best_valid is over the validations during
training, on a part of the split.

Two groups of columns depend on the other trials: front_* of a sweep, whether the setting, averaged
over its seeds, is on a Pareto front; reached_* of a comparison, the total cost until a validation
first reached the goal, null if none did. The other command leaves them null.
"""
