"""The obvious forwarder, to measure against: FastAPI in front, httpx behind.

`UPSTREAM=URL uvicorn naive:app`.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse


@asynccontextmanager
async def _client(application: FastAPI) -> AsyncIterator[None]:
    async with httpx.AsyncClient(base_url=os.environ["UPSTREAM"], limits=httpx.Limits(max_connections=256)) as client:
        application.state.client = client
        yield


app = FastAPI(lifespan=_client)


@app.post("/v1/chat/completions")
async def chat(request: Request) -> Response:
    """Forward one request."""
    body = await request.json()
    client: httpx.AsyncClient = request.app.state.client
    if not body.get("stream"):
        reply = await client.post("/v1/chat/completions", json=body)
        return Response(reply.content, reply.status_code, media_type="application/json")

    async def pieces() -> AsyncIterator[bytes]:
        async with client.stream("POST", "/v1/chat/completions", json=body) as stream:
            async for piece in stream.aiter_bytes():
                yield piece

    return StreamingResponse(pieces(), media_type="text/event-stream")
