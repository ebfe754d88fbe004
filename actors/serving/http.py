"""The recommender behind HTTP, as a deployment of Ray Serve."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, BeforeValidator, Field
from ray import serve
from starlette.exceptions import HTTPException

from actors.serving.recommender import Recommendation, Recommender, RecommenderSpec
from minirec.corpus.ids import known_key
from minirec.corpus.parse import Malformed, identifier

LARGEST_HISTORY, LARGEST_TOP = 1000, 1000
SHOWN = 80  # characters of what a client sent that an answer repeats
EXAMPLE = '{"history": ["KEY"], "top": 10}'
FIELDS = {
    "history": f"history must be a list of 1 to {LARGEST_HISTORY} item keys, oldest first",
    "top": f"top must be a whole number from 1 to {LARGEST_TOP}",
}
LARGEST_BATCH = 32
BATCH_WAIT_S = 0.002

app = FastAPI(
    title="MiniRec recommender",
    description="Items for a history, ranked over the full catalogue by the trained policy.",
    docs_url=None,  # its page would load scripts from elsewhere
    redoc_url=None,
)


def _item_key(value: Any) -> str:
    """An item key by the rule of the corpus, which takes numbers too."""
    try:
        return identifier(value, "missing item")
    except Malformed as error:
        raise ValueError(str(error)) from None


class Query(BaseModel, extra="forbid"):
    """A history and how many items are wanted."""

    history: Annotated[
        list[Annotated[str, BeforeValidator(_item_key)]],
        Field(min_length=1, max_length=LARGEST_HISTORY, description="item keys, oldest first"),
    ]
    top: Annotated[int, Field(strict=True, ge=1, le=LARGEST_TOP, description="items wanted")] = 10


class Item(BaseModel):
    """An item of the answer."""

    key: str
    title: str
    cosine: float


class Answer(BaseModel):
    """Items, best first, and what the policy wrote before it ranked them."""

    items: list[Item]
    analysis: str


class Problem(BaseModel):
    """What is wrong with a request, in one sentence."""

    detail: str


def problem(error: dict[str, Any], content_type: str) -> str:
    """What is wrong with a request, in one sentence that repeats nothing of its values.

    Args:
        error: one of those that pydantic reports.
        content_type: of the request; empty where it has none.
    """
    field, kind = list(error["loc"][1:]), error["type"]
    if kind == "json_invalid":
        return f"the body is no JSON; send {EXAMPLE}"
    if kind == "string_unicode":  # pydantic looks at the names before it knows the fields
        return f"the name of a field is no valid Unicode; send {EXAMPLE}"
    if not field:
        if kind != "missing" and "json" not in content_type:
            return "the body was not read; send it with the header Content-Type: application/json"
        return f"the body is no JSON object; send {EXAMPLE}"
    if kind == "extra_forbidden":
        return f"{_short(field[0])} is no field; the fields are {' and '.join(FIELDS)}"
    if len(field) > 1:
        return f"item {field[1] + 1} of the history is no key; keys are text or whole numbers"
    return f"{FIELDS[field[0]]}; it is missing" if kind == "missing" else FIELDS[field[0]]


def _short(text: str) -> str:
    """Quoted, cut to `SHOWN` characters."""
    return repr(text[:SHOWN]) + ("..." if len(text) > SHOWN else "")


@app.exception_handler(RequestValidationError)
async def refuse(request: Request, error: RequestValidationError) -> Response:
    """422: FastAPI's own answer repeats the input, and NaN cannot be written as JSON."""
    said = problem(error.errors()[0], request.headers.get("content-type", ""))
    return JSONResponse({"detail": said}, status_code=422)


@app.exception_handler(HTTPException)
async def refuse_body(request: Request, error: HTTPException) -> Response:
    """422 for a body that FastAPI cannot parse, e.g. nested too deep, for which it has 400."""
    if error.status_code == 400:
        return JSONResponse({"detail": f"the body is no JSON; send {EXAMPLE}"}, status_code=422)
    return await http_exception_handler(request, error)


@serve.deployment
@serve.ingress(app)
class Recommendations:
    """One replica: it answers requests that came together in one batch."""

    def __init__(self, spec: RecommenderSpec):
        self.recommender = Recommender(spec)
        self.key_of = {item: key for key, item in self.recommender.keys.items()}

    @app.post("/recommend", responses={422: {"model": Problem}})
    async def recommend(self, query: Query) -> Answer:
        """Rank all items that are not in the history."""
        keys = self.recommender.keys
        history = [known_key(key, keys) for key in query.history]
        unknown = next((key for key in history if key not in keys), None)
        if unknown is not None:
            raise HTTPException(422, f"no item has the key {_short(unknown)}")
        found = await self.batch((tuple(keys[key] for key in history), query.top))
        titles = self.recommender.titles
        pairs = zip(found.items, found.cosines, strict=True)
        items = [Item(key=self.key_of[i], title=titles[i], cosine=c) for i, c in pairs]
        return Answer(items=items, analysis=found.analysis)

    @app.get("/healthz")
    async def healthz(self) -> dict[str, str]:
        """The replica answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz(self) -> dict[str, Any]:
        """The policy is loaded: a replica takes no request before."""
        return {"status": "ready", "items": len(self.recommender.titles)}

    @serve.batch(max_batch_size=LARGEST_BATCH, batch_wait_timeout_s=BATCH_WAIT_S)
    async def batch(self, asked: list[tuple[tuple[int, ...], int]]) -> list[Recommendation]:
        """Histories and how many items each wants."""
        histories, top = zip(*asked, strict=True)
        # In a thread, so that health is answered meanwhile.
        return await asyncio.to_thread(self.recommender.recommend, histories, top=top)


def application(spec: RecommenderSpec, *, replicas: int, queue: int) -> serve.Application:
    """The deployment.

    Args:
        spec: of the recommender.
        replicas: processes with a policy each.
        queue: requests that may wait for a replica; more are answered with 503.
    """
    deployment = Recommendations.options(  # type: ignore[attr-defined]
        num_replicas=replicas,
        max_ongoing_requests=2 * LARGEST_BATCH,
        max_queued_requests=queue,
        ray_actor_options={"num_cpus": spec.threads, "num_gpus": spec.gpus},
    )
    return deployment.bind(spec)
