"""What a user meets before anything starts: help, plans, refusals."""

import importlib
import subprocess
import sys
from importlib.metadata import version

import pytest

from jobs import cli, run
from jobs.console import console
from jobs.gradients import validation_samples
from jobs.plan import plan
from jobs.recommend import find_titles
from jobs.run import STAGES, stages_of
from jobs.summary import print_settings
from jobs.train import learning_rate
from minirec import __version__
from minirec.artifacts import Run, write_json
from minirec.corpus.table import Catalogue
from minirec.errors import ConfigError, CorpusError
from minirec.settings import described, dump, load


def refused(capsys, *words):
    assert cli.main(list(words)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    return captured.err


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("selection.buget=9", "did you mean selection.budget?"),
        ("training.steps=none", "training.steps"),
        ("selection.budget=1000000", "exceeds the"),
        ("selection.groups=1000", "selection.groups 1000 exceeds the budget of"),
        ("training.steps=0", "training.steps=0"),
        ("resources.gpus_per_engine=1.5", "nor a whole number of GPUs"),
    ],
)
@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_mistake_is_one_sentence_and_starts_nothing(capsys, tmp_path, command, override, words):
    assert words in refused(capsys, command, f"run_dir={tmp_path / 'run'}", override)
    assert not (tmp_path / "run").exists()


def test_overrides_may_stand_between_options(capsys, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("selection: {groups: 2}\n")
    words = ["plan", f"run_dir={tmp_path}", "--config", str(file), "selection.budget=100"]
    assert cli.main(words) == 0
    assert "100 in 2 groups" in capsys.readouterr().out


def test_a_preset_does_not_vanish_behind_the_settings_of_a_run(capsys, tmp_path):
    (tmp_path / "config.yaml").write_text(dump(load()))
    assert "would have no effect" in refused(capsys, "plan", f"run_dir={tmp_path}", "preset=paper")
    assert cli.main(["plan", f"run_dir={tmp_path}", "selection.groups=2"]) == 0
    assert "in 2 groups" in capsys.readouterr().out


def test_the_settings_of_a_run_in_the_default_folder(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / load().run_dir
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump(load(None, ["selection.groups=3"])))
    assert cli.main(["plan"]) == 0
    said = capsys.readouterr().out
    assert "in 3 groups" in said and f"settings: {load().run_dir}" in said


@pytest.mark.parametrize(
    "words",
    [
        ["select", "--features", "s3://b/x.parquet"],
        ["select", "--features", "x.parquet", "--out", "s3://b/x"],
        ["export", "--run", "r", "--to", "trl", "--out", "s3://b/x"],
        ["recommend", "--run", "r", "--users", "u.jsonl", "--out", "s3://b/x.jsonl"],
    ],
)
def test_an_address_where_a_file_is_wanted(capsys, words):
    assert "is an address; give a file or folder of this machine" in refused(capsys, *words)


def test_settings_are_listed(capsys):
    assert cli.main(["settings", "reward"]) == 0
    assert "reward.softmax_weight" in capsys.readouterr().out
    assert "did you mean reward?" in refused(capsys, "settings", "rewrd")


def test_no_setting_is_cut_short_in_a_narrow_window(capsys, monkeypatch):
    monkeypatch.setattr(console, "width", 80)
    print_settings(described())
    assert "…" not in capsys.readouterr().out


def test_the_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"minirec {__version__}\n"
    assert version("minirec") == __version__, "setup.cfg names another"


def test_an_unknown_option_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["run", "--confg", "x.yaml"])
    assert "--confg" in capsys.readouterr().err


def test_recommend_without_a_run(capsys, tmp_path):
    for folder in (tmp_path / "none", tmp_path):
        assert cli.main(["recommend", "--run", str(folder), "--history", "A"]) == 1
        assert "is no run directory" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_help_loads_no_library_that_takes_a_second():
    heavy = {"torch", "ray", "transformers", "vllm", "pandas", "pyarrow", "rich", "pydantic"}
    code = (
        "import sys\nfrom jobs import cli\n"
        "try: cli.main(['run', '--help'])\n"
        f"except SystemExit: print('heavy', *{heavy} & set(sys.modules))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "selection.budget=0.2" in printed
    assert printed.splitlines()[-1] == "heavy"


def test_plan_loads_neither_ray_nor_torch(tmp_path):
    words = ["plan", f"run_dir={tmp_path}", "compare.methods=[minirec]"]
    code = (
        f"import sys; from jobs import cli; cli.main({words})\n"
        "print({'torch', 'ray', 'transformers', 'vllm'} & {*sys.modules})"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "│ compare" in printed and printed.endswith("\nset()\n")


def test_plan_counts_rollouts_of_the_demo(tmp_path):
    config = load(
        overrides=[
            f"run_dir={tmp_path}",
            "corpus.source=demo",
            "corpus.demo.users=100",
            "scoring.rollouts=3",
            "training.steps=7",
            "training.prompts_per_step=32",
            "training.rollouts_per_prompt=4",
        ]
    )
    rows = {(stage, what): value for stage, what, value in plan(config)}
    samples = int(rows["prepare", "training samples"].removeprefix("about ").replace(",", ""))
    assert rows["score", "rollouts"] == f"about {samples * 4:,} (3 and a greedy one)"
    assert rows["train", "rollouts"] == f"{7 * 32 * 4:,}"


def test_plan_bounds_cheaper_scoring_and_shows_what_it_needed(tmp_path):
    cheap = ["scoring.screen=prefill", "scoring.rollouts=[2, 4]"]
    config = load(overrides=[f"run_dir={tmp_path}", *cheap])
    run = Run(tmp_path, say=lambda _: None)
    write_json(run.path("corpus", "corpus.json"), {"samples": {"train": 1000}})
    rows = {(stage, what): value for stage, what, value in plan(config)}
    most = "5,000 (2 to 4 and a greedy one; none where screened)"
    assert rows["score", "rollouts, at most"] == most
    assert ("score", "rollouts made") not in rows

    def body(cost):
        cost.rollouts = 1234

    run.stage("score", settings={"scoring": {"rollouts": (2, 4)}}, inputs=[], outputs=[], body=body)
    rows = {(stage, what): value for stage, what, value in plan(config)}
    assert rows["score", "rollouts made"] == "1,234 of 5,000"


def test_plan_looks_at_the_files_of_the_corpus(tmp_path):
    words = [f"run_dir={tmp_path / 'run'}", "corpus.source=table", f"corpus.path={tmp_path}"]
    with pytest.raises(CorpusError, match="lacks an interactions file"):
        plan(load(overrides=words))
    rows = {
        (stage, what): value for stage, what, value in plan(load(overrides=words), starts=False)
    }
    assert "lacks an interactions file" in rows["prepare", "files"]
    (tmp_path / "events.csv").write_text("user,item,time\nu,i,1\n")
    with pytest.raises(CorpusError, match="'title'.*or corpus.metadata to a file with the catal"):
        plan(load(overrides=words))
    (tmp_path / "items.csv").write_text("item,title\ni,Item\n")
    words += ["training.steps=5", "compare.methods=[random, minirec]", "compare.seeds=[1]"]
    rows = {(stage, what): value for stage, what, value in plan(load(overrides=words))}
    assert "known once" in rows["score", "rollouts"]
    assert rows["train", "optimizer steps"] == "5 of 32 prompts"
    assert rows["compare", "trials"] == "9"  # two methods at four budgets, and full data
    with pytest.raises(ConfigError, match="budget=0"):
        plan(load(overrides=[*words, "compare.budget=[0]"]))
    # A corpus that is made does not need its files any more.
    write_json(tmp_path / "run" / "corpus" / "corpus.json", {"samples": {"train": 77}})
    (tmp_path / "events.csv").unlink()
    for again in (False, True):
        assert plan(load(overrides=words), again=again)


def test_plan_does_not_take_the_count_of_another_corpus(tmp_path):
    config = load(None, [f"run_dir={tmp_path}", "corpus.demo.users=40"])
    run = Run(tmp_path, say=lambda text: None)
    settings = {"corpus": config.corpus.model_dump(mode="json"), "files": []}

    def body(cost):
        write_json(run.path("corpus", "corpus.json"), {"samples": {"train": 123}})

    run.stage("prepare", settings=settings, inputs=[], outputs=["corpus"], body=body)
    assert plan(config)[0][2] == "123"
    assert plan(load(None, [f"run_dir={tmp_path}", "corpus.demo.users=400"]))[0][2].startswith(
        "about"
    )


def test_plan_counts_the_part_that_is_scored(tmp_path):
    write_json(tmp_path / "corpus" / "corpus.json", {"samples": {"train": 1000}})
    words = [f"run_dir={tmp_path}", "scoring.samples=0.4", "scoring.rollouts=3"]
    rows = {(stage, what): value for stage, what, value in plan(load(overrides=words))}
    assert rows["score", "rollouts"] == "1,600 (3 and a greedy one)"
    assert rows["score", "shards"] == "7"
    assert rows["select", "budget"] == "100 in 4 groups", "a share is one of the whole corpus"
    with pytest.raises(ConfigError, match="500 exceeds the 400 scored training samples"):
        plan(load(overrides=[*words, "selection.budget=500"]))


def test_plan_counts_the_trials_of_a_comparison(tmp_path, capsys):
    two = ["compare.methods=[random, minirec]", "compare.budget=[10, 20]", "compare.seeds=[1]"]
    words = [f"run_dir={tmp_path}", *two, "compare.steps=5", "compare.full_steps=7"]
    found = {what: value for stage, what, value in plan(load(None, words)) if stage == "compare"}
    assert found["trials"].startswith("5: 5 settings")
    assert found["optimizer steps, at most"] == "27"  # 2 methods x 2 budgets x 5, and full
    assert "budget 99999 exceeds" in refused(capsys, "plan", *words, "compare.budget=[99999]")
    twice = "compare.budget=[0.5, 1176]"
    assert cli.main(["plan", *words, twice]) == 0, "2,352 samples are an estimate"
    capsys.readouterr()
    write_json(tmp_path / "corpus" / "corpus.json", {"samples": {"train": 2352}})
    assert "both budgets are 1,176 of 2,352 samples" in refused(capsys, "plan", *words, twice)


def test_trials_count_only_for_the_commands_that_run_them(tmp_path, capsys):
    wrong = [f"run_dir={tmp_path}", "compare.methods=[minirec]", "compare.budget=[99999]"]
    config = load(None, wrong)
    assert plan(config, trials={"train"})
    with pytest.raises(ConfigError, match="trial minirec_steps.*: selection.budget 99999 exceeds"):
        plan(config, trials={"compare"})


@pytest.mark.parametrize("command", ["compare", "sweep"])
def test_trials_are_checked_once_the_samples_are_counted(tmp_path, monkeypatch, command):
    """The size of a corpus of files is known only after `prepare`."""
    module = importlib.import_module(f"jobs.{command}")

    def prepared(config, names, *, overwrite, check, **_):
        check(100)

    monkeypatch.setattr(module, "stages", prepared)
    words = [f"run_dir={tmp_path}", f"{command}.budget=[99, 101]"]
    words += ["compare.methods=[random]"] if command == "compare" else []
    with pytest.raises(ConfigError, match="selection.budget 101 exceeds the 100 training samples"):
        getattr(module, command)(load(None, words))


def test_what_is_refused_after_prepare_runs_nothing_long(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(run, "_stage", lambda name: lambda *_: ran.append(name))
    monkeypatch.setattr(run, "count_samples", lambda folder, split: 7)

    def refuse(samples):
        raise ConfigError(f"{samples} samples are too few")

    with pytest.raises(ConfigError, match="7 samples are too few"):
        run.stages(load(None, [f"run_dir={tmp_path}"]), ("prepare", "proxy"), check=refuse)
    assert ran == ["prepare"]
    assert (tmp_path / "config.yaml").exists(), "the next command there takes these settings"


def test_plan_counts_validation_rollouts_only_where_they_are_used():
    def rollouts(*overrides):
        return [
            value for stage, _, value in plan(load(overrides=overrides)) if stage == "gradients"
        ]

    assert rollouts("selection.method=top_reward") == []
    assert rollouts("selection.directions=lora_projected") == []
    less = rollouts("selection.method=less", "scoring.rollouts=3")
    assert less == ["1,024 of validation samples"]


def test_gradients_made_for_less_serve_other_selections(tmp_path):
    def samples(run, *overrides):
        return validation_samples(run, load(overrides=overrides))

    run = Run(tmp_path, say=lambda _: None)
    assert samples(run) == 0
    assert samples(run, "selection.method=less") == 256
    run.stage(
        "gradients",
        settings={"scoring": {"validation_samples": 256}},
        inputs=[],
        outputs=[],
        body=lambda cost: None,
    )
    assert samples(run, "selection.directions=lora_projected") == 256
    assert samples(run, "scoring.validation_samples=20") == 0


def test_plan_tells_of_staleness_only_where_there_is_some():
    rows = plan(load(overrides=["training.staleness=1"]))
    assert [stage for stage, what, _ in rows if what == "staleness"] == ["train"]
    assert "staleness" not in str(plan(load(overrides=[])))


def test_plan_counts_all_samples_for_full(tmp_path):
    write_json(tmp_path / "corpus" / "corpus.json", {"samples": {"train": 1000}})
    words = [f"run_dir={tmp_path}", "selection.method=full", "selection.budget=3"]
    rows = {(stage, what): value for stage, what, value in plan(load(overrides=words))}
    assert rows["select", "budget"] == "1,000 in 4 groups"
    assert rows["train", "optimizer steps"].startswith("32 of 32")


def test_gradients_run_with_scoring_where_they_are_used():
    used, unused = load(overrides=["selection.method=less"]), load()
    assert stages_of(used, ("score",)) == ("score", "gradients")
    assert stages_of(used, ("train",)) == ("train",)
    assert stages_of(unused, ("score",)) == ("score",)
    assert stages_of(unused, STAGES) == tuple(s for s in STAGES if s != "gradients")
    assert stages_of(used, STAGES) == STAGES
    assert stages_of(unused, ("gradients",)) == ("gradients",)


def test_the_default_learning_rate_is_that_of_the_model():
    tiny, real = load(), load(overrides=["model.name=Qwen/Qwen2.5-0.5B-Instruct"])
    given = load(overrides=["training.learning_rate=3e-5"])
    assert learning_rate(tiny.training, tiny) == 2e-3
    assert learning_rate(real.training, real) == 1e-4
    assert learning_rate(given.training, given) == 3e-5


TITLES = [
    "Salt, Fat, Acid",
    "Salt",
    "Pepper Mill",
    "3,000 Miles",
    "Caf\u00e9 Noir",
    "Stra\u00dfe",
    "Comma, ,Comma",
    "Twice",
    "twice ",
]
CATALOGUE = Catalogue(titles=TITLES, texts=[""] * 9, category="books")
KEYS = [f"k{i}" for i in range(8)] + ["Pepper"]


@pytest.mark.parametrize(
    ("history", "found"),
    [
        ("Salt", [1]),
        ("  pepper   MILL ,Salt", [2, 1]),
        ("Salt, Fat, Acid, Salt", [0, 1]),
        ("salt,fat ,ACID,Salt", [0, 1]),
        ("Pepper Mill,, Salt,", [2, 1]),
        ("3,000 Miles", [3]),
        ("Salt,3, 000  miles", [1, 3]),
        ("Cafe\u0301 Noir, caf\u00e9 noir", [4, 4]),
        ("STRASSE", [5]),
        ("Comma, ,Comma, Comma,Comma", [6, 6]),
        ("k7, Salt, Pepper", [7, 1, 8]),
    ],
)
def test_titles_are_found_as_a_person_writes_them(history, found):
    assert find_titles(history, CATALOGUE, KEYS) == found


@pytest.mark.parametrize(
    ("history", "words"),
    [
        ("Peper Mill", "no item is titled 'Peper Mill'; did you mean: Pepper Mill"),
        ("Salt, 3000 Miles", "no item is titled '3000 Miles'; did you mean: 3,000 Miles"),
        ("", "empty"),
        (" , ", "empty"),
        ("TWICE", r"2 items are titled 'Twice'; .*: k7 \(Twice\), Pepper \(twice \)"),
    ],
)
def test_titles_that_name_no_item_or_several(history, words):
    with pytest.raises(ConfigError, match=words):
        find_titles(history, CATALOGUE, KEYS)


def test_the_run_directory_for_a_sentence_is_that_of_the_whole_command(tmp_path):
    """Of a config file that only the overrides make valid; none where it stays invalid."""
    file = tmp_path / "run.yaml"
    file.write_text("run_dir: s3://bucket/run\ntraining: {steps: -1}\n")
    words = ["train", "--config", str(file)]
    assert cli._run_dir(cli.parse([*words, "training.steps=5"])) == "s3://bucket/run"
    assert cli._run_dir(cli.parse(words)) == ""
