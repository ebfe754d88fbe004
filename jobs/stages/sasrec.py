"""`minirec sasrec`: train SASRec, a reference without LLM, and rank valid and test with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jobs.stage import Stage, Work

if TYPE_CHECKING:
    from minirec.config.evaluation import SasrecConfig
    from minirec.config.run import Config

RANKS = "ranks.parquet"
"""The ranks of valid and test, below `sasrec/`."""
SPLITS = ("valid", "test")


def sasrec_inputs(config: Config) -> list[str]:
    """The stage `sasrec`, if these settings have it."""
    return ["sasrec"] if config.sasrec.epochs else []


def _body(work: Work) -> None:
    """Write sasrec/: the model of the best epoch, its ranks, and NDCG@10 on valid by epoch."""
    from jobs.cluster.task import in_task

    run, session, settings = work.run, work.session, work.config.sasrec
    session.start_ray()
    session.wait_for_room([{"CPU": 1}])
    arguments = (run.path("corpus"), run.path("sasrec"), settings, work.config.seed)
    work.cost.optimizer_steps, valid, peak = in_task("sasrec", _train, *arguments)
    work.cost.extra = {"task_peak_memory_mib": peak}
    best = max(valid)
    run.say(
        f"sasrec: NDCG@10 on valid {best:.4f} after epoch {valid.index(best) + 1} of {len(valid)}"
    )


def _train(
    corpus: Path, folder: Path, settings: SasrecConfig, seed: int
) -> tuple[int, list[float], float]:
    """The optimizer steps, NDCG@10 on valid after each epoch, and the peak memory in MiB."""
    import pyarrow as pa
    import torch

    from minirec.corpus import schema
    from minirec.corpus.table import load_catalogue, load_samples
    from minirec.evaluation import sasrec
    from minirec.store.files import atomic_dir, write_json
    from minirec.store.run import peak_memory_mib
    from minirec.store.tables import write_table

    torch.set_num_threads(1)  # with another number of threads the weights differ
    samples = {split: load_samples(corpus, split) for split in ("train", *SPLITS)}
    trained = sasrec.train(
        samples["train"],
        samples["valid"],
        items=len(load_catalogue(corpus)),
        settings=settings,
        seed=seed,
    )
    tables = []
    for split in SPLITS:
        columns = {
            "policy": ["sasrec"] * len(samples[split]),
            "split": [split] * len(samples[split]),
            "sample_id": [sample.sample_id for sample in samples[split]],
            "rank": sasrec.ranks(trained.model, samples[split]),
        }
        tables.append(pa.table(columns, schema=schema.RANKS))
    with atomic_dir(folder) as work:
        write_table(work / RANKS, pa.concat_tables(tables))
        write_json(work / "epochs.json", {"valid_ndcg@10": trained.valid, "steps": trained.steps})
        with (work / "model.npz").open("wb") as file:
            sasrec.save(trained.model, file)
    return trained.steps, trained.valid, peak_memory_mib()


SASREC = Stage(
    name="sasrec",
    help="train SASRec, a reference without LLM; `evaluate` does so too",
    inputs=lambda config: ["prepare"],
    outputs=("sasrec",),
    settings=lambda run, config: {"seed": config.seed, "sasrec": config.sasrec.model_dump()},
    body=_body,
    needed=lambda config: config.sasrec.epochs > 0,
    comes_with=("evaluate",),
)
