"""What strangers say, on the terminal of who reads it: `p2pnet chat`, its errors, and logs do nothing but show it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

import httpx
import pytest

from p2pnet.cli.chat import Conversation
from p2pnet.cli.logs import PlainFormatter
from p2pnet.errors import P2PNetError
from tests.e2e.scripted import scripted
from tests.processes import processes, run

TITLE = "\x1b]0;owned\x07"
TURNED = "\u202eexe.txt"
OVERWRITTEN = "harmless\rrm -rf /"
SAYS = f"Hello {TITLE} {TURNED} {OVERWRITTEN} end\nof it"
SHOWN = r"Hello \x1b]0;owned\x07 \u202eexe.txt harmless\rrm -rf / end" + "\nof it"


def gateway_that_answers(*deltas: str, error: str | None = None) -> Callable[[httpx.Request], httpx.Response]:
    """A gateway of a stranger."""
    events: list[object] = [{"choices": [{"delta": {"content": delta}}]} for delta in deltas]
    if error is not None:
        events.append({"error": {"message": error}})
    lines = [f"data: {json.dumps(event)}\n\n" for event in events] + ["data: [DONE]\n\n"]
    return lambda _: httpx.Response(200, text="".join(lines))


def talk_with(answer: Callable[[httpx.Request], httpx.Response]) -> Conversation:
    client = httpx.Client(base_url="http://gateway", transport=httpx.MockTransport(answer))
    return Conversation(client, "tiny", 0.0)


@pytest.mark.parametrize("deltas", [(SAYS,), tuple(SAYS)], ids=["at once", "a character each"])
def test_an_answer_is_shown_and_does_nothing(deltas: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    talk_with(gateway_that_answers(*deltas)).ask("?")
    assert capsys.readouterr().out == SHOWN + "\n"


def test_the_model_is_told_what_it_said(capsys: pytest.CaptureFixture[str]) -> None:
    """The next turn is asked with the answer as it was, not as it was shown."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.content.decode())
        return gateway_that_answers(SAYS)(request)

    talk = talk_with(answer)
    talk.ask("first")
    talk.ask("second")
    assert json.loads(asked[1])["messages"][1] == {"role": "assistant", "content": SAYS}


def test_an_error_in_mid_answer_keeps_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(P2PNetError) as raised:
        talk_with(gateway_that_answers("so far", error=TITLE)).ask("?")
    assert raised.value.message == TITLE, "who prints it makes it visible"


def test_a_log_line_shows_what_it_quotes() -> None:
    record = logging.LogRecord("p2pnet", logging.WARNING, "f.py", 1, "a peer said %s", (f"{TITLE}{TURNED}",), None)
    assert PlainFormatter().format(record).endswith(r"a peer said \x1b]0;owned\x07\u202eexe.txt")


@pytest.mark.timeout(120)
def test_a_worker_of_a_stranger_reaches_no_terminal() -> None:
    """Given a worker whose model says escape codes, when somebody chats with it through a real gateway, then their
    terminal gets none; and an error of a gateway that is none is as harmless."""
    with processes("terminals") as start:
        bootstrap = start.bootstrap()
        peer = bootstrap.wait_ready().address
        worker = scripted(start, peer, "sly", SAYS)
        gateway = start.gateway(peer=peer)
        worker.wait_ready()
        url = gateway.wait_ready().http
        assert url is not None
        told = run("chat", "--gateway", url, "--model", "sly", "-m", "Hello", root=start.root)
        assert (told.status, told.stderr) == (0, "")
        assert told.stdout == SHOWN + "\n"
        refused = run("chat", "--gateway", url, "--model", f"n{TITLE}{TURNED}", "-m", "Hello", root=start.root)
        assert refused.status == 1
        assert not set(refused.stderr) & {"\x1b", "\x07", "\u202e"}
