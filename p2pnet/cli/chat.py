"""`p2pnet chat`: talk to a model through a gateway, in the terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from p2pnet.cli import options
from p2pnet.cli.failing import print_error
from p2pnet.display.printable import visible
from p2pnet.display.wrapping import Wrapping
from p2pnet.errors import P2PNetError, UsageError
from p2pnet.features import CHAT
from p2pnet.loopback import is_loopback

if TYPE_CHECKING:
    import httpx

ANSWER_TIMEOUT_S = 300.0
"""Between two pieces of an answer; the gateway sends comments while it waits, so only a dead one takes this long."""

NOT_FOUND = 404

COMMAND = re.compile(r"/[a-z]+(\s|$)")
"""What is for us and not for the model. Paths are not."""

HELP = """\
/model        which models there are
/model NAME   go on with another one
/clear        forget what was said
/help         this
Ctrl-D        leave"""

MAX_SHOWN_MODELS = 20
"""Of those that are there, where another was asked for: as many as a terminal shows at once."""


def chat(
    model: Annotated[
        str | None, typer.Option("--model", envvar="P2PNET_CHAT_MODEL", help="Default: the first that chats.")
    ] = None,
    gateway: options.GatewayUrl = "http://127.0.0.1:8000",
    message: Annotated[
        str | None, typer.Option("--message", "-m", envvar="P2PNET_MESSAGE", help="Ask this, print the answer, leave.")
    ] = None,
    temperature: Annotated[
        float, typer.Option("--temperature", envvar="P2PNET_TEMPERATURE", min=0, max=2, help="0: always the same.")
    ] = 0.0,
    log_level: options.LogLevelOption = options.LogLevel.warning,
) -> None:
    """Chat with a model: interactively, with --message, or with a question on standard input."""
    import httpx

    from p2pnet.cli import logs

    logs.configure(log_level, is_json=False)
    try:
        with httpx.Client(
            base_url=gateway.rstrip("/"), timeout=ANSWER_TIMEOUT_S, trust_env=not is_loopback(gateway)
        ) as client:
            talk = Conversation(client, _first_model(client) if model is None else model, temperature)
            if message is not None:
                talk.ask(message)
            elif sys.stdin.isatty():
                _converse(talk)
            elif question := sys.stdin.read().strip():
                talk.ask(question)
    except (httpx.ConnectError, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise UsageError(
            f"There is no gateway at {gateway}.", "Start one with `p2pnet gateway`, or name another with --gateway."
        ) from error
    except httpx.HTTPError as error:
        raise UsageError(f"The gateway at {gateway} broke off: {error}.", "Try again.") from error


class Conversation:
    """One chat: what was said so far, and how the next answer is asked for and printed."""

    def __init__(self, client: httpx.Client, model: str, temperature: float) -> None:
        self._client = client
        self._temperature = temperature
        self._turns: list[dict[str, str]] = []
        self.model = model

    def clear(self) -> None:
        """Forget what was said."""
        self._turns = []

    def talk_to(self, model: str) -> None:
        """Go on with another model, which is told what was said so far. Raises UsageError where it is not there."""
        response = self._client.get(f"/v1/models/{quote(model, safe='')}")
        if response.status_code != 200:
            raise self._refusal(response)
        self.model = model

    def ask(self, question: str) -> None:
        """Print the answer as it comes, and remember both. Raises P2PNetError when there is none."""
        turns = [*self._turns, {"role": "user", "content": question}]
        body = {"model": self.model, "messages": turns, "temperature": self._temperature, "stream": True}
        pieces: list[str] = []
        with self._client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                response.read()
                raise self._refusal(response)
            show = _Shown()
            is_thinking = False
            try:
                for piece, is_thought in _pieces(response):
                    if is_thought != is_thinking:
                        is_thinking = is_thought
                        show("<think>\n" if is_thought else "\n</think>\n\n")
                    show(visible(piece, after=pieces[-1] if pieces else ""))
                    if not is_thought:
                        pieces.append(piece)
            finally:
                show("\n")
        self._turns = [*turns, {"role": "assistant", "content": "".join(pieces)}]

    def _refusal(self, response: httpx.Response) -> P2PNetError:
        """What the gateway says instead of an answer; of a model that it has not heard of, with those that it has."""
        said = _error_text(response)
        if response.status_code != NOT_FOUND:
            return P2PNetError(said)
        names = self.models()
        shown = ", ".join(names[:MAX_SHOWN_MODELS]) + (", ..." if len(names) > MAX_SHOWN_MODELS else "")
        return UsageError(
            said, f"Name one of these with --model: {shown}." if names else "No model that chats is there."
        )

    def models(self) -> list[str]:
        """Those that chat."""
        return [str(model["id"]) for model in _models(self._client) if CHAT in model["features"]]


class _Shown:
    """An answer as it comes. On a terminal its lines end between words; elsewhere it is as the model wrote it."""

    def __init__(self) -> None:
        self._wrapping = Wrapping(lambda: get_terminal_size().columns) if sys.stdout.isatty() else None

    def __call__(self, text: str) -> None:
        print(text if self._wrapping is None else self._wrapping.feed(text), end="", flush=True)


def _converse(talk: Conversation) -> None:
    import readline  # noqa: F401  line editing and history for input()

    print(f"Talking to {visible(talk.model)}. /help says what else there is, Ctrl-D leaves.")
    while True:
        try:
            line = input("> ")
        except EOFError:
            print()
            return
        if line.strip():
            try:
                if COMMAND.match(line):
                    print(_obeyed(talk, *line.split(maxsplit=1)))
                else:
                    talk.ask(line.strip())
            except P2PNetError as error:
                print_error(error)


def _obeyed(talk: Conversation, command: str, argument: str = "") -> str:
    """What is said after it. Raises P2PNetError where nothing was done."""
    if command == "/help":
        return HELP
    if command == "/clear":
        talk.clear()
        return "What was said is forgotten."
    if command != "/model":
        raise UsageError(f"There is no {command}.", "/help says what there is. With a space before it, it is said.")
    if not argument:
        models = talk.models()
        return "\n".join(f"{'*' if model == talk.model else ' '} {visible(model)}" for model in models)
    talk.talk_to(argument.strip())
    return f"Talking to {visible(talk.model)}."


def _pieces(response: httpx.Response) -> Iterator[tuple[str, bool]]:
    """The text of a stream of server-sent events, and whether the model only thinks it. Raises P2PNetError when it
    breaks before its end."""
    import msgspec

    for line in response.iter_lines():
        if not line.startswith("data: "):
            continue
        data = line.removeprefix("data: ")
        if data == "[DONE]":
            return
        event: dict[str, Any] = msgspec.json.decode(data)
        if "error" in event:
            raise P2PNetError(event["error"]["message"])
        for choice in event["choices"]:
            for name in ("reasoning_content", "content"):
                if piece := choice["delta"].get(name):
                    yield str(piece), name != "content"
    raise P2PNetError("the answer broke off")


def _first_model(client: httpx.Client) -> str:
    """The first model that chats."""
    model = next((model["id"] for model in _models(client) if CHAT in model["features"]), None)
    if model is None:
        raise UsageError(
            "No worker serves a model that chats at the moment.",
            "Start one with `p2pnet serve --model tiny --initial-peers ...`.",
        )
    return str(model)


def _models(client: httpx.Client) -> list[dict[str, Any]]:
    response = client.get("/v1/models")
    if response.status_code != 200:
        raise P2PNetError(_error_text(response))
    models: list[dict[str, Any]] = response.json()["data"]
    return models


def _error_text(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return f"the gateway answered with status {response.status_code}"
