"""The recipes for real models, and what `plan` estimates for them."""

from pathlib import Path
from typing import get_args

import pytest

from jobs import cli, plan_costs
from jobs.plan import plan
from jobs.plan_costs import Corpus, Processes, cost_rows
from minirec.config.reading import PRESETS, _read_yaml, load
from minirec.config.resources import ResourcesConfig
from minirec.resources.estimates import GPUS
from minirec.store.files import write_json

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = {"qwen2.5-0.5b": "L4", "qwen2.5-3b": "A100-80", "gemma-2-2b": "A100-80"}
CDS = Corpus(train=10_748, items=12_024)  # the paper's CDs_and_Vinyl


def rows(name, *overrides, gpu=None, use=None):
    config = load(CONFIGS / f"{name}.yaml", list(overrides))
    found = cost_rows(config, use or plan_costs.processes(config), CDS, gpu or RECIPES[name])
    return [(f"{stage} {what}", value) for stage, what, value in found]


def test_the_setting_knows_the_gpus_of_the_table():
    kind = ResourcesConfig.model_fields["gpu"].annotation
    assert set(get_args(get_args(kind)[0])) == set(GPUS)


@pytest.mark.parametrize("category", ["CDs_and_Vinyl", "Musical_Instruments", "Video_Games"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_loads_and_is_planned(name, category, tmp_path):
    words = [f"run_dir={tmp_path}", f"corpus.category={category}"]
    config = load(CONFIGS / f"{name}.yaml", words)
    assert config.corpus.category == category and config.corpus.download == "5core"
    assert (config.corpus.start, config.corpus.end) == ("2022-10-01", "2023-10-01")
    write_json(tmp_path / "corpus" / "corpus.json", {"samples": {"train": 10_748}, "items": 12_024})
    planned = {(stage, what): value for stage, what, value in plan(config)}
    # 1,024 samples for 10 epochs in steps of 12 prompts; 256 of the proxy.
    assert planned["train", "optimizer steps"].startswith("854 of 12")
    assert planned["proxy", "optimizer steps"].startswith("214 of 12")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_fits_the_gpu_that_it_names(name):
    found = dict(rows(name))
    assert not [what for what in found if what.startswith("warning")], found
    for stage in ("proxy", "score", "train"):
        assert 0.1 < float(found[f"estimate {stage}, hours"].split()[1].rstrip(":")) < 24


def test_what_does_not_fit_is_said_with_both_numbers():
    found = rows("qwen2.5-3b", gpu="L4")
    texts = [text for what, text in found if what == "warning memory"]
    assert any("a training worker needs" in text and "the L4 has 22.5" in text for text in texts)
    assert any("rollout.gpu_memory_utilization leaves it 19.1" in text for text in texts)
    more = rows("qwen2.5-0.5b", "training.prompts_per_micro_batch=3")
    texts = [text for what, text in more if what == "warning memory"]
    assert (
        len(texts) == 1 and "beside an engine; lower training.prompts_per_micro_batch" in texts[0]
    )


def test_more_engines_and_workers_take_less_time():
    def hours(use):
        found = dict(rows("qwen2.5-3b", use=use))
        return float(found["estimate train, hours"].split()[1].rstrip(":"))

    one, more = Processes(1, 1, 1, 1, 1, 1, 0), Processes(2, 1, 1, 1, 3, 1, 0)
    assert hours(more) < hours(one)


def test_without_a_gpu_or_with_the_demo_model_nothing_is_added():
    assert plan_costs.estimated(load()) == []
    assert rows("qwen2.5-3b", gpu="L4", use=Processes(1, 0, 1, 0, 1, 0, 0)) == []


def test_an_unknown_gpu_leaves_time_out(monkeypatch):
    monkeypatch.setattr(plan_costs, "installed_gpu", lambda: None)
    config = load(CONFIGS / "qwen2.5-3b.yaml")
    found = {
        what: value
        for _, what, value in cost_rows(config, plan_costs.processes(config), None, None)
    }
    assert found["model"] == "3.09B parameters"
    assert found["time"].startswith("not known: set resources.gpu")
    assert "training worker, memory" in found


def test_the_plan_prints_estimates(capsys, tmp_path):
    words = ["plan", "--config", str(CONFIGS / "qwen2.5-3b.yaml"), f"run_dir={tmp_path}"]
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert "3.09B parameters" in printed and "training worker, memory" in printed


def test_paper_amazon_selects_as_paper_does():
    paper, amazon = (_read_yaml(PRESETS / f"{name}.yaml") for name in ("paper", "paper-amazon"))
    assert paper["selection"].items() <= amazon["selection"].items()
    assert paper["proxy"].items() <= amazon["proxy"].items()
