"""The item table that the workers of a training encode together."""

from __future__ import annotations

from multiprocessing import get_context

import pytest
import torch
import torch.distributed as dist
from helpers.tiny_model import build_model

from actors.training.items import shared_table
from minirec.config.model import ModelConfig
from minirec.model.passes import item_blocks, item_table
from minirec.model.recommender import Encoder, Policy, load_policy

LENGTHS = [3 + number * 7 % 40 for number in range(211)]
ITEMS = [[5 + number % 90] * length for number, length in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build_model(tmp_path_factory.mktemp("model") / "model")


def policy(model: str) -> Policy:
    torch.set_num_threads(1)
    config = ModelConfig()
    return load_policy(model, config, Encoder.load(model, config, category="x").tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize("items", [ITEMS, ITEMS[:5]])
def test_two_workers_encode_the_bytes_of_one(model, tmp_path, items):
    """Five items are one block: the second worker has none, and encodes the first one again."""
    cpu = torch.device("cpu")
    assert len(item_blocks(ITEMS, cpu)) == 8 and len(item_blocks(ITEMS[:5], cpu)) == 1
    alone = item_table(policy(model), items)
    context = get_context("spawn")
    workers = [context.Process(target=work, args=(rank, model, tmp_path, items)) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(240)
        assert worker.exitcode == 0
    for rank in (0, 1):
        assert torch.equal(torch.load(tmp_path / f"{rank}.pt"), alone)


def work(rank, model, folder, items):
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    loaded = policy(model)
    passes = []
    loaded.register_forward_hook(lambda *_: passes.append(1))
    torch.save(shared_table(loaded, items), folder / f"{rank}.pt")
    # Under ZeRO 3 each pass needs all workers, so all have as many.
    assert len(passes) == (4 if len(items) > 5 else 1)
