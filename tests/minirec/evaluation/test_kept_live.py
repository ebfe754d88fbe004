"""The report of a run with live selection: what was trained, when and why."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
from helpers.live_run import NAN, choices, make_live_run
from helpers.report_run import ATTACK, SAMPLES, write_features

from jobs.stages.report import REPORT
from minirec.config.reading import load
from minirec.evaluation.kept_live import part_of, planted, reasons, sections
from minirec.evaluation.live_samples import WORDS, cause
from minirec.evaluation.report import _config, render
from minirec.selection.live_record import REASONS

FOUR = choices(
    (0, "unknown", 2, NAN, 0.1),
    (0, "nearest", 4, 0.01, 0.0),
    (1, "in band", 2, 0.2, 0.3),
    (1, "unknown", 6, NAN, 0.4),
).to_pandas()


def found(run):
    return sections(run.root, _config(run.path("config.yaml")))


def words(html):
    """The text of a page, without tags."""
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


@pytest.mark.parametrize(
    ("steps", "parts"),
    [(1, [0]), (2, [0, 2]), (4, [0, 1, 2, 3]), (6, [0, 0, 1, 2, 2, 3])],
)
def test_quarters_of_a_training(steps, parts):
    assert part_of(pd.Series(range(steps))).tolist() == parts


def test_reasons_are_counted_over_the_training():
    rows = {row.pop("name"): row for row in reasons(FOUR)}
    assert [*rows] == ["in band", "unknown", "nearest"]  # value does not occur
    assert {name: row["count"] for name, row in rows.items()} == {
        "in band": 1,
        "unknown": 2,
        "nearest": 1,
    }
    assert rows["unknown"]["share"] == 0.5
    assert {name: row["parts"] for name, row in rows.items()} == {
        "in band": [0, 0.5],
        "unknown": [0.5, 0.5],
        "nearest": [0.5, 0],
    }


def test_planted_labels_are_weighted_by_prompts():
    labels = {2: "learnable", 4: "noise", 6: "learnable"}
    learnable, noise, rest = planted(FOUR, labels, pd.Index([2, 4, 6, 8]))
    assert learnable == {
        "label": "learnable",
        "count": 2,
        "corpus": 0.5,
        "prompts": 0.75,
        "parts": [0.5, 1],
    }
    assert noise["prompts"] == 0.25 and noise["parts"] == [0.5, 0]
    assert rest["label"] == "unlabelled" and rest["prompts"] == 0
    assert planted(FOUR, {}, pd.Index([2])) == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"times": 2}, "trained repeatedly"),
        ({"times": 1, "lift": 0.001}, "trained once"),
        ({"lift": 0.01}, "hopeless"),
        ({"rollout_lift": 0.01, "lift": 0.3}, "hopeless"),
        ({"lift": 0.99}, "solved"),
        ({"lift": 0.5}, "not needed"),
        ({"reached": True}, "not measured"),
        ({}, "not reached"),
    ],
)
def test_the_cause_fits_the_sample(changes, why):
    row = {"times": 0, "lift": NAN, "rollout_lift": NAN, "reached": False} | changes
    assert cause(pd.Series(row), band=(0.02, 0.98)) == why


def test_every_sample_is_listed_with_its_trainings(tmp_path):
    listed = {row["id"]: row for row in found(make_live_run(tmp_path / "run"))["listed"]}
    assert len(listed) == SAMPLES
    assert listed[0]["times"] == 8 and listed[0]["order"] == 1 and listed[0]["step"] == 1
    assert listed[10]["order"] == 5 and listed[10]["step"] == 2 and listed[10]["reward"] == 0.1
    assert listed[12]["why"] == "trained once"
    assert listed[12]["reason"] == (
        "Step 2: none of its lifts was known yet; its rollouts then had a mean lift of 0.100."
    )
    assert listed[0]["reason"].endswith("And in 5 more steps.")
    assert "Step 2: all its known lifts were in the band (0.250 right" in listed[0]["reason"]
    never = {i: listed[i]["why"] for i in (140, 142, 144, 146, 148)}
    assert [*never.values()] == ["hopeless", "solved", "not needed", "not measured", "not reached"]
    assert "0.001" in listed[140]["reason"] and listed[148]["order"] is None


def test_examples_and_causes_cover_the_corpus(tmp_path):
    shown = found(make_live_run(tmp_path / "run"))["examples"]
    assert [one["sample_id"] for one in shown["often"]] == [0]
    assert [one["sample_id"] for one in shown["once"]] == [2, 34, 62]
    assert [one["sample_id"] for one in shown["never"]] == [8, 140, 142, 146, 144]
    counts = {row["name"]: row["count"] for row in shown["causes"]}
    assert sum(counts.values()) == SAMPLES
    assert counts["trained repeatedly"] == 1 and counts["trained once"] == 24


def test_the_report_is_complete_escaped_and_self_contained(tmp_path):
    run = make_live_run(tmp_path / "run")
    config = load(run.path("config.yaml"))
    assert REPORT.run(run, config, None)
    html = run.path("report.html").read_text()
    text = words(html)
    assert ATTACK not in html and "&lt;script&gt;" in html
    assert not re.search(r"https?://|@import|url\((?!#)", html)
    for said in (
        "What MiniRec trained, and the result",
        "25 (15.6%) were trained, chosen in each step for the policy of that moment",
        "in band all its known lifts were in the band 15 46.9%",
        "Lift right after the prompt",
        "Planted truth",
        "Trained repeatedly",
        "Never trained",
        "steps 7–8",
    ):
        assert said in text, said
    assert "Cheaper scoring" not in html and "Proxy policy" not in html
    heads = re.findall(r'<button data-key="(\w+)"', html)
    (data,) = re.findall(r'id="samples">(.*?)</script>', html, re.DOTALL)
    assert len(heads) == 9 and {*heads} <= {*json.loads(data)[0]}


def test_a_part_without_data_is_absent(tmp_path):
    run = make_live_run(tmp_path / "run", "training.loss=supervised", truth=False, rollouts=False)
    text = words(render(run.root))
    assert "Planted truth" not in text and "Lift of the rollouts" not in text
    assert "Lift right after the prompt" in text
    assert "had 32 prompts of 25 samples; an epoch of all 160 samples has 160 prompts." in text


def test_the_features_of_a_scoring_pass_change_no_section(tmp_path):
    run = make_live_run(tmp_path / "run", "live.scores=true")
    before = render(run.root)
    write_features(run, np.arange(SAMPLES) * 2, np.random.default_rng(0))
    assert render(run.root) == before and "What was trained, when and why" in before


def test_the_quarters_of_reasons_are_shares(tmp_path):
    rows = found(make_live_run(tmp_path / "run"))["reasons"]
    assert np.sum([row["parts"] for row in rows], axis=0) == pytest.approx([1, 1, 1, 1])
    assert sum(row["count"] for row in rows) == 32


def test_every_reason_has_words():
    assert WORDS.keys() == set(REASONS)
