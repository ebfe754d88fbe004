"""`minirec prior`: fit the weights of the collaborative prior (method, section 11)."""

from __future__ import annotations

from jobs.fingerprint import weight_settings
from jobs.stage import Stage, Work


def _body(work: Work) -> None:
    from minirec.corpus.table import SampleFile, load_catalogue
    from minirec.corpus.weights import load_factors
    from minirec.prior import fit
    from minirec.prior.counts import PARTS
    from minirec.prior.prior import Prior, save_weights
    from minirec.store.files import atomic_dir

    run, corpus = work.run, work.run.path("corpus")
    samples = fit.newest(SampleFile(corpus, "train"))
    prior = Prior.of(corpus)
    items = len(load_catalogue(corpus))
    factors = load_factors(corpus, work.config.reward.item_weight)
    seen = fit.choices(prior, samples, items=items, seed=work.config.seed, factors=factors)
    weights, likelihood = fit.fit(seen)
    with atomic_dir(run.path("prior")) as folder:
        facts = {"samples": len(samples), "log_likelihood": likelihood}
        save_weights(folder, weights, facts=facts)
    named = ", ".join(f"{part} {w:.2f}" for part, w in zip(PARTS, weights, strict=True))
    run.say(f"prior: weights {named}, fitted on the newest {len(samples):,} training samples")


PRIOR = Stage(
    name="prior",
    help="fit the weights of the collaborative prior",
    inputs=lambda config: ["prepare"],
    outputs=("prior",),
    settings=lambda run, config: {
        "seed": config.seed,
        "prior": config.model.prior,
        **weight_settings(config),
    },
    body=_body,
    needed=lambda config: config.model.prior != "none",
    comes_with=("warm", "proxy", "score", "gradients", "train", "evaluate"),
    shared=True,
)
