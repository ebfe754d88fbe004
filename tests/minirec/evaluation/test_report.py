"""The report of a synthetic run: complete, escaped, and without network access."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml
from helpers.report_run import (
    ATTACK,
    ITEMS,
    SAMPLES,
    config,
    make_run,
    screen_features,
)

from jobs.stages.report import REPORT
from jobs.stages.select import SELECT
from minirec.config.run import Config
from minirec.errors import ArtifactError, ConfigError
from minirec.evaluation import plots
from minirec.evaluation.report import render
from minirec.evaluation.samples import cause
from minirec.selection.from_run import load_features
from minirec.store.files import read_json, write_json
from minirec.store.tables import read_table


class Page(HTMLParser):
    """Tags, addresses and ids of a page."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("href", "src", "action", "xlink:href"):
                self.addresses.append(value)
            if name == "id":
                self.ids.append(value)


def test_select_writes_scores_and_an_ordered_selection(tmp_path):
    run = make_run(tmp_path / "run")
    said = []
    run.say = said.append
    assert SELECT.run(run, config(budget=0.1, groups=4), None)
    scores = read_table(run.path("scores.parquet")).to_pandas()
    chosen = read_table(run.path("selection.parquet")).to_pandas()
    assert scores["sample_id"].tolist() == list(range(0, 2 * SAMPLES, 2))
    assert scores["representativeness"][3] == 0
    assert chosen["rank"].tolist() == list(range(16))
    assert chosen["group"].tolist() == sum([[g] * 4 for g in range(4)], [])
    assert chosen["sample_id"].is_unique
    for _, group in chosen.groupby("group"):
        assert group["mean_reward"].is_monotonic_decreasing
    # The second half repeats the embeddings of the first: no pick repeats another.
    assert (chosen["sample_id"] // 2 % (SAMPLES // 2)).is_unique
    text = "\n".join(said)
    assert "dead" in text and "planted noise: 33.1% of the corpus" in text


def test_select_is_byte_identical(tmp_path):
    contents = []
    for name in ("a", "b"):
        run = make_run(tmp_path / name)
        SELECT.run(run, config(budget=20, learnability="gaussian_live", fusion="rank"), None)
        contents.append(run.path("selection.parquet").read_bytes())
    assert contents[0] == contents[1]


def test_select_drops_samples_below_the_least_reward(tmp_path):
    run = make_run(tmp_path / "run")
    SELECT.run(run, config(budget=10, min_lift=0.05, lift=True), None)
    chosen = read_table(run.path("selection.parquet"))["mean_reward"].to_numpy()
    chance = sum(1 / np.log2(rank + 1) for rank in range(1, ITEMS + 1)) / ITEMS
    rewards = read_table(run.path("scores.parquet"))["mean_reward"].to_numpy()
    assert chosen.min() >= chance + 0.05 * (1 - chance) > rewards.min()


def test_a_budget_above_the_samples_with_enough_lift_takes_the_next_best(tmp_path):
    said = []
    run = make_run(tmp_path / "run")
    run.say = said.append
    SELECT.run(run, config(budget=100, min_lift=0.4, lift=True), None)
    assert any("of 160 samples reach selection.min_lift 0.4; the rest of the " in s for s in said)
    features = load_features(run, Config().scoring)
    ndcg = features.mean_ndcg
    best = features.sample_id[np.argsort(-ndcg, kind="stable")[:100]]
    chosen = read_table(run.path("selection.parquet"))["sample_id"].to_pylist()
    assert sorted(chosen) == sorted(best.tolist())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": 161}, "budget 161 exceeds the 160 training samples"),
        ({"budget": 3}, "groups 4 exceeds the budget of 3 samples"),
    ],
)
def test_select_refuses_impossible_settings(tmp_path, settings, message):
    run = make_run(tmp_path / "run")
    with pytest.raises(ConfigError, match=message):
        SELECT.run(run, config(**settings), None)
    assert not run.path("selection.parquet").exists()


def test_select_refuses_missing_and_doubled_samples(tmp_path):
    run = make_run(tmp_path / "run")
    part = run.path("features", "part-00001.parquet")
    whole = part.read_bytes()
    part.unlink()
    with pytest.raises(ArtifactError, match="80 samples; expected 160 of the 160 in"):
        SELECT.run(run, config(), None)
    part.write_bytes(whole)
    run.path("features", "part-00002.parquet").write_bytes(whole)
    with pytest.raises(ArtifactError, match="sample 0 occurs twice"):
        SELECT.run(run, config(), None)


def test_report_is_complete_escaped_and_self_contained(tmp_path):
    run = make_run(tmp_path / "run")
    SELECT.run(run, config(budget=SAMPLES), None)
    assert REPORT.run(run, Config(), None)
    html = run.path("report.html").read_text()
    page = Page(html)
    # Two scripts: the samples as data without any tags, and the code of their table.
    assert ATTACK not in html and "&lt;script&gt;" in html and page.tags.count("script") == 2
    assert "likes &lt;b&gt;" in html
    assert not {"link", "img", "iframe"} & set(page.tags)
    assert all(address.startswith("#") for address in page.addresses)
    assert not re.search(r"https?://|@import|url\((?!#)", html)
    assert len(page.ids) == len(set(page.ids))
    assert page.tags.count("svg") == html.count('role="img"') >= 6
    for words in (
        "trained policy",
        "below the best reference, shortcut (chosen on valid), with 0.",
        "Of the references without training, shortcut, the best of them, reaches NDCG@10 0.462",
        "the policy after training, with the prior",
        "co-occurrence, transitions and titles with fitted weights",
        "reference: popularity",
        "reference: likeness of titles",
        "Planted truth",
        "Order of training",
        "50% of the train and 25% of the test samples share their time",
        "several titles, such as &lt;b&gt;",
    ):
        assert words in html
    assert not REPORT.run(run, Config(), None)


def test_the_first_sentence_of_the_report_is_about_the_best_reference(tmp_path):
    run = make_run(tmp_path / "run")
    SELECT.run(run, config(), None)
    html = render(run.root)
    body = html[html.index("</h1>") :]
    assert body[: body.index("</p>")].startswith(
        "</h1>\n<p><b>On test the trained policy has NDCG@10 "
    )
    names = ("trained policy alone", "prior alone", "before training", "reference: shortcut")
    places = [html.index(f"<td>{name}</td>") for name in ("trained policy", *names)]
    assert places == sorted(places)


def test_a_run_without_prior_or_test_split_has_a_report(tmp_path):
    run = make_run(tmp_path / "run")
    SELECT.run(run, config(), None)
    evaluation = read_json(run.path("evaluation.json"))
    for name in ("prior", "trained_alone"):
        del evaluation["policies"][name]
    write_json(run.path("evaluation.json"), evaluation)
    assert "the policy after training</td>" in render(run.root)
    for splits in evaluation["policies"].values():
        del splits["test"]
    evaluation["best_reference"]["paired"] = {}
    write_json(run.path("evaluation.json"), evaluation)
    assert "On test the trained policy" not in render(run.root)


def test_report_without_truth_and_logs(tmp_path):
    run = make_run(tmp_path / "run", truth=False)
    SELECT.run(run, config(), None)
    for name in ("proxy", "policy"):
        run.path(name, "log.jsonl").unlink()
    html = render(run.root)
    assert "Planted truth" not in html and "<h2>Learning</h2>" not in html
    for why in ("dead", "near-duplicate", "lower value"):
        assert f"<td>{why}</td>" in html


@pytest.mark.slow
def test_report_tells_which_side_waited(tmp_path):
    run = make_run(tmp_path / "run")
    SELECT.run(run, config(), None)
    assert "Waiting times" not in render(run.root)  # a log of an older version
    rows = [
        {"step": s, "seconds": 3.5, "rollout_seconds": 2, "wait_seconds": 0.25, "idle_seconds": 1}
        for s in range(4)
    ]
    rows[0]["kl_start"], rows[3]["kl_start"] = 0.0, 0.5  # of some steps only
    log = run.path("policy", "log.jsonl")
    log.write_text("\n".join(json.dumps(row) for row in rows))
    settings = Config().model_dump(mode="json")
    settings["training"]["staleness"] = 1
    run.path("config.yaml").write_text(yaml.safe_dump(settings))
    cells = ("train", 1, 14.0, 8.0, 13.0, 1.0, 4.0)
    page = render(run.root)
    assert "<tr>" + "".join(f"<td>{c}</td>" for c in cells) + "</tr>" in page
    assert re.search("KL to the start of the [a-z]+ by optimizer step", page)
    assert "step 3: 0.5000" in page


@pytest.mark.slow
def test_screened_samples_are_selected_by_their_screen_and_shown(tmp_path):
    run = make_run(tmp_path / "run")
    screen_features(run)
    SELECT.run(run, config(budget=16, min_lift=0.05, lift=True), None)
    scores = read_table(run.path("scores.parquet")).to_pandas()
    assert scores["mean_reward"][::4].tolist() == [0.1875] * 40
    rewards = {
        row["sample_id"]: row["rewards"]
        for part in run.path("features").glob("part-*.parquet")
        for row in read_table(part).to_pylist()
    }
    assert scores["mean_reward"][2] == pytest.approx(np.mean(rewards[4]))
    chosen = read_table(run.path("selection.parquet"))["sample_id"].to_numpy()
    assert (chosen // 2 % 4 != 0).all()
    html = render(run.root)
    assert "<td>screened</td><td>40</td><td>25.0%</td>" in html
    assert "0.188 (screen)" in html and "Not rolled out: an answer without analysis" in html
    # 40 x 4 + 40 x 2 + 40 x 4 sampled and 120 greedy ones, of 160 x 5.
    assert "Scoring made 520 rollouts; rolling out every sample in full takes 800" in html
    assert "40 samples (25.0% of the corpus)" in html
    means = np.array([np.mean(rewards[i]) / 0.95 for i in range(2, 2 * SAMPLES, 8)])
    chance = sum(1 / np.log2(rank + 1) for rank in range(1, ITEMS + 1)) / ITEMS
    lost = int((means >= chance + 0.05 * (1 - chance)).sum())
    assert 0 < lost < 40
    assert f"of 40 control samples, which were rolled out anyway,\n{lost} (" in html


@pytest.mark.slow
def test_the_report_of_full_scoring_has_no_savings(tmp_path):
    run = make_run(tmp_path / "run")
    SELECT.run(run, config(), None)
    assert "Cheaper scoring" not in render(run.root)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"kept": True}, "kept"),
        ({"screened": True, "lift": 0.04, "hits": 0}, "screened"),
        ({"lift": 0.04}, "below the least reward"),
        ({"hits": 0}, "dead"),
        ({"learnability": 0.1, "mean_reward": 0.9}, "too easy"),
        ({"learnability": 0.1, "mean_reward": 0.2}, "too hard"),
        ({"method": "random", "lift": 0.04}, "not picked"),
        ({"method": "random", "kept": True}, "kept"),
        ({"nearest": 0.01}, "near-duplicate"),
        ({"nearest": 0.01, "value": 0.5}, "lower value"),
        ({}, "lower value"),
    ],
)
def test_the_reason_fits_the_sample(changes, why):
    row = {"kept": False, "lift": 0.3, "hits": 3, "learnability": 0.8, "mean_reward": 0.5}
    row |= {"nearest": 0.4, "value": 1.2, "screened": False} | changes
    method = row.pop("method", "value")
    assert cause(row, method=method, min_lift=0.05, best=0.55, lowest_kept=1.0) == why


def test_report_names_the_missing_artifact(tmp_path):
    run = make_run(tmp_path / "run")
    with pytest.raises(ArtifactError, match=r"scores\.parquet is missing"):
        render(run.root)


def test_a_long_curve_has_few_tips_with_both_ends():
    steps = range(1, 5001)
    page = plots.draw(
        "long", "a curve", lambda ax: plots.curve(ax, steps, np.zeros(5000), title="t")
    )
    assert page.count(">step ") == plots.MOST_TIPS
    assert ">step 1:" in page and ">step 5000:" in page


def test_the_report_names_the_policy_that_scored(tmp_path):
    run = make_run(tmp_path / "run")
    SELECT.run(run, config(budget=SAMPLES), None)
    assert "The proxy policy answered every sample" in render(run.root)
    settings = yaml.safe_load(run.path("config.yaml").read_text())
    settings["scoring"]["policy"] = "warm"
    run.path("config.yaml").write_text(yaml.safe_dump(settings))
    run.path("proxy").rename(run.path("warm"))
    page = render(run.root)
    assert "The policy of the warm start answered every sample" in page
    assert "Warm start, on forced answers" in page
    assert "Proxy policy, on a small random subset" not in page


def test_the_report_shows_value_beside_ndcg_where_items_have_weights(tmp_path):
    run = make_run(tmp_path / "run")
    SELECT.run(run, config(), None)
    assert "value@10" not in render(run.root)
    evaluation = read_json(run.path("evaluation.json"))
    for splits in evaluation["policies"].values():
        for found in splits.values():
            found["value@10"] = {"mean": 0.7654, "low": 0.7, "high": 0.8}
    tests = {"difference": 0.0321, "low": 0.01, "high": 0.05, "versus": "popularity", "p": 0.5}
    by_policy = {"trained": {"test": tests | {"metric": "value@10"}}}
    best = {"name": "popularity", "chosen_on": "valid", "paired": by_policy}
    evaluation["value"] = {"paired": by_policy, "breakdown": {}, "best_reference": best}
    write_json(run.path("evaluation.json"), evaluation)
    settings = yaml.safe_load(run.path("config.yaml").read_text())
    settings["reward"]["item_weight"] = "<margin>"
    settings["corpus"] |= {"source": "amazon", "path": "data"}
    run.path("config.yaml").write_text(yaml.safe_dump(settings))
    html = render(run.root)
    first = html[html.index("</h1>") : html.index("</header>")]
    assert first.index("has value@10 0.765") < first.index("has NDCG@10")
    assert "Training changed the policy’s value@10 by <b>+0.0321</b>" in first
    assert "its &lt;margin&gt; (reward.item_weight)" in html and "<margin>" not in html
    value = html[html.index("value@10 of</th>") : html.index("NDCG@10 of</th>")]
    assert value.count("<tr>") == len(evaluation["policies"]) + 1  # the next head begins a row
    assert value.count("0.7654") == 2 * len(evaluation["policies"])
    assert value.count("+0.0321") == value.count("best on valid") == 1
    assert "value@10, test split" in html and "NDCG@10, test split" in html
