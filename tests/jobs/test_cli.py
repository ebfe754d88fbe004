"""The command line before anything starts: help, plans, refusals."""

import subprocess
import sys
from importlib.metadata import version

import pytest
from ray.exceptions import RayTaskError

from jobs import cli, run
from jobs.arguments import parse
from jobs.console import console, print_settings
from jobs.handover.recommend import find_titles
from jobs.run import STAGES, stages_of
from jobs.stage import Stage
from jobs.stages.gradients import validation_samples
from jobs.stages.train import learning_rate
from jobs.trials import bench
from minirec import __version__
from minirec.config.common import COMMON, COST, cost_of, shortened
from minirec.config.reading import described, dump, load, valid_keys
from minirec.corpus import table
from minirec.corpus.table import Catalogue
from minirec.errors import ConfigError, CorpusError
from minirec.store.run import Run


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


def test_a_preset_is_refused_where_the_settings_of_a_run_replace_it(capsys, tmp_path):
    (tmp_path / "config.yaml").write_text(dump(load()))
    assert "has no effect" in refused(capsys, "plan", f"run_dir={tmp_path}", "preset=paper")
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


def test_the_common_settings_are_listed_with_their_costs(capsys, monkeypatch):
    monkeypatch.setattr(console, "width", 100)
    assert cli.main(["settings", "--common"]) == 0
    printed = capsys.readouterr().out
    assert all(key in printed for key in COMMON) and "reward.softmax_weight" not in printed
    assert "cost" in printed.splitlines()[1] and "…" not in printed
    assert set(COST) <= set(valid_keys()) and set(COMMON) <= set(COST)
    assert len(set(COMMON)) == len(COMMON) == 10
    assert "explains the choices" in printed


def test_choices_without_their_meanings():
    assert shortened("How it is chosen.\nvalue: By value: high.\na.b:c: Yours.") == (
        "How it is chosen. (value, a.b:c)"
    )
    assert shortened("Seed of all draws.") == "Seed of all draws."


def test_costs_stand_below_the_meanings_of_a_section(capsys, monkeypatch):
    monkeypatch.setattr(console, "width", 100)
    assert cli.main(["settings", "proxy"]) == 0
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "size of a GRPO group. Cost: rollouts grow in proportion." in printed
    assert cost_of("proxy.training.replays") == COST["training.replays"]
    assert cost_of("seed") == cost_of("warm.training.rollouts_per_prompt") == ""


def test_no_setting_is_cut_off_in_a_narrow_window(capsys, monkeypatch):
    monkeypatch.setattr(console, "width", 80)
    print_settings(described())
    assert "…" not in capsys.readouterr().out


def test_the_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"minirec {__version__}\n"
    assert version("minirec") == __version__, "setup.cfg has another version"


def test_an_unknown_option_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["run", "--confg", "x.yaml"])
    assert "--confg" in capsys.readouterr().err


def test_recommend_without_a_run(capsys, tmp_path):
    for folder in (tmp_path / "none", tmp_path):
        assert cli.main(["recommend", "--run", str(folder), "--history", "A"]) == 1
        assert "is not a run directory" in capsys.readouterr().err
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


@pytest.mark.parametrize("command", ["compare", "sweep"])
def test_trials_are_checked_once_the_samples_are_counted(tmp_path, monkeypatch, command):
    """The size of a corpus of files is known only after `prepare`."""

    def prepared(config, names, *, overwrite, check, **_):
        check(100, 100)

    monkeypatch.setattr(bench, "stages", prepared)
    words = [f"run_dir={tmp_path}", "preset=paper", f"{command}.budget=[99, 101]"]
    words += ["compare.methods=[random]"] if command == "compare" else []
    with pytest.raises(ConfigError, match="selection.budget 101 exceeds the 100 training samples"):
        bench.run_bench(command, load(None, words))


def test_what_is_refused_after_prepare_runs_nothing_long(tmp_path, monkeypatch):
    ran = []

    def stage(name):
        return Stage(
            name, "", lambda config: [], (), lambda run, config: {}, lambda work: ran.append(name)
        )

    monkeypatch.setattr(run, "STAGES", (stage("prepare"), stage("proxy")))
    monkeypatch.setattr(table, "count_samples", lambda folder, split: 7)

    def refuse(samples, valid):
        raise ConfigError(f"{samples} samples are too few")

    with pytest.raises(ConfigError, match="7 samples are too few"):
        run.stages(load(None, [f"run_dir={tmp_path}"]), ("prepare", "proxy"), check=refuse)
    assert ran == ["prepare"]
    assert (tmp_path / "config.yaml").exists(), "the next command there takes these settings"


def test_gradients_made_for_less_serve_other_selections(tmp_path):
    def samples(run, *overrides):
        return validation_samples(run, load(overrides=overrides))

    run = Run(tmp_path, say=lambda _: None)
    assert samples(run) == 0
    assert samples(run, "selection.method=less") == 256
    settings = {"scoring": {"validation_samples": 256}}
    run.stage("gradients", settings=settings, inputs=[], outputs=[], body=lambda cost: None)
    assert samples(run, "selection.directions=lora_projected") == 256
    assert samples(run, "scoring.validation_samples=20") == 0


def test_stages_that_come_with_others():
    """Gradients run with scoring if they are used; the demo model runs with all that load it."""

    def names(config, *asked):
        return [stage.name for stage in stages_of(config, asked)]

    everything = [stage.name for stage in STAGES]
    paper = ["preset=paper"]
    demo = load(overrides=paper)
    hub = load(overrides=[*paper, "model.name=Qwen/Qwen2.5-0.5B-Instruct"])
    less = load(overrides=[*paper, "selection.method=less"])
    assert names(load(), "score") == ["prior", "model", "score"]
    assert names(load(), "warm") == ["prior", "model", "warm"]
    assert names(less, "score") == ["model", "score", "gradients"]
    assert names(demo, "train") == names(less, "train") == ["model", "train"]
    assert names(demo, "score") == ["model", "score"]
    assert names(hub, "score") == ["score"]
    assert names(demo, "select") == names(hub, "select") == ["select"]
    left_out = {"warm", "prior"}
    assert names(less, *everything) == [name for name in everything if name not in left_out]
    assert not {"gradients", *left_out} & {*names(demo, *everything)}
    assert len(names(demo, *everything)) == len(everything) - 3
    assert names(demo, "warm") == ["model", "warm"]
    assert names(demo, "gradients") == ["model", "gradients"]
    without = load(overrides=["preset=paper", "sasrec.epochs=0"])
    assert names(demo, "evaluate") == ["sasrec", "model", "evaluate"]
    assert names(without, "evaluate") == ["model", "evaluate"]


def test_the_default_learning_rate_is_that_of_the_model():
    tiny, real = load(), load(overrides=["model.name=Qwen/Qwen2.5-0.5B-Instruct"])
    given = load(overrides=["training.learning_rate=3e-5"])
    assert learning_rate(tiny.training, tiny) == 2e-3
    assert learning_rate(real.training, real) == 1e-4
    assert learning_rate(given.training, given) == 3e-5


TITLES = ["Salt, Fat, Acid", "Salt", "Pepper Mill", "3,000 Miles", "Caf\u00e9 Noir"]
TITLES += ["Stra\u00dfe", "Comma, ,Comma", "Twice", "twice "]
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
def test_titles_that_match_no_item_or_several(history, words):
    with pytest.raises(ConfigError, match=words):
        find_titles(history, CATALOGUE, KEYS)


def test_keys_that_contain_commas_or_are_titles_of_others():
    titles = ["Lamp", "lamp", "7", "Pen", "Ink"]
    catalogue = Catalogue(titles, [""] * 5, "things")
    keys = ["7", "8", "9", "a,1", "A  b"]
    assert find_titles("a , 1, 8, A b, 9", catalogue, keys) == [3, 1, 4, 2]
    assert find_titles("8.0", catalogue, keys) == [1]
    words = "'7' is the key of 'Lamp', and the title of the item with the key 9"
    with pytest.raises(ConfigError, match=words):
        find_titles("7", catalogue, keys)


def test_the_run_directory_for_an_error_message(tmp_path):
    """It comes from the config file and the overrides together; empty if they are invalid."""
    file = tmp_path / "run.yaml"
    file.write_text("run_dir: s3://bucket/run\ntraining: {steps: -1}\n")
    words = ["train", "--config", str(file)]
    assert cli._run_dir(cli.parse([*words, "training.steps=5"])) == "s3://bucket/run"
    assert cli._run_dir(cli.parse(words)) == ""


def test_options_and_the_settings_of_a_run_in_the_home_folder(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").write_text(dump(load(None, ["selection.groups=3"])))
    for words in (["run_dir=~/a"], ["--config", "~/a/config.yaml", "run_dir=~/b"]):
        assert cli.main(["plan", *words]) == 0
        assert "in 3 groups" in capsys.readouterr().out
    assert not (tmp_path / "~").exists()
    assert "is not a home folder of this machine" in refused(
        capsys, "plan", "run_dir=~nobody-here/x"
    )


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["select", "--features"], "features"),
        (["select", "--features", "x", "--out"], "out"),
        (["export", "--to", "trl", "--out", "x", "--run"], "run"),
        (["export", "--to", "trl", "--run", "x", "--out"], "out"),
        (["serve", "--run"], "run"),
        (["recommend", "--history", "x", "--run"], "run"),
        (["recommend", "--run", "x", "--out", "y", "--users"], "users"),
        (["recommend", "--run", "x", "--users", "y", "--out"], "out"),
        (["recommend", "--run", "x", "--users", "y", "--out", "z", "--items"], "items"),
        (["submit", "--address", "x", "--working-dir"], "working_dir"),
    ],
)
def test_every_path_on_the_command_line_may_begin_with_the_home_folder(monkeypatch, words, option):
    monkeypatch.setenv("HOME", "/home/u")
    assert getattr(parse([*words, "~/p"]), option) == "/home/u/p"
    assert getattr(parse([*words, "s3://b/~p"]), option) == "s3://b/~p"


@pytest.mark.parametrize(
    ("option", "number", "most"),
    [("port", number, "65,535") for number in ("0", "65536", "99999", "-1", "http")]
    + [("replicas", number, "1,000,000,000") for number in ("0", "1000000001", "²", "1.5")],
)
def test_numbers_out_of_range(capsys, option, number, most):
    with pytest.raises(SystemExit, match="2"):
        parse(["serve", "--run", "x", f"--{option}={number}"])
    assert f"'{number}' is not a number from 1 to {most}" in capsys.readouterr().err


def test_ports_in_range():
    assert [parse(["serve", "--run", "x", "--port", p]).port for p in ("1", "65535")] == [1, 65535]


@pytest.mark.parametrize("word", ["selection.budget=0.01", "selection.budget=100000"])
def test_the_same_prepare_twice(tmp_path, capsys, word):
    """`prepare` warns about what `select` would refuse, and succeeds both times."""
    small = ["corpus.demo.users=20", "corpus.demo.items=20", "corpus.demo.tastes=2"]
    small.append("warm.training.prompts_per_step=32")
    for _ in range(2):
        assert cli.main(["prepare", f"run_dir={tmp_path / 'run'}", *small, word]) == 0
        assert "`minirec select` would refuse these settings: selection." in capsys.readouterr().out
    assert cli.main(["select", f"run_dir={tmp_path / 'run'}", *small, word]) == 2
    assert "exceeds the" in capsys.readouterr().err


def test_a_run_is_refused_once_the_samples_are_counted(tmp_path, monkeypatch, capsys):
    """`prepare` counts a corpus of files, so a run need not wait for `select` to refuse it."""
    (tmp_path / "e.csv").write_text("user,item,time,title\nu,i,1,I\n")
    monkeypatch.setattr(run, "stages", lambda config, names, *, overwrite, check: check(21, 9))
    words = [f"run_dir={tmp_path / 'run'}", "corpus.source=table", f"corpus.path={tmp_path}"]
    assert "the warm start has 21 training samples" in refused(capsys, "run", *words)
    words.append("preset=paper")
    assert "selection.groups 4 exceeds the budget of 2 samples" in refused(capsys, "run", *words)


def of_a_task(cause):
    """The error of Ray around an exception of a task, with long text."""
    return RayTaskError("f", "ray::f()\n  Traceback ...", cause).as_instanceof_cause()


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (OSError(28, "No space left on device"), 1, "the disk of {run} is full; free some space"),
        (of_a_task(OSError(28, "No space")), 1, "the disk of {run} is full; free some space"),
        (of_a_task(of_a_task(CorpusError("too short"))), 1, "too short"),
        (ConfigError("too short"), 2, "too short"),
        (OSError(5, "Input/output error"), 1, "Input/output error"),
        (OSError(13, "Permission denied", "/x"), 1, "Permission denied: /x; change its perm"),
    ],
)
def test_an_error_of_a_stage_is_one_sentence(tmp_path, monkeypatch, capsys, error, status, words):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(run, "stages", fail)
    folder = tmp_path / "run"
    assert cli.main(["prepare", f"run_dir={folder}"]) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("minirec: " + words.format(run=folder)) and "None" not in line


def test_an_error_that_the_user_cannot_fix_keeps_its_traceback(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise of_a_task(KeyError("x"))

    monkeypatch.setattr(run, "stages", fail)
    with pytest.raises(RayTaskError):
        cli.main(["prepare", f"run_dir={tmp_path}"])
