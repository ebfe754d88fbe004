"""Exports work in the libraries that they are for, without MiniRec."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from helpers.alone import alone

from jobs.cli import main
from minirec.config.reading import dump, load
from minirec.corpus.following import with_following
from minirec.corpus.table import load_catalogue, load_samples
from minirec.model.passes import item_table
from minirec.model.recommender import Encoder, load_policy
from minirec.rl.horizon import graded
from minirec.rl.ranker import Ranker
from minirec.rl.reward import excluded_mask, item_scores, rank_target, reward_function
from minirec.store.run import Run
from minirec.store.tables import read_table

pytestmark = [pytest.mark.ray, pytest.mark.slow]  # because of the run that they read


@pytest.fixture(scope="module")
def exported(undisturbed, tmp_path_factory):
    """A function from the value of --to to the folder of the export."""
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
    """The rewards of the training's own functions."""
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
    mask = excluded_mask([sample.excluded for sample in samples], target, items=len(table))
    ranking = rank_target(scores, target=target, mask=mask)
    reward = reward_function(config.reward.name, softmax_weight=config.reward.softmax_weight)
    return reward(ranking, config.reward.cutoff).tolist()


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
        assert row["excluded"] == samples[row["sample_id"]].excluded


COMPLETIONS = [" red, blue ", " wood <answer> and more", "", " oak <answer>"]


REWARDS = """
import importlib.util, json, sys
found = {}
for to, folder in json.loads(sys.argv[1]).items():
    spec = importlib.util.spec_from_file_location(to, folder + "/reward.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found[to] = module
said, (trl, verl, openrlhf) = sys.argv[2:6], (json.loads(text) for text in sys.argv[6:])
columns = {name: [row[name] for row in trl] for name in trl[0]}
print(json.dumps({
    "trl": found["trl"].reward(
        prompts=columns.pop("prompt"),
        completions=said,
        completion_ids=[[]] * 4,
        trainer_state=None,
        **columns,
    ),
    "verl": [
        found["verl"].compute_score(
            data_source=row["data_source"],
            solution_str=text,
            ground_truth=row["reward_model"]["ground_truth"],
            extra_info=row["extra_info"] | {"num_turns": None},
        )
        for row, text in zip(verl, said)
    ],
    "openrlhf": found["openrlhf"].reward_func(
        [row["prompt"] + text for row, text in zip(openrlhf, said)],
        [row["prompt"] for row in openrlhf],
        [row["label"] for row in openrlhf],
    )["rewards"].tolist(),
}))
"""


def test_each_reward_is_that_of_the_training(undisturbed, exported):
    """Called as each trainer calls it, with the exported rows."""
    first = {to: rows(exported(to))[:4] for to in ("trl", "openrlhf")}
    first["verl"] = pq.read_table(exported("verl") / "train.parquet").to_pylist()[:4]
    (message,) = first["verl"][0]["prompt"]
    assert message["role"] == "user" and message["content"]
    assert first["verl"][0]["reward_model"]["style"] and "ability" in first["verl"][0]
    assert [row["extra_info"]["index"] for row in first["verl"]] == [0, 1, 2, 3]
    by_id = {s.sample_id: s for s in load_samples(undisturbed / "corpus", "train")}
    samples = [by_id[row["sample_id"]] for row in first["trl"]]
    plain = [text.partition("<answer>")[0] for text in COMPLETIONS]
    expected = expected_rewards(undisturbed, samples, plain)
    folders = {to: str(exported(to)) for to in first}
    for folder in folders.values():  # as an older export may have left them in a copy
        for name in ("prior.npz", "factors.npy", "own_reward.py"):
            (Path(folder) / name).write_text("not of this export")
    given = [json.dumps(first[to]) for to in ("trl", "verl", "openrlhf")]
    words = [json.dumps(folders), *COMPLETIONS, *given]
    found = json.loads(alone(exported("trl"), REWARDS, *words))
    for to in first:
        assert found[to] == pytest.approx(expected, abs=1e-5), to
    for folder in folders.values():
        for name in ("prior.npz", "factors.npy", "own_reward.py"):
            (Path(folder) / name).unlink()


def with_settings(undisturbed, run_dir, *settings):
    """A run with the files of another, and other settings."""
    run_dir.mkdir()
    for path in undisturbed.iterdir():
        if path.name not in ("config.yaml", ".lock"):
            (run_dir / path.name).symlink_to(path)
    (run_dir / "config.yaml").write_text(dump(load(undisturbed / "config.yaml", [*settings])))
    return run_dir


def test_a_horizon_is_exported(undisturbed, tmp_path):
    """Each trainer's function returns the reward of the training for the next three items."""
    run_dir = with_settings(undisturbed, tmp_path / "run", "reward.horizon=3")
    folders = {to: str(tmp_path / to) for to in ("trl", "verl", "openrlhf")}
    for to, folder in folders.items():
        assert main(["export", "--run", str(run_dir), "--to", to, "--out", folder]) == 0
    rated = [row for row in rows(tmp_path / "trl") if row["following"]][:4]
    ids = {row["sample_id"] for row in rated}
    verl = pq.read_table(tmp_path / "verl" / "train.parquet").to_pylist()
    labels = [row | {"facts": json.loads(row["label"])} for row in rows(tmp_path / "openrlhf")]
    first = {
        "trl": rated,
        "verl": [row for row in verl if row["extra_info"]["sample_id"] in ids],
        "openrlhf": [row for row in labels if row["facts"]["sample_id"] in ids],
    }
    given = [json.dumps(first[to]) for to in first]
    words = [json.dumps(folders), *COMPLETIONS, *given]
    found = json.loads(alone(tmp_path / "trl", REWARDS, *words))
    corpus = undisturbed / "corpus"
    by_id = with_following(
        {s.sample_id: s for s in load_samples(corpus, "train")}, corpus, horizon=3
    )
    samples = [by_id[row["sample_id"]] for row in rated]
    assert [sample.following for sample in samples] == [row["following"] for row in rated]
    plain = [text.partition("<answer>")[0] for text in COMPLETIONS]
    config, encoder, policy, table = policy_of(undisturbed, "proxy")
    titles = load_catalogue(corpus).titles
    sequences = [
        encoder.prompt([titles[i] for i in sample.history])
        + encoder.tokenizer.encode(text, add_special_tokens=False)
        + encoder.answer_ids
        for sample, text in zip(samples, plain, strict=True)
    ]
    ranker = Ranker(table, config.model.temperature)
    reward = reward_function(config.reward.name, softmax_weight=config.reward.softmax_weight)
    with torch.no_grad():
        hidden = policy(sequences)[0]
    cutoff = min(config.reward.cutoff, len(table))
    expected = graded(ranker, hidden, ranker.targets(samples), reward=reward, cutoff=cutoff)
    for to in first:
        assert found[to] == pytest.approx(expected.tolist(), abs=1e-5), to
    assert "`reward.horizon=3`" in (tmp_path / "trl" / "README.md").read_text()


def test_comparisons_are_for_no_other_trainer(undisturbed, tmp_path, capsys):
    run_dir = with_settings(undisturbed, tmp_path / "run", "reward.feedback=comparison")
    words = ["export", "--run", str(run_dir), "--out", str(tmp_path / "out"), "--to"]
    for to in ("trl", "verl", "openrlhf"):
        assert main([*words, to]) == 2
        assert "trains on comparisons of rollouts" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*words, "jsonl"]) == 0
    said = " ".join((tmp_path / "out" / "README.md").read_text().split())
    assert "saw only which of two completions has the larger reward" in said


OWN = """
def first_three(ranking, cutoff):
    return (ranking.rank <= 3).float() + ranking.probability
"""


def test_a_reward_of_the_user_is_exported(undisturbed, exported, tmp_path, monkeypatch):
    """Its file is copied. Other rewards are found by name in the exported ranking.py."""
    (tmp_path / "shop_reward.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    first = rows(exported("trl"))[:4]
    by_id = {s.sample_id: s for s in load_samples(undisturbed / "corpus", "train")}
    samples = [by_id[row["sample_id"]] for row in first]
    plain = [text.partition("<answer>")[0] for text in COMPLETIONS]
    code = (
        "import json, sys; from reward import reward\n"
        "said, rows = json.loads(sys.argv[1]), json.loads(sys.argv[2])\n"
        "names = ('prompt', 'prompt_text', 'excluded', 'target')\n"
        "columns = {name: [row[name] for row in rows] for name in names}\n"
        "print(reward(columns.pop('prompt'), said, **columns))"
    )
    for name in ("shop_reward:first_three", "hit@5", "reciprocal_rank"):
        run_dir = with_settings(undisturbed, tmp_path / name, f"reward.name={name}")
        folder = tmp_path / f"{name}-export"
        words = ["--run", str(run_dir), "--to", "trl", "--out", str(folder)]
        assert main(["export", *words]) == 0
        found = json.loads(alone(folder, code, json.dumps(COMPLETIONS), json.dumps(first)))
        assert found == pytest.approx(expected_rewards(run_dir, samples, plain), abs=1e-5)


def test_trl_takes_it(exported):
    """TRL loads the file, and one step of its trainer calls the reward with the columns."""
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


def test_the_lines_for_trl_train(exported, tmp_path):
    """The code of the README runs all steps with the exported reward."""
    pytest.importorskip("trl")
    folder = tmp_path / "trl"
    shutil.copytree(exported("trl"), folder)
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    code = code.replace("args=GRPOConfig(", "args=GRPOConfig(use_cpu=True, report_to=[],")
    code += "\nlog = trainer.state.log_history[-1]\nprint(trainer.state.global_step, log['reward'])"
    steps, reward = alone(folder, code).splitlines()[-1].split()
    assert steps == "8" and 0 < float(reward) < 1


def test_verl_without_a_chat_template_gets_a_note(undisturbed, tmp_path, capsys):
    words = ["export", "--run", str(undisturbed), "--to", "verl", "--out", str(tmp_path / "x")]
    assert main(words) == 0
    assert "demo has no chat template, but verl needs one" in capsys.readouterr().out


def best(run_dir, history, top):
    """Items and cosines after a greedy completion, computed with the evaluation's functions."""
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


RECOMMEND = """
import json, sys
import recommender
history, code, *calls = map(json.loads, sys.argv[1:])
print(json.dumps(recommender.Recommender('.').rank(history, top=10)))
exec(code, {})
for titles in calls:
    sys.argv[1:] = titles
    try:
        recommender.main()
    except SystemExit as error:
        print(error)
"""


@pytest.mark.parametrize("to", ["adapter", "merged"])
def test_the_policy_ranks_alike_in_plain_transformers(undisturbed, exported, to):
    """The code of the card runs too. For an unknown title, it suggests a known one."""
    folder = exported(to)
    sample = load_samples(undisturbed / "corpus", "test")[0]
    expected = best(undisturbed, sample.history, 10)
    card = (folder / "README.md").read_text()
    assert "| test | ndcg@10 |" in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    title = json.loads((folder / "items.jsonl").read_text().splitlines()[0])["title"]
    every = [row["title"] for row in map(json.loads, (folder / "items.jsonl").open())]
    alone_has = [t for t in every if every.count(t) == 1]
    calls = ([title + "s"], [], [alone_has[0].upper()])
    words = [json.dumps(word) for word in (sample.history, code, *calls)]
    ranks, *lines = alone(folder, RECOMMEND, *words).splitlines()
    assert [item for item, _ in json.loads(ranks)] == expected.indices.tolist()
    np.testing.assert_allclose([c for _, c in json.loads(ranks)], expected.values, atol=1e-5)
    assert len(lines) == 10 + 2 + 10
    assert lines[10].startswith(f"no item is titled {title + 's'!r}; near: {title!r}")
    assert lines[11].startswith('usage: python recommender.py "TITLE" ...')


def test_a_mistake_is_one_sentence(undisturbed, exported, tmp_path, capsys):
    words = ["export", "--to", "jsonl", "--out", str(exported("jsonl")), "--run"]
    assert main([*words, str(undisturbed)]) == 1
    assert "exists; give another --out, or --overwrite" in capsys.readouterr().err
    mine = tmp_path / "mine"
    mine.mkdir()
    for folder in (mine, undisturbed, undisturbed.parent):
        words[4] = str(folder)
        assert main([*words, str(undisturbed), "--overwrite"]) == 1
        assert "is not an export, so it is not replaced" in capsys.readouterr().err
    assert mine.is_dir() and (undisturbed / "selection.parquet").exists()
    assert main([*words[:-1], "--overwrite", "--run", str(tmp_path)]) == 1
    assert "is not a run directory" in capsys.readouterr().err


def test_preference_pairs_are_the_scored_rollouts(undisturbed, exported):
    folder = exported("trl-dpo")
    order = read_table(undisturbed / "selection.parquet").sort_by("rank")["sample_id"].to_pylist()
    scored = {}
    for part in (undisturbed / "features").glob("part-*.parquet"):
        for row in read_table(part, ["sample_id", "completions", "rewards"]).to_pylist():
            scored[row["sample_id"]] = dict(zip(row["completions"], row["rewards"], strict=True))
    found = rows(folder)
    assert 0 < len(found) <= len(order)
    assert [row["sample_id"] for row in found] == [
        i for i in order if i in {row["sample_id"] for row in found}
    ]
    for row in found:
        rewards = scored[row["sample_id"]]
        assert rewards[row["chosen"]] == max(rewards.values())
        assert rewards[row["rejected"]] == min(rewards.values())
    for i in set(order) - {row["sample_id"] for row in found}:
        assert len(scored[i]) < 2 or max(scored[i].values()) - min(scored[i].values()) < 1e-3
    assert (folder / "scorer" / "config.json").exists()
    assert "DPOTrainer" in (folder / "README.md").read_text()
