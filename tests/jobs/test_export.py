"""What is exported is read by the libraries it is for, and by nothing of MiniRec."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F

from jobs.cli import main
from minirec.artifacts import Run, read_table
from minirec.corpus.table import load_catalogue, load_samples
from minirec.model.recommender import Encoder, item_table, load_policy
from minirec.rl.reward import history_mask, item_scores, rank_target, reward_function
from minirec.settings import load

pytestmark = [pytest.mark.ray, pytest.mark.slow]  # of the run that they read


@pytest.fixture(scope="module")
def exported(undisturbed, tmp_path_factory):
    """Folder of an export, by the word of --to."""
    made = {}

    def export(to):
        if to not in made:
            made[to] = tmp_path_factory.mktemp("export") / to
            words = ["export", "--run", str(undisturbed), "--to", to, "--out", str(made[to])]
            assert main(words) == 0
        return made[to]

    return export


def rows(folder):
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


def alone(folder, code, *, status=0):
    """Run code in the folder, in a Python that finds nothing of MiniRec.

    Returns what it prints, or its errors where another status is expected.
    """
    hidden = (
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.partition('.')[0] in ('minirec', 'actors', 'jobs'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hide())\nsys.path.insert(0, '.')\n"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-c", hidden + code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == status, result.stderr[-3000:]
    return result.stderr if status else result.stdout


def policy_of(run_dir, folder):
    run = Run(run_dir)
    config = load(run.path("config.yaml"))
    catalogue = load_catalogue(run.path("corpus"))
    encoder = Encoder.load(str(run.path("model")), config.model, category=catalogue.category)
    adapter = run.path(folder, "adapter")
    policy = load_policy(str(run.path("model")), config.model, encoder.tokenizer, adapter=adapter)
    both = zip(catalogue.titles, catalogue.texts, strict=True)
    return config, encoder, policy, item_table(policy, [encoder.item(*one) for one in both])


def expected_rewards(run_dir, samples, completions):
    """By the functions of the training itself."""
    config, encoder, policy, table = policy_of(run_dir, "proxy")
    titles = load_catalogue(run_dir / "corpus").titles
    sequences = [
        encoder.prompt([titles[i] for i in sample.history])
        + encoder.tokenizer.encode(text, add_special_tokens=False)
        + encoder.answer_ids
        for sample, text in zip(samples, completions, strict=True)
    ]
    with torch.no_grad():
        scores = item_scores(
            policy(sequences)[0], items=table, temperature=config.model.temperature
        )
    target = torch.tensor([sample.target for sample in samples])
    mask = history_mask([sample.history for sample in samples], target, items=len(table))
    ranking = rank_target(scores, target=target, mask=mask)
    return reward_function(config.reward)(ranking, config.reward.cutoff).tolist()


def test_the_subset_is_whole_and_in_training_order(undisturbed, exported):
    order = read_table(undisturbed / "selection.parquet").sort_by("rank")["sample_id"].to_pylist()
    titles = load_catalogue(undisturbed / "corpus").titles
    samples = {s.sample_id: s for s in load_samples(undisturbed / "corpus", "train")}
    found = rows(exported("jsonl"))
    assert [row["sample_id"] for row in found] == order
    for row in found:
        assert row["target"] == samples[row["sample_id"]].target
        assert row["target_title"] == titles[row["target"]]
        assert row["history"] == samples[row["sample_id"]].history


COMPLETIONS = [" red, blue ", " wood <answer> and more", "", " oak <answer>"]


def test_each_reward_is_that_of_the_training(undisturbed, exported):
    first = rows(exported("trl"))[:4]
    by_id = {s.sample_id: s for s in load_samples(undisturbed / "corpus", "train")}
    samples = [by_id[row["sample_id"]] for row in first]
    plain = [text.partition("<answer>")[0] for text in COMPLETIONS]
    expected = expected_rewards(undisturbed, samples, plain)
    columns = {name: [row[name] for row in first] for name in first[0]}
    calls = {
        "trl": f"reward(prompts=c.pop('prompt'), completions={COMPLETIONS!r}, "
        "completion_ids=[[]] * 4, trainer_state=None, **c)",
        "verl": "[compute_score(data_source='minirec', solution_str=s, ground_truth=t, "
        "extra_info={'prompt_text': p, 'history': h, 'num_turns': None}) for s, t, p, h in "
        f"zip({COMPLETIONS!r}, c['target'], c['prompt_text'], c['history'])]",
        "openrlhf": f"reward_func([p + s for p, s in zip(c['prompt_text'], {COMPLETIONS!r})], "
        "c['prompt_text'], [json.dumps({'target': t, 'history': h}) for t, h in "
        "zip(c['target'], c['history'])])['rewards'].tolist()",
    }
    for to, call in calls.items():
        code = f"import json\nfrom reward import *\nc = {columns!r}\nprint(json.dumps({call}))"
        assert json.loads(alone(exported(to), code)) == pytest.approx(expected, abs=1e-5)


def test_trl_takes_it(exported):
    """Loaded as TRL loads it; one step of its trainer calls the reward with these columns."""
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    folder = exported("trl")
    data = datasets.load_dataset("json", data_files=str(folder / "train.jsonl"), split="train")
    seen = []

    def reward(prompts, completions, prompt_text, history, target, **_):
        seen.append((prompt_text, history, target))
        return [float(len(c)) for c in completions]

    trainer = trl.GRPOTrainer(
        model=str(folder / "scorer"),
        reward_funcs=reward,
        train_dataset=data,
        args=trl.GRPOConfig(
            output_dir=str(folder.parent / "trained"),
            shuffle_dataset=False,
            per_device_train_batch_size=4,
            num_generations=2,
            max_completion_length=4,
            max_steps=1,
            use_cpu=True,
            report_to=[],
        ),
    )
    trainer.train()
    first = rows(folder)[:2]
    assert seen[0][2][::2] == [row["target"] for row in first]


def test_verl_takes_it(exported):
    table = pq.read_table(exported("verl") / "train.parquet")
    row = table.to_pylist()[0]
    assert row["prompt"][0]["role"] == "user" and row["prompt"][0]["content"]
    assert row["reward_model"].keys() == {"style", "ground_truth"}
    assert row["extra_info"]["index"] == 0
    assert {"data_source", "ability"} <= row.keys()


def test_openrlhf_takes_it(exported):
    for row in rows(exported("openrlhf")):
        assert isinstance(row["prompt"], str) and isinstance(row["label"], str)
        assert json.loads(row["label"]).keys() == {"target", "history"}


def best(run_dir, history, top):
    """Items and cosines after a greedy completion, by the functions of the evaluation."""
    config, encoder, policy, table = policy_of(run_dir, "policy")
    titles = load_catalogue(run_dir / "corpus").titles
    ids = encoder.prompt([titles[i] for i in history])
    written = []
    for _ in range(config.rollout.max_new_tokens):
        with torch.no_grad():
            logits = policy.lm(input_ids=torch.tensor([ids + written])).logits[0, -1]
        token = int(logits.argmax())
        if token == encoder.tokenizer.eos_token_id:
            break
        written.append(token)
        if encoder.tokenizer.decode(written).endswith("<answer>"):
            break
    stopped = encoder.tokenizer.decode(written).endswith("<answer>")
    with torch.no_grad():
        hidden = policy([ids + encoder.finish(written, stopped=stopped)])[0]
    cosines = (F.normalize(hidden, dim=-1) @ table.T)[0]
    cosines[torch.tensor(history)] = -torch.inf
    return cosines.topk(top)


def test_adapter_and_merged_rank_alike_in_plain_transformers(undisturbed, exported):
    sample = load_samples(undisturbed / "corpus", "test")[0]
    expected = best(undisturbed, sample.history, 10)
    code = (
        "import json\nfrom recommender import Recommender\n"
        f"print(json.dumps(Recommender('.').rank({sample.history}, top=10)))"
    )
    for to in ("adapter", "merged"):
        found = json.loads(alone(exported(to), code).splitlines()[-1])
        assert [item for item, _ in found] == expected.indices.tolist()
        np.testing.assert_allclose([c for _, c in found], expected.values, atol=1e-5)


@pytest.mark.parametrize("to", ["adapter", "merged"])
def test_the_code_of_the_model_card_runs(exported, to):
    card = (exported(to) / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(alone(exported(to), code).splitlines()) == 10
    assert "| test | ndcg@10 |" in card


def test_the_recommender_names_titles_that_are_near(exported):
    folder = exported("merged")
    title = json.loads((folder / "items.jsonl").read_text().splitlines()[0])["title"]

    def said(*titles):
        code = f"import recommender, sys; sys.argv[1:] = {list(titles)}; recommender.main()"
        return alone(folder, code, status=1).splitlines()[-1]

    assert said(title + "s").startswith(f"no item is titled {title + 's'!r}; near: {title!r}")
    assert said() == 'usage: python recommender.py "TITLE" ..., of items in the order of their use'


def test_a_slip_is_one_sentence(undisturbed, exported, tmp_path, capsys):
    words = ["export", "--to", "jsonl", "--out", str(exported("jsonl")), "--run"]
    assert main([*words, str(undisturbed)]) == 1
    assert "is there; give another --out, or --overwrite" in capsys.readouterr().err
    mine = tmp_path / "mine"
    mine.mkdir()
    for folder in (mine, undisturbed, undisturbed.parent):
        words[4] = str(folder)
        assert main([*words, str(undisturbed), "--overwrite"]) == 1
        assert "is no former export, so it is not replaced" in capsys.readouterr().err
    assert mine.is_dir() and (undisturbed / "selection.parquet").exists()
    assert main([*words[:-1], "--overwrite", "--run", str(tmp_path)]) == 1
    assert "is no run directory" in capsys.readouterr().err


def test_the_reward_file_imports_nothing_of_minirec():
    from minirec.export import reward

    assert not re.search(r"^(from|import) (minirec|actors|jobs)", inspect.getsource(reward), re.M)
