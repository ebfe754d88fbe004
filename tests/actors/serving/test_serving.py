"""Answers of the server to bad requests; without a policy and without Ray Serve."""

from __future__ import annotations

import json

import pytest
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.testclient import TestClient
from starlette.exceptions import HTTPException

from actors.serving.http import Query, refuse, refuse_body

JSON = {"Content-Type": "application/json"}
HISTORY = "history must be a list of 1 to 1000 item keys, oldest first"
TOP = "top must be a whole number from 1 to 1000"
RATINGS = "ratings must be a list with a number for each item of the history"
NO_OBJECT = "the body is not a JSON object; send "


@pytest.fixture(scope="module")
def client():
    """An application with the server's query and error answers; it returns the parsed query."""
    app = FastAPI()
    app.add_exception_handler(RequestValidationError, refuse)
    app.add_exception_handler(HTTPException, refuse_body)

    @app.post("/recommend")
    async def recommend(query: Query):
        return {"history": query.history, "top": query.top}

    return TestClient(app, raise_server_exceptions=False)


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ('{"history": ["a"], "top": NaN}', TOP),
        ('{"history": ["a"], "top": Infinity}', TOP),
        ('{"history": ["a"], "top": -Infinity}', TOP),
        ('{"history": ["a"], "top": 1e400}', TOP),
        ('{"history": ["a"], "top": true}', TOP),
        ('{"history": ["a"], "top": "5"}', TOP),
        ('{"history": ["a"], "top": 2.5}', TOP),
        ('{"history": ["a"], "top": null}', TOP),
        ('{"history": ["a"], "top": 0}', TOP),
        ('{"history": ["a"], "top": 1001}', TOP),
        ('{"history": []}', HISTORY),
        ('{"history": "a"}', HISTORY),
        ('{"history": {"a": 1}}', HISTORY),
        ('{"history": null}', HISTORY),
        (json.dumps({"history": ["secret"] * 1001}), HISTORY),
        ('{"top": 5}', HISTORY + "; it is missing"),
        ('{"history": ["a", true]}', "item 2 of the history is not a key"),
        ('{"history": [null]}', "item 1 of the history is not a key"),
        ('{"history": [NaN]}', "item 1 of the history is not a key"),
        ('{"history": ["a", " "]}', "item 2 of the history is not a key"),
        ('{"history": ["a", ["b"]]}', "item 2 of the history is not a key"),
        ('{"history": ["\\ud800"]}', "item 1 of the history is not a key"),
        ('{"history": ["a"], "tpo": 3}', "'tpo' is not a field; the fields are history, top, "),
        ('{"history": ["a"], "ratings": 3}', RATINGS),
        ('{"history": ["a"], "ratings": ["3"]}', RATINGS),
        ('{"history": ["a"], "ratings": [true]}', RATINGS),
        ('{"history": ["a"], "ratings": [NaN]}', RATINGS),
        ('{"history": ["a"], "\\ud800": 3}', "the name of a field is not valid Unicode"),
        ("[]", NO_OBJECT),
        ("null", NO_OBJECT),
        ('"a"', NO_OBJECT),
        ("", NO_OBJECT),
        ('{"history": ["a"', "the body is not valid JSON; send "),
        ("[" * 100_000, "the body is not valid JSON; send "),
        (f'{{"history": ["a"], "top": {"9" * 5000}}}', "the body is not valid JSON; send "),
    ],
)
def test_bad_input_is_a_422_of_one_sentence(client, body, detail):
    answer = client.post("/recommend", content=body.encode(), headers=JSON)
    assert answer.status_code == 422
    assert list(answer.json()) == ["detail"]
    assert answer.json()["detail"].startswith(detail)
    assert "secret" not in answer.text and len(answer.text) < 300


@pytest.mark.parametrize("header", [{}, {"Content-Type": "text/plain"}])
def test_the_missing_content_type_is_named(client, header):
    answer = client.post("/recommend", content=b'{"history": ["a"]}', headers=header)
    assert answer.status_code == 422
    assert "Content-Type: application/json" in answer.json()["detail"]


def test_a_long_field_name_is_truncated(client):
    answer = client.post("/recommend", json={"history": ["a"], "x" * 5000: 1})
    assert answer.status_code == 422 and len(answer.text) < 300


def test_keys_follow_the_rule_of_the_corpus(client):
    answer = client.post("/recommend", json={"history": ["a", 7, 7.0, " b "]})
    assert answer.json() == {"history": ["a", "7", "7", "b"], "top": 10}
