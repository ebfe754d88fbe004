"""The recommender behind HTTP, as a deployment of Ray Serve."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field
from ray import serve

from actors.recommending import Recommendation, Recommender, RecommenderSpec

LARGEST_BATCH = 32
BATCH_WAIT_S = 0.002

app = FastAPI(
    title="MiniRec recommender",
    description="Items for a history, ranked over the full catalogue by the trained policy.",
    docs_url=None,  # its page would load scripts from elsewhere
    redoc_url=None,
)


class Query(BaseModel, extra="forbid"):
    """A history and how many items are wanted."""

    history: Annotated[
        list[str], Field(min_length=1, max_length=1000, description="item keys, oldest first")
    ]
    top: Annotated[int, Field(ge=1, le=1000, description="items wanted")] = 10


class Item(BaseModel):
    """An item of the answer."""

    key: str
    title: str
    cosine: float


class Answer(BaseModel):
    """Items, best first, and what the policy wrote before it ranked them."""

    items: list[Item]
    analysis: str


@serve.deployment
@serve.ingress(app)
class Recommendations:
    """One replica: it answers requests that came together in one batch."""

    def __init__(self, spec: RecommenderSpec):
        self.recommender = Recommender(spec)
        self.key_of = {item: key for key, item in self.recommender.keys.items()}

    @app.post("/recommend")
    async def recommend(self, query: Query) -> Answer:
        """Rank all items that are not in the history."""
        keys = self.recommender.keys
        unknown = next((key for key in query.history if key not in keys), None)
        if unknown is not None:
            raise HTTPException(422, f"no item has the key {unknown!r}")
        found = await self.batch((tuple(keys[key] for key in query.history), query.top))
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
