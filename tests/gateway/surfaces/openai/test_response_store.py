"""Which responses are kept, for whom, for how long and how many; and requests that go on from one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from gateway.app import create_app
from gateway.http.limits import HttpLimits
from gateway.surfaces.openai.response_store import ENTRY_BYTES, MAX_KEPT_BYTES, ResponseStore
from p2pnet.messages import (
    ChatPrompt,
    Finished,
    GenerateRequest,
    ImagePart,
    Message,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from tests.gateway.fake_generate import FakeGenerate, Step, answer, service
from tests.images import data_url, png


class Site:
    """A store whose time passes when a test says so."""

    def __init__(self, max_bytes: int = MAX_KEPT_BYTES) -> None:
        self.now_s = 0.0
        self.store = ResponseStore(3600.0, lambda: self.now_s, max_bytes)

    def keep(self, number: int, caller: str = "ann", text: str = "x") -> None:
        output = [{"id": f"msg_{number}_0", "type": "message", "content": text}]
        self.store.keep(caller, {"id": f"resp_{number}", "output": output}, [{"role": "user", "content": "hi"}])

    def kept(self, caller: str = "ann") -> list[int]:
        return [number for number in range(100) if self.store.find(caller, f"resp_{number}") is not None]


def test_a_response_is_kept_with_all_that_was_said_before_it() -> None:
    site = Site()
    site.keep(1)
    kept = site.store.find("ann", "resp_1")
    said = {"id": "msg_1_0", "type": "message", "content": "x"}
    assert kept is not None and kept.conversation() == [{"role": "user", "content": "hi"}, said]
    assert site.store.find_item("ann", "msg_1_0") == said
    for unknown in ("msg_1_1", "msg_2_0", "msg_1", "msg", ""):
        assert site.store.find_item("ann", unknown) is None


def test_nobody_finds_the_responses_of_another() -> None:
    site = Site()
    site.keep(1)
    assert site.store.find("bob", "resp_1") is None
    assert site.store.find_item("bob", "msg_1_0") is None
    assert not site.store.forget("bob", "resp_1")
    assert site.store.forget("ann", "resp_1")
    assert (site.kept(), site.store.kept_bytes) == ([], 0)


def test_a_response_is_forgotten_after_its_time() -> None:
    site = Site()
    site.keep(1)
    site.now_s = 1800.0
    site.keep(2)
    site.now_s = 3599.0
    assert site.kept() == [1, 2]
    site.now_s = 3600.0
    assert site.kept() == [2]
    site.now_s = 5400.0
    assert (site.kept(), site.store.kept_bytes) == ([], 0)


def test_who_has_no_room_left_loses_its_oldest_and_nobody_elses() -> None:
    site = Site(max_bytes=100 * ENTRY_BYTES)
    site.keep(0, "bob")
    for number in range(1, 100):
        site.keep(number)
    kept = site.kept()
    assert kept == list(range(kept[0], 100)) and 20 < len(kept) < 60
    assert site.kept("bob") == [0]
    assert site.store.kept_bytes < 100 * ENTRY_BYTES


def test_what_is_too_large_by_itself_is_not_kept() -> None:
    site = Site(max_bytes=100 * ENTRY_BYTES)
    site.keep(1)
    site.keep(2, text="x" * 100 * ENTRY_BYTES)
    assert (site.kept(), site.store.kept_bytes) == ([], 0)


# ---- over HTTP

CALL = ToolCallDelta(0, "call_1", "weather", "{}")
CALLS: list[Step] = [*answer()[:1], TextDelta(tool_calls=(CALL,)), Finished("tool_calls", Usage(7, 3))]
TOOLS = [{"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}]
RESULT = {"type": "function_call_output", "call_id": "call_1", "output": "sunny"}
ASKED = Message("user", "hi")
CALLED = Message("assistant", "", (ToolCall("call_1", "weather", "{}"),))
CAME = Message("tool", "sunny", tool_call_id="call_1")


class Client:
    """Asks a gateway whose model calls a tool, and then says something."""

    def __init__(self, limits: HttpLimits) -> None:
        self.generate = FakeGenerate()
        self.generate.script = self._script
        app = create_app(service(self.generate), limits)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")

    def _script(self, request: GenerateRequest) -> list[Step]:
        assert isinstance(request.prompt, ChatPrompt)
        return answer("Yes.") if request.prompt.messages[-1].role == "tool" else CALLS

    async def ask(self, **fields: Any) -> httpx.Response:
        return await self.http.post("/v1/responses", json={"model": "tiny", "tools": TOOLS, **fields})

    def asked(self) -> tuple[Message, ...]:
        """The conversation that the model was shown last."""
        prompt = self.generate.requests[-1].prompt
        assert isinstance(prompt, ChatPrompt)
        return prompt.messages


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    given = Client(HttpLimits())
    async with given.http:
        yield given


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_request_goes_on_from_the_response_before(client: Client, is_stream: bool) -> None:
    assert (await client.ask(input="hi", stream=is_stream)).status_code == 200
    following = await client.ask(input=[RESULT], previous_response_id="resp_0123", instructions="be brief")
    assert following.json()["previous_response_id"] == "resp_0123"
    assert client.asked() == (Message("system", "be brief"), ASKED, CALLED, CAME)
    # And once more: what is kept is the whole conversation, without the instructions. (The id is the same here.)
    await client.ask(input="why?", previous_response_id="resp_0123")
    assert client.asked() == (ASKED, CALLED, CAME, Message("assistant", "Yes."), Message("user", "why?"))


async def test_an_image_of_an_earlier_turn_is_still_there(client: Client) -> None:
    await client.ask(input=[{"role": "user", "content": [{"type": "input_image", "image_url": data_url(png())}]}])
    await client.ask(input=[RESULT], previous_response_id="resp_0123")
    assert client.asked() == (Message("user", "", images=(ImagePart(png()),)), CALLED, CAME)


@pytest.mark.parametrize("reference", [{"type": "item_reference"}, {}])
async def test_an_input_may_refer_to_what_was_answered(client: Client, reference: dict[str, Any]) -> None:
    """As Vercel's SDK does in its second turn."""
    call = (await client.ask(input="hi")).json()["output"][0]
    asked = {"role": "user", "content": "hi"}
    response = await client.ask(input=[asked, {**reference, "id": call["id"]}, RESULT])
    assert response.status_code == 200
    assert client.asked() == (ASKED, CALLED, CAME)


async def test_a_response_that_is_kept_can_be_read_and_deleted(client: Client) -> None:
    made = (await client.ask(input="hi")).json()
    assert made["store"] is True
    assert (await client.http.get("/v1/responses/resp_0123")).json() == made
    gone = await client.http.delete("/v1/responses/resp_0123")
    assert gone.json() == {"id": "resp_0123", "object": "response", "deleted": True}
    for method in ("GET", "DELETE"):
        assert (await client.http.request(method, "/v1/responses/resp_0123")).status_code == 404


UNKNOWN = [
    ({"input": "x", "previous_response_id": "resp_0123"}, "previous_response_id"),
    ({"input": [{"type": "item_reference", "id": "fc_0123_0"}]}, "input[0].id"),
]


@pytest.mark.parametrize(("fields", "param"), UNKNOWN, ids=["a response", "an item"])
@pytest.mark.parametrize("store", [False, None])
async def test_what_is_not_kept_is_a_400_that_says_what_to_do(
    client: Client, fields: dict[str, Any], param: str, store: bool | None
) -> None:
    if store is False:
        assert (await client.ask(input="hi", store=False)).json()["store"] is False
    response = await client.ask(**fields)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert "send the whole input" in error["message"]


async def test_a_gateway_may_keep_none() -> None:
    client = Client(HttpLimits(keep_responses_s=0))
    async with client.http:
        assert (await client.ask(input="hi")).json()["store"] is False
        refused = await client.ask(input="hi", store=True)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "store")
        assert (await client.ask(**UNKNOWN[0][0])).status_code == 400
