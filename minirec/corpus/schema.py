"""Arrow schemas of the tables, versioned (see docs/architecture.md)."""

from __future__ import annotations

import pyarrow as pa

VERSION = "3"
_META = {b"minirec.schema": VERSION.encode()}


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema(columns, metadata=_META)


ITEMS = _schema(item_id=pa.int32(), key=pa.string(), title=pa.string(), text=pa.string())
"""Catalogue: item_id is dense, 0..V-1; key is the id of the source. With ``reward.item_weight``
one more column, float64, has its name (`minirec.corpus.weights`)."""

SAMPLES = _schema(
    sample_id=pa.int64(),
    user=pa.string(),
    history=pa.list_(pa.int32()),
    history_rating=pa.list_(pa.float32()),
    history_time=pa.list_(pa.int64()),
    target=pa.int32(),
    rating=pa.float32(),
    time=pa.int64(),
)
"""A target interaction and the events before it, oldest first. Times are in ms since 1970, or the
numbers of ``corpus.columns.order``."""

SAMPLES_WITH_SAME_TIME = SAMPLES.append(pa.field("same_time", pa.list_(pa.int32())))
"""`SAMPLES` of a corpus that excludes events of one user and time from each other's history.
``same_time`` holds the other items of the target's user at the target's time. They would be correct
answers too, so the ranking and the item loss leave them out."""

TAILS = _schema(
    user=pa.string(),
    events=pa.int64(),
    history=pa.list_(pa.int32()),
    history_rating=pa.list_(pa.float32()),
    history_time=pa.list_(pa.int64()),
)
"""A user, sorted by id: the number of events, and the last ``corpus.history`` of them, oldest
first, as in `SAMPLES`. New events are appended to these (`minirec.corpus.append`)."""

REJECTED = _schema(reason=pa.string(), file=pa.string(), line=pa.int64(), text=pa.string())
"""A malformed row of the input: why, where (line counts from 1), and its first 200 characters."""

TRUTH = _schema(sample_id=pa.int64(), label=pa.string())
"""Planted truth of the demo corpus: trivial, learnable, noise or duplicate."""

SCORES = _schema(
    sample_id=pa.int64(),
    mean_reward=pa.float64(),
    learnability=pa.float64(),
    representativeness=pa.float64(),
    value=pa.float64(),
)
"""A score for each sample; representativeness is NaN where no gradient is known."""

SELECTION = _schema(
    rank=pa.int64(),
    sample_id=pa.int64(),
    group=pa.int32(),
    value=pa.float64(),
    novelty=pa.float64(),
    learnability=pa.float64(),
    representativeness=pa.float64(),
    mean_reward=pa.float64(),
)
"""The chosen subset in training order (rank 0 is trained first).

novelty is NaN for baselines and without embeddings.
"""

CHOICES = _schema(
    step=pa.int64(),
    reason=pa.string(),
    sample_id=pa.int64(),
    lift=pa.float64(),
    rollout_lift=pa.float64(),
    reward=pa.float64(),
)
"""A prompt that live selection trained, in order. lift: of the forced answer when it was chosen,
NaN if unknown. rollout_lift and reward: means over its rollouts; NaN without rollouts.
The reward has the weight of the target (`reward.item_weight`)."""

LIFTS = _schema(
    sample_id=pa.int64(), reached=pa.bool_(), lift=pa.float64(), rollout_lift=pa.float64()
)
"""What live selection knew about each sample at its end: whether its stream had reached the sample,
the newest lift of its forced answer, and the decayed mean lift of its rollouts; NaN if unknown."""

PULLS = _schema(
    step=pa.int64(),
    arm=pa.int64(),
    sample_id=pa.int64(),
    lift=pa.float64(),
    signal=pa.float64(),
)
"""A prompt that the self-paced curriculum trained, in order: its cluster (`arm`), the mean lift of
its rollouts, and the standard deviation of their rewards (`signal`)."""

RANKS = _schema(policy=pa.string(), split=pa.string(), sample_id=pa.int64(), rank=pa.int32())
"""Rank of the target in the full catalogue, 1 is best."""


def features(hidden_size: int) -> pa.Schema:
    """Schema of a features shard for a policy with hidden size `hidden_size`.

    A screened sample has no rollouts: its lists are empty, its `rollout_gradient` is 0, and its
    other vectors are those of the forced answer. A control sample failed the screen but was rolled
    out. The screen's reward and NDCG are null if scoring had no screen. `forward_tokens` is what a
    sample cost (`minirec.model.tokens`); the first one also bears the encoding of the catalogue.
    An `in_sample` sample was trained by the policy that scores it, so its rewards are higher than
    those of a sample that the policy has not seen.
    """
    return _schema(
        sample_id=pa.int64(),
        rewards=pa.list_(pa.float32()),
        ndcg=pa.list_(pa.float32()),
        hits=pa.int8(),
        completions=pa.list_(pa.string()),
        tokens=pa.list_(pa.list_(pa.int32())),
        embedding=pa.list_(pa.float16(), hidden_size),
        gradient=pa.list_(pa.float32(), hidden_size),
        rollout_gradient=pa.list_(pa.float32(), hidden_size),
        hvp=pa.list_(pa.float32(), hidden_size),
        el2n=pa.float32(),
        rollout_tokens=pa.int64(),
        forward_tokens=pa.int64(),
        screened=pa.bool_(),
        control=pa.bool_(),
        in_sample=pa.bool_(),
        screen_reward=pa.float32(),
        screen_ndcg=pa.float32(),
    )


def gradients(dim: int) -> pa.Schema:
    """Schema of a shard of projected gradients with `dim` numbers each, and what each cost."""
    return _schema(
        sample_id=pa.int64(),
        gradient=pa.list_(pa.float32(), dim),
        forward_tokens=pa.int64(),
    )


TRIALS = pa.schema(
    [
        ("trial", pa.string()),
        ("setting", pa.string()),
        ("method", pa.string()),
        ("variant", pa.string()),
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
        ("own_forward_tokens", pa.int64()),
        ("rollouts", pa.int64()),
        ("seconds", pa.float64()),
        ("forward_tokens", pa.int64()),
        ("validation_forward_tokens", pa.int64()),
        ("dead_groups", pa.float64()),
        ("gain_kept", pa.float64()),
        ("gain_dropped", pa.float64()),
        ("valid_ndcg@10", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("test_ndcg@10", pa.float64()),
        ("valid_value@10", pa.float64()),
        ("test_value@10", pa.float64()),
        ("best_valid_ndcg@10", pa.float64()),
        ("front_rollouts", pa.bool_()),
        ("front_seconds", pa.bool_()),
        ("reached_step", pa.int64()),
        ("reached_samples", pa.int64()),
        ("reached_rollouts", pa.int64()),
        ("reached_seconds", pa.float64()),
        ("reached_tokens", pa.int64()),
    ],
    metadata=_META,
)
"""A trial of a sweep or a comparison: finished, stopped (early), failed, or untrained because
nothing was left of the cost that it may have.

budget is as in the settings, samples the number that it means. table is steps, epochs or tokens in
a comparison, else empty. variant is null for a method. own_* is the cost of selection and training;
rollouts, seconds and forward_tokens (forward-equivalent tokens) add the costs of warm start, proxy,
scoring and gradients that the trial uses. A sweep counts the rollouts and seconds of validations, a
comparison does not. Forward-equivalent tokens of validations are always apart. valid_ndcg@10 is
measured with the final adapter on the whole split, with a 95% interval over users (low, high); for
a stopped trial it is the last validation. best_valid is the best validation during training, on a
part of the split. *_value@10 are null unless items have weights.

Two groups of columns depend on the other trials. front_* (sweep): whether the setting, averaged
over its seeds, is on a Pareto front. reached_* (comparison): the total cost until a validation
first reached the goal, null if none did. The other command leaves them null.
"""
