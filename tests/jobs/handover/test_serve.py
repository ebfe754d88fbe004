"""The trained policy behind HTTP."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers.ports import free_ports

from jobs.handover.recommend import recommend
from minirec.store.tables import read_table

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def served(undisturbed):
    """Address of a server that writes analyses and lets one request wait."""
    (port,) = free_ports(1)
    words = ["serve", "--run", str(undisturbed), "--port", str(port), "--queue", "1"]
    command = [sys.executable, "-m", "jobs.cli", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    hang = threading.Timer(180, process.kill)
    hang.start()
    # The replica is ready slightly before the command, which a signal would then end as a failure.
    said = []
    while not (said and b" answers; " in said[-1]):
        said.append(process.stdout.readline())
        assert said[-1], b"".join(said).decode()[-3000:]
    hang.cancel()
    assert ask(f"{address}/readyz")[0] == 200
    yield address
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert rest.decode().splitlines() == ["serve: closing"]


def ask(address, body=None):
    """Status and JSON of an answer; status 0 if there is none."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        text = error.read()
        return error.code, json.loads(text) if text.startswith(b"{") else text.decode()
    except OSError:
        return 0, None


def test_the_answer_is_that_of_the_command(undisturbed, served):
    table = read_table(undisturbed / "corpus" / "items.parquet").to_pydict()
    status, answer = ask(f"{served}/recommend", {"history": table["key"][:3], "top": 5})
    assert status == 200
    titles = ", ".join(table["title"][:3])
    found, expected = recommend(str(undisturbed), titles, top=5)
    assert [item["title"] for item in answer["items"]] == expected
    assert [item["cosine"] for item in answer["items"]] == found.cosines
    assert answer["analysis"] == found.analysis
    assert all(set(item) == {"key", "title", "cosine"} for item in answer["items"])
    assert not {item["key"] for item in answer["items"]} & set(table["key"][:3])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"history": ["nothing"]}, "no item has the key 'nothing'"),
        ({"history": ["n" * 5000]}, "no item has the key 'nnn"),
        ({"history": []}, "history must be a list of 1 to 1000 item keys"),
        ({"history": ["item00001"], "top": float("nan")}, "top must be a whole number"),
        ({"history": ["\ud800"]}, "item 1 of the history is not a key"),
        ({"history": ["item00001"], "tpo": 3}, "'tpo' is not a field"),
        ({}, "it is missing"),
    ],
)
def test_bad_input_is_a_422_that_says_what(served, body, said):
    status, answer = ask(f"{served}/recommend", body)
    assert status == 422
    assert said in answer["detail"] and len(answer["detail"]) < 200


def test_a_history_of_nearly_all_items(undisturbed, served):
    keys = read_table(undisturbed / "corpus" / "items.parquet")["key"].to_pylist()
    status, answer = ask(f"{served}/recommend", {"history": keys[1:], "top": 1000})
    assert (status, [item["key"] for item in answer["items"]]) == (200, keys[:1])
    assert ask(f"{served}/recommend", {"history": keys})[1]["items"] == []


def test_answers_to_random_histories_are_items_that_are_not_in_them(undisturbed, served):
    keys = read_table(undisturbed / "corpus" / "items.parquet")["key"].to_pylist()
    draw = random.Random(5)
    histories = [draw.choices(keys, k=draw.randint(1, 20)) for _ in range(60)]
    tops = [draw.randint(1, len(keys)) for _ in histories]

    def answered(history, top):
        status, answer = ask(f"{served}/recommend", {"history": history, "top": top})
        assert status == 200
        return [item["key"] for item in answer["items"]]

    found = map(answered, histories, tops)  # one at a time: only one request may wait here
    for items, history, top in zip(found, histories, tops, strict=True):
        assert len(set(items)) == len(items) == min(top, len(keys) - len(set(history)))
        assert set(items) <= set(keys) - set(history)


def test_it_describes_itself_and_its_health(served):
    assert ask(f"{served}/healthz") == (200, {"status": "ok"})
    status, description = ask(f"{served}/openapi.json")
    assert status == 200
    answers = description["paths"]["/recommend"]["post"]["responses"]
    assert answers["422"]["content"]["application/json"]["schema"]["$ref"].endswith("/Problem")


def test_too_many_requests_are_refused_and_the_others_answered(undisturbed, served):
    keys = read_table(undisturbed / "corpus" / "items.parquet")["key"].to_pylist()
    bodies = [{"history": [keys[i % len(keys)]]} for i in range(200)]
    with ThreadPoolExecutor(200) as threads:
        found = list(threads.map(lambda body: ask(f"{served}/recommend", body)[0], bodies))
    assert set(found) == {200, 503}
    assert ask(f"{served}/recommend", bodies[0])[0] == 200
