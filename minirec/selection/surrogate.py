"""The loss of a cheap recommender on the train samples, in place of a policy's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from minirec.corpus.table import Sample, SampleFile
from minirec.prior import fit
from minirec.prior.counts import rows_at_once
from minirec.prior.prior import Prior, combined
from minirec.selection.checks import Floats


def counts_losses(corpus: Path, sample_id: NDArray[np.int64], *, seed: int) -> Floats:
    """-log p of each target (N,) float64 under the counts of the collaborative prior.

    The weights are fitted on the newest train samples. A sample is scored by the counts of earlier
    events only, so that no count holds its own target. The softmax is over the catalogue without
    the excluded items.

    Args:
        corpus: the folder of a prepared corpus.
        sample_id: (N,) ascending ids of train samples.
    """
    file, prior = SampleFile(corpus, "train"), Prior.of(corpus)
    weights, _ = fit.fit(fit.choices(prior, fit.newest(file), items=prior.items, seed=seed))
    samples = file.find(sample_id.tolist())
    samples.sort(key=lambda sample: sample.sample_id)
    size = rows_at_once(prior.items)
    starts = range(0, len(samples), size)
    return np.concatenate([_losses(prior, samples[i : i + size], weights) for i in starts])


def _losses(prior: Prior, samples: list[Sample], weights: Floats) -> Floats:
    scores = combined(prior.sparse_parts(samples), weights).toarray().astype(np.float64)
    own = scores[np.arange(len(samples)), [sample.target for sample in samples]]
    for row, sample in enumerate(samples):
        scores[row, [item for item in sample.excluded if item != sample.target]] = -np.inf
    top = scores.max(1)
    return np.log(np.exp(scores - top[:, None]).sum(1)) + top - own
