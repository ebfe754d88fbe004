"""What is handed over of a policy with a prior ranks as its run does."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers.alone import alone

from actors.serving.recommender import Recommender
from jobs.cli import main
from jobs.handover.recommend import REFRESHED, finished_run, recommender_spec
from minirec.corpus.table import load_catalogue, load_samples
from minirec.errors import ArtifactError
from minirec.model.recommender import Encoder, load_policy
from minirec.prior.prior import Prior
from minirec.prior.serving import load
from minirec.rl.ranker import Ranker
from minirec.rl.reward import reward_function
from minirec.store.tables import read_table

pytestmark = pytest.mark.slow


def recommender_of(run_dir, **options):
    run, config = finished_run(str(run_dir))
    return Recommender(recommender_spec(run, config, threads=1, gpus=0, **options))


@pytest.fixture(scope="module")
def recommender(with_prior):
    return recommender_of(with_prior, analysis=True)


@pytest.fixture
def copy(with_prior, tmp_path):
    """A run directory that a test may change."""
    shutil.copytree(with_prior, tmp_path / "run")
    return tmp_path / "run"


def test_ranks_are_those_of_the_evaluation(with_prior, recommender):
    ranks = read_table(with_prior / "ranks.parquet").to_pydict()
    rank = dict(zip(ranks["sample_id"], ranks["rank"], strict=True))
    samples = [s for s in load_samples(with_prior / "corpus", "test") if s.target not in s.history]
    everything = [len(recommender.titles)] * len(samples)
    found = recommender.recommend([s.history for s in samples], top=everything)
    assert len(samples) > 20
    for sample, one in zip(samples, found, strict=True):
        others = {*sample.same_time} - {sample.target}
        scores = [s for i, s in zip(one.items, one.scores, strict=True) if i not in others]
        own = one.scores[one.items.index(sample.target)]
        # Scores are shown with four decimals, and ties count against the target.
        above, not_below = sum(s > own + 1e-4 for s in scores), sum(s >= own - 1e-4 for s in scores)
        assert above < rank[sample.sample_id] <= not_below


RECOMMEND = """
import json, sys
import recommender
print(json.dumps(recommender.Recommender('.').rank(json.loads(sys.argv[1]), top=10)))
"""


@pytest.mark.parametrize("to", ["adapter", "merged"])
def test_an_exported_policy_ranks_as_the_run(with_prior, recommender, tmp_path, to):
    folder = tmp_path / to
    words = ["export", "--run", str(with_prior), "--to", to, "--out", str(folder)]
    assert main(words) == 0
    history = load_samples(with_prior / "corpus", "test")[0].history
    (expected,) = recommender.recommend([history], top=[10])
    items, scores = zip(*json.loads(alone(folder, RECOMMEND, json.dumps(history))), strict=True)
    assert list(items) == expected.items
    np.testing.assert_allclose(scores, expected.scores, atol=1e-3)
    card = (folder / "README.md").read_text()
    assert "cosine / 0.02 + 4.00 * co-occurrence + 3.00 * transitions" in card
    assert "for item, score in recommender.rank" in card


REWARDS = """
import importlib.util, json, sys
found = {}
for to, folder in json.loads(sys.argv[1]).items():
    spec = importlib.util.spec_from_file_location(to, folder + "/reward.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found[to] = module
rows = json.loads(sys.argv[2])
columns = {name: [row[name] for row in rows["trl"]] for name in rows["trl"][0]}
said = ["" for _ in rows["trl"]]
prompts = [row["prompt"] for row in rows["openrlhf"]]
print(json.dumps({
    "trl": found["trl"].reward(columns.pop("prompt"), said, **columns),
    "verl": [
        found["verl"].compute_score("minirec", "", row["reward_model"]["ground_truth"],
                                    row["extra_info"])
        for row in rows["verl"]
    ],
    "openrlhf": found["openrlhf"].reward_func(
        prompts, prompts, [row["label"] for row in rows["openrlhf"]]
    )["rewards"].tolist(),
}))
"""


def test_each_exported_reward_has_the_prior_of_its_sample(with_prior, tmp_path):
    """At the forced answer; the expected rewards are those of the training's functions."""
    run, config = finished_run(str(with_prior))
    rows = {}
    for to in ("trl", "verl", "openrlhf"):
        words = ["export", "--run", str(with_prior), "--to", to, "--out", str(tmp_path / to)]
        assert main(words) == 0
        file = tmp_path / to / "train.parquet"
        lines = (tmp_path / to / "train.jsonl").read_text().splitlines() if to != "verl" else []
        rows[to] = pq.read_table(file).to_pylist() if to == "verl" else [*map(json.loads, lines)]
    folders = {to: str(tmp_path / to) for to in rows}
    words = [json.dumps(folders), json.dumps(rows)]
    found = json.loads(alone(tmp_path / "trl", REWARDS, *words))
    corpus = run.path("corpus")
    by_id = {s.sample_id: s for s in load_samples(corpus, "train")}
    samples = [by_id[row["sample_id"]] for row in rows["trl"]]
    catalogue = load_catalogue(corpus)
    encoder = Encoder.load(str(run.path("model")), config.model, category=catalogue.category)
    policy = load_policy(
        str(run.path("model")),
        config.model,
        encoder.tokenizer,
        adapter=str(run.path("proxy", "adapter")),
    )
    table = torch.from_numpy(np.load(tmp_path / "trl" / "items.npy"))
    prior = Prior.load(corpus, run.path("proxy", "adapter"))
    ranker = Ranker(table, config.model.temperature / prior.scale, prior)
    prompts = encoder.prompts(samples, catalogue)
    with torch.no_grad():
        hidden = policy([prompt + encoder.answer_ids for prompt in prompts])[0]
    reward = reward_function(config.reward.name, softmax_weight=config.reward.softmax_weight)
    targets = ranker.targets(samples)
    expected = reward(ranker.rank(hidden, targets), config.reward.cutoff).tolist()
    for to in rows:
        assert found[to] == pytest.approx(expected, abs=1e-5), to
    # The oldest of the samples has no earlier period, so only titles count.
    stored = np.load(tmp_path / "trl" / "prior.npz")
    assert stored["sample_id"].tolist() == [s.sample_id for s in samples]
    assert stored["ends"][-1] == int((targets.prior.value > 0).sum())


def keys_of(run_dir):
    return read_table(run_dir / "corpus" / "items.parquet")["key"].to_pylist()


def write_events(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("user", "item", "time"), *rows])
    return str(path)


def test_refreshed_counts_change_the_recommendations(copy, tmp_path, capsys):
    """Many new users take item 7 directly after item 5."""
    keys, history = keys_of(copy), [5]
    before = recommender_of(copy, analysis=False).recommend([history], top=[60])[0]
    rows = [
        (f"new{i}", keys[item], f"2030-01-0{day}")
        for i in range(99)
        for day, item in ((1, 5), (2, 7))
    ]
    more = [("x", "nothing", "2030-01-01"), ("x", keys[1], "soon")]
    file = write_events(tmp_path / "new.csv", [*rows, *more, rows[0]])
    assert main(["refresh", "--run", str(copy), "--events", file]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "198 new events of 99 users (99 of them new) are counted" in said
    assert "1 of 200 events are left out, because their 1 items are not in the catalogue" in said
    assert "1 rows cannot be read and are left out; the first is" in said and "bad date" in said
    assert "1 events were already counted" in said
    after = recommender_of(copy, analysis=False).recommend([history], top=[60])[0]
    score = [dict(zip(one.items, one.scores, strict=True))[7] for one in (before, after)]
    assert score[1] > score[0] + 1
    served = load(copy / "corpus", str(copy / REFRESHED))
    cooccurrence, transitions, _ = served.counts.parts([history])[:, 0]
    # Item 5 itself has the highest co-occurrence, and excluded items count in the maximum.
    assert cooccurrence[7] == sorted(cooccurrence)[-2] and transitions[7] == 1
    folder = tmp_path / "merged"
    assert main(["export", "--run", str(copy), "--to", "merged", "--out", str(folder)]) == 0
    assert json.loads(alone(folder, RECOMMEND, "[5]"))[0][0] is not None
    assert "up to a refresh after training" in (folder / "README.md").read_text()
    # The prior of training samples stays that of their own time.
    assert main(["export", "--run", str(copy), "--to", "trl", "--out", str(tmp_path / "t")]) == 0
    samples = {s.sample_id: s for s in load_samples(copy / "corpus", "train")}
    stored = np.load(tmp_path / "t" / "prior.npz")
    first = samples[int(stored["sample_id"][0])]
    own = Prior.load(copy / "corpus", copy / "prior")([first]).toarray()[0]
    assert np.array_equal(stored["values"][: stored["ends"][0]], own[own > 0])


def test_a_refresh_of_another_corpus_is_refused(copy, capsys):
    assert main(["refresh", "--run", str(copy)]) == 0
    run, config = finished_run(str(copy))
    recommender_spec(run, config, analysis=False, threads=1, gpus=0)
    file = copy / REFRESHED / "prior.json"
    facts = json.loads(file.read_text())
    facts["facts"]["inputs"] = {"prepare": "x", "prior": "y"}
    file.write_text(json.dumps(facts))
    with pytest.raises(ArtifactError, match="run `minirec refresh --run"):
        recommender_spec(run, config, analysis=False, threads=1, gpus=0)


def test_bad_events_write_nothing(copy, tmp_path, capsys):
    bad = write_events(tmp_path / "bad.csv", [("u", "item00001", "soon")])
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("who,what\n1,2\n")
    for file, said in (
        (bad, "none of 1 rows of"),
        (str(wrong), "has no column 'user'"),
        (str(tmp_path / "gone.csv"), "is missing; give a file"),
    ):
        assert main(["refresh", "--run", str(copy), "--events", file]) == 1
        assert said in capsys.readouterr().err
    assert not (copy / REFRESHED).exists()
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace("prior: shortcut", "prior: none"))
    assert main(["refresh", "--run", str(copy)]) == 2
    assert "has no collaborative prior (model.prior=none)" in capsys.readouterr().err


def test_the_command_shows_cosine_and_score(with_prior, recommender, capsys):
    key = keys_of(with_prior)[5]
    assert main(["recommend", "--run", str(with_prior), "--history", key, "--top", "3"]) == 0
    said = capsys.readouterr().out
    (expected,) = recommender.recommend([[5]], top=[3])
    assert "cosine" in said and "score" in said
    assert all(f"{score:.4f}" in said for score in expected.scores + expected.cosines)
