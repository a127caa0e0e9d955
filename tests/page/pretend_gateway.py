"""A gateway that shows what a test says: the real page, over data that no swarm on one machine would give.

Two hundred workers, names that attack, a gateway that goes away. Runs in a thread of its own, since the browser's
driver holds the test's.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from gateway.http.page import page, read_files
from gateway.http.server import HttpServer, serve_http

Sections = dict[str, Any]

JOIN = {
    "initial_peers": ["/ip4/203.0.113.7/tcp/31337/p2p/12D3KooWGatewaysBootstrapGatewaysBootstrapGatewaysBoot"],
    "swarm": None,
    "command": "p2pnet serve --model tiny --initial-peers "
    "/ip4/203.0.113.7/tcp/31337/p2p/12D3KooWGatewaysBootstrapGatewaysBootstrapGatewaysBoot",
}


class PretendGateway:
    """`show` is seen at once by every page that is open. `hang_up` ends their connections, and refuses new ones until
    `come_back`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.url = ""
        self.way: dict[str, Any] = JOIN
        self.requests: list[Sections] = []
        self.says: list[Sections] = [{"content": "Yes."}]
        """The deltas of each answer."""
        self.asked: list[Sections] = []
        self._loop = loop
        self._sections: Sections = {}
        self._is_there = True
        self._changed = asyncio.Event()

    def show(self, sections: Sections) -> None:
        self._in_loop(lambda: self._sections.update(sections))

    def hang_up(self) -> None:
        self._in_loop(lambda: setattr(self, "_is_there", False))

    def come_back(self) -> None:
        self._in_loop(lambda: setattr(self, "_is_there", True))

    def _in_loop(self, change: Any) -> None:
        def run() -> None:
            change()
            self._changed.set()
            self._changed = asyncio.Event()

        self._loop.call_soon_threadsafe(run)

    def application(self) -> FastAPI:
        app = FastAPI()
        app.include_router(page(read_files()))

        @app.get("/p2pnet/v1/live")
        async def live() -> Any:
            if not self._is_there:
                return JSONResponse({"error": {"message": "the gateway is stopping"}}, 503)
            return StreamingResponse(self._events(), media_type="text/event-stream")

        @app.get("/p2pnet/v1/workers")
        async def workers(worker: str | None = None) -> Any:
            return JSONResponse(self._workers(worker))

        @app.get("/p2pnet/v1/requests")
        async def requests(worker: str | None = None, request_id: str | None = None) -> Any:
            return JSONResponse(self._requests(worker, request_id))

        @app.get("/p2pnet/v1/join")
        async def join() -> Any:
            return JSONResponse(self.way)

        @app.post("/v1/chat/completions")
        async def chat(request: Request) -> Any:
            self.asked.append(await request.json())
            chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in self.says]
            events = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
            return StreamingResponse(iter([*events, "data: [DONE]\n\n"]), media_type="text/event-stream")

        return app

    def _workers(self, wanted: str | None) -> Sections:
        known = self._sections["workers"]["workers"]
        found = [worker for worker in known if wanted in (None, worker["id"])]
        return {"workers": found, "total": len(found)}

    def _requests(self, worker: str | None, request_id: str | None) -> Sections:
        found = [
            report
            for report in self.requests
            if request_id in (None, report["request_id"])
            and worker in (None, *(attempt["worker"] for attempt in report["attempts"]))
        ]
        return {"requests": found, "next_before": None}

    async def _events(self) -> AsyncIterator[str]:
        sent: Sections = {}
        while self._is_there:
            changed = self._changed
            for name, section in self._sections.items():
                if sent.get(name) != section:
                    told = section if name != "workers" else _changes(section, sent.get(name))
                    sent[name] = section
                    yield f"event: {name}\ndata: {json.dumps(told)}\n\n"
            await changed.wait()


def _changes(section: Sections, before: Sections | None) -> Sections:
    """Of workers only what is new is told."""
    known = {worker["id"]: worker for worker in (before or {"workers": []})["workers"]}
    now = {worker["id"]: worker for worker in section["workers"]}
    changed = [worker for worker in now.values() if known.get(worker["id"]) != worker]
    return {"changed": changed, "gone": [one for one in known if one not in now], "total": section["total"]}


@contextmanager
def pretend_gateway() -> Iterator[PretendGateway]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="pretend-gateway")
    thread.start()
    gateway = PretendGateway(loop)

    async def start() -> HttpServer:
        return await serve_http(gateway.application(), "127.0.0.1", 0)

    server = asyncio.run_coroutine_threadsafe(start(), loop).result()
    gateway.url = server.url
    try:
        yield gateway
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(0), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
