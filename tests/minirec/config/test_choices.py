"""Settings take the names in the tables of functions, each with a meaning."""

import subprocess
import sys

import pytest

from minirec.config import choices, reading
from minirec.config.choices import Choices
from minirec.corpus.files.sources import SOURCES
from minirec.errors import ConfigError
from minirec.rl.candidates import CANDIDATES
from minirec.rl.reward import REWARDS
from minirec.selection.baselines import METHODS
from minirec.selection.curriculum import CURRICULA
from minirec.selection.pipeline import LEARNABILITY


@pytest.mark.parametrize(
    ("known", "table"),
    [
        (choices.REWARDS, REWARDS),
        (choices.SOURCES, SOURCES),
        (choices.METHODS, METHODS),
        (choices.LEARNABILITY, LEARNABILITY),
        (choices.CURRICULA, CURRICULA),
        (choices.CANDIDATES, CANDIDATES),
    ],
)
def test_the_names_are_those_of_the_table_each_with_a_meaning(known: Choices, table):
    meanings = known.meanings()
    assert list(meanings) == [*known.first, *table]
    assert all(meaning.endswith(".") for meaning in meanings.values())
    for name, function in table.items():
        assert known.find(name.replace("@K", "@7")) is function


def test_a_comparison_takes_presets_and_full_only_as_a_reference():
    assert "full" not in choices.COMPARED.meanings()
    assert list(choices.REFERENCES.meanings())[:2] == ["minirec", "paper"]
    assert reading.load(None, ["compare.references=[full]"]).compare.references == ("full",)
    with pytest.raises(ConfigError, match="'full' is unknown; choose minirec, paper, supervised"):
        reading.load(None, ["compare.methods=[random, full]"])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "selection.method=kcentre",
            "selection.method: 'kcentre' is unknown; did you mean kcenter?",
        ),
        ("selection.method=a.b:3", "'a.b:3' is unknown; choose value, random"),
        ("selection.curriculum=easy", "or package.module:function"),
        ("selection.learnability=gauss", "did you mean gaussian?"),
        ("sweep.learnability=[gauss]", "sweep.learnability: 'gauss' is unknown"),
        ("corpus.source=recbol", "did you mean recbole? choose demo, amazon, movielens"),
        ("reward.name=hit@0", "choose ndcg_softmax, ndcg, reciprocal_rank, hit@K, "),
        ("reward.name=hit@ten", "did you mean hit@10?"),
        ("reward.name=hit@K", "did you mean hit@10?"),
        ("sweep.learnability=[a.b:c]", "'a.b:c' is unknown; choose gaussian"),
        ("reward.name=3", "reward.name=3 is refused"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_one(override, words):
    with pytest.raises(ConfigError) as caught:
        reading.load(None, [override])
    assert words in str(caught.value)


def test_settings_show_each_name_with_its_meaning():
    ((_, default, meaning),) = reading.described("selection.method")
    assert default == "value"
    assert "\nkcenter: Always the sample farthest from the picks" in meaning
    assert meaning.endswith("\npackage.module:function: A function of your own.")


def test_a_function_that_cannot_be_imported_is_named():
    for name in ("minirec.selection.baselines:nothing", "no.such.module:choose"):
        with pytest.raises(ConfigError, match=f"selection.method='{name}' cannot be imported"):
            choices.METHODS.find(name)


def test_reading_a_config_loads_no_heavy_library():
    heavy = "{'torch', 'ray', 'transformers', 'numpy', 'scipy', 'pyarrow', 'pandas'}"
    code = (
        "import sys; from minirec.config.reading import described, load; load(); described(); "
        f"print(*{heavy} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == ""
