"""Serves the recommender over HTTP as a Ray Serve deployment."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, BeforeValidator, Field
from ray import serve
from starlette.exceptions import HTTPException

from actors.serving.batches import Batches
from actors.serving.recommender import Recommendation, Recommender, RecommenderSpec
from minirec.corpus.files.parse import Malformed, identifier
from minirec.corpus.ids import known_key

LARGEST_HISTORY, LARGEST_TOP = 1000, 1000
SHOWN = 80  # an answer repeats at most this many characters of a request
EXAMPLE = '{"history": ["KEY"], "top": 10}'
NO_JSON = f"the body is not valid JSON; send {EXAMPLE}"
FIELDS = {
    "history": f"history must be a list of 1 to {LARGEST_HISTORY} item keys, oldest first",
    "top": f"top must be a whole number from 1 to {LARGEST_TOP}",
    "ratings": "ratings must be a list with a number for each item of the history",
}
LARGEST_BATCH = 32
Asked = tuple[tuple[int, ...], int, list[float] | None]
"""A history of item ids, the number of wanted items, and the ratings of the history."""

app = FastAPI(
    title="MiniRec recommender",
    description="Items for a history, ranked over the full catalogue by the trained policy.",
    docs_url=None,  # its page would load scripts from another server
    redoc_url=None,
)


def _item_key(value: Any) -> str:
    """An item key by the rule of the corpus, which also accepts numbers."""
    try:
        return identifier(value, "missing item")
    except Malformed as error:
        raise ValueError(str(error)) from None


class Query(BaseModel, extra="forbid"):
    """A history, the number of wanted items, and the ratings of the items of the history.

    Ratings are used only if the policy was trained with `corpus.choices`.
    """

    history: Annotated[
        list[Annotated[str, BeforeValidator(_item_key)]],
        Field(min_length=1, max_length=LARGEST_HISTORY, description="item keys, oldest first"),
    ]
    top: Annotated[int, Field(strict=True, ge=1, le=LARGEST_TOP, description="items wanted")] = 10
    ratings: Annotated[
        list[Annotated[float, Field(strict=True, allow_inf_nan=False)]] | None,
        Field(max_length=LARGEST_HISTORY, description="of the items of the history"),
    ] = None


class Item(BaseModel):
    """A recommended item.

    The answer has `score` only if the policy has a collaborative prior.
    """

    key: str
    title: str
    cosine: Annotated[float, Field(description="of the policy's hidden state and the item")]
    score: Annotated[
        float | None,
        Field(
            description="weight of the policy x cosine / temperature + prior; without a prior "
            "it is left out, and the cosine orders the items"
        ),
    ] = None


class Answer(BaseModel):
    """Items, best first, and the analysis that the policy wrote."""

    items: list[Item]
    analysis: str


class Problem(BaseModel):
    """What is wrong with a request, in one sentence."""

    detail: str


def problem(error: dict[str, Any], content_type: str) -> str:
    """One sentence about an invalid request that does not repeat its values.

    Args:
        error: an error that pydantic reports.
        content_type: of the request; empty if it has none.
    """
    field, kind = list(error["loc"][1:]), error["type"]
    if kind == "json_invalid":
        return NO_JSON
    if kind == "string_unicode":  # pydantic checks the names before the fields
        return f"the name of a field is not valid Unicode; send {EXAMPLE}"
    if not field:
        if kind != "missing" and "json" not in content_type:
            return "the body was not read; send it with the header Content-Type: application/json"
        return f"the body is not a JSON object; send {EXAMPLE}"
    if kind == "extra_forbidden":
        return f"{_short(field[0])} is not a field; the fields are {', '.join(FIELDS)}"
    if len(field) > 1 and field[0] == "history":
        return f"item {field[1] + 1} of the history is not a key; keys are text or whole numbers"
    return f"{FIELDS[field[0]]}; it is missing" if kind == "missing" else FIELDS[field[0]]


def _short(text: str) -> str:
    """Quoted, cut to `SHOWN` characters."""
    return repr(text[:SHOWN]) + ("..." if len(text) > SHOWN else "")


@app.exception_handler(RequestValidationError)
async def refuse(request: Request, error: RequestValidationError) -> Response:
    """422 with one sentence: FastAPI's own answer repeats the input, and fails for NaN."""
    detail = problem(error.errors()[0], request.headers.get("content-type", ""))
    return JSONResponse({"detail": detail}, status_code=422)


@app.exception_handler(HTTPException)
async def refuse_body(request: Request, error: HTTPException) -> Response:
    """422 instead of FastAPI's 400 for a body that it cannot parse, such as a deeply nested one."""
    if error.status_code == 400:
        return JSONResponse({"detail": NO_JSON}, status_code=422)
    return await http_exception_handler(request, error)


@serve.deployment
@serve.ingress(app)
class Recommendations:
    """One replica; it answers simultaneous requests in one batch."""

    def __init__(self, spec: RecommenderSpec):
        self.recommender = Recommender(spec)
        self.key_of = {item: key for key, item in self.recommender.keys.items()}
        self.batch = Batches(self._batch, largest=LARGEST_BATCH)

    @app.post("/recommend", responses={422: {"model": Problem}}, response_model_exclude_none=True)
    async def recommend(self, query: Query) -> Answer:
        """The best items that are not in the history."""
        keys = self.recommender.keys
        history = [known_key(key, keys) for key in query.history]
        unknown = next((key for key in history if key not in keys), None)
        if unknown is not None:
            raise HTTPException(422, f"no item has the key {_short(unknown)}")
        if query.ratings is not None and len(query.ratings) != len(history):
            raise HTTPException(422, FIELDS["ratings"])
        items = tuple(keys[key] for key in history)
        found = await self.batch((items, query.top, query.ratings))
        titles = self.recommender.titles
        nothing: list[float | None] = [None] * len(found.items)
        scores = found.scores or nothing
        rows = zip(found.items, found.cosines, scores, strict=True)
        best = [Item(key=self.key_of[i], title=titles[i], cosine=c, score=s) for i, c, s in rows]
        return Answer(items=best, analysis=found.analysis)

    @app.get("/healthz")
    async def healthz(self) -> dict[str, str]:
        """Answers while the replica lives."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz(self) -> dict[str, Any]:
        """Answers once the policy is loaded."""
        return {"status": "ready", "items": len(self.recommender.titles)}

    def _batch(self, asked: list[Asked]) -> list[Recommendation]:
        histories, top, ratings = zip(*asked, strict=True)
        return self.recommender.recommend(histories, top=top, ratings=ratings)


def application(spec: RecommenderSpec, *, replicas: int, queue: int) -> serve.Application:
    """The deployment: `replicas` processes with a policy each.

    `queue` requests may wait for a replica; further ones get status 503.
    """
    deployment = Recommendations.options(  # type: ignore[attr-defined]
        num_replicas=replicas,
        max_ongoing_requests=2 * LARGEST_BATCH,
        max_queued_requests=queue,
        ray_actor_options={"num_cpus": spec.threads, "num_gpus": spec.gpus},
    )
    return deployment.bind(spec)
