"""Who a request comes from: one table of what proxies say and what is believed of it, then over real connections."""

from __future__ import annotations

from collections.abc import Sequence

import httpx
import pytest

from gateway.app import create_app
from gateway.http.proxies import Proxies, parse_proxies
from gateway.http.server import serve_http
from p2pnet.errors import UsageError
from tests.gateway.fake_generate import FakeGenerate, answer, service

NOBODY: tuple[str, ...] = ()
LOCAL = ("127.0.0.1",)
TWO_HOPS = ("127.0.0.1", "10.0.0.0/8")
IPV6 = ("::1", "2001:db8:1::/48")

CASES: list[tuple[str, Sequence[str], str, list[str], str]] = [
    ("no proxy is trusted", NOBODY, "127.0.0.1", ["203.0.113.7"], "127.0.0.1"),
    ("no header", LOCAL, "127.0.0.1", [], "127.0.0.1"),
    ("an empty header", LOCAL, "127.0.0.1", [""], "127.0.0.1"),
    ("one hop", LOCAL, "127.0.0.1", ["203.0.113.7"], "203.0.113.7"),
    ("a stranger says who it is", LOCAL, "198.51.100.1", ["203.0.113.7"], "198.51.100.1"),
    ("a client makes up its beginning", LOCAL, "127.0.0.1", ["1.1.1.1, 203.0.113.7"], "203.0.113.7"),
    ("and calls itself the proxy", LOCAL, "127.0.0.1", ["127.0.0.1, 203.0.113.7"], "203.0.113.7"),
    ("in a header of its own", LOCAL, "127.0.0.1", ["1.1.1.1", "203.0.113.7"], "203.0.113.7"),
    ("two hops", TWO_HOPS, "127.0.0.1", ["203.0.113.7, 10.1.2.3"], "203.0.113.7"),
    ("two hops, spoofed", TWO_HOPS, "127.0.0.1", ["1.1.1.1, 203.0.113.7, 10.1.2.3"], "203.0.113.7"),
    ("two hops in two headers", TWO_HOPS, "127.0.0.1", ["1.1.1.1,203.0.113.7", "10.1.2.3"], "203.0.113.7"),
    ("the second hop is a stranger", LOCAL, "127.0.0.1", ["203.0.113.7, 10.1.2.3"], "10.1.2.3"),
    ("all of them are proxies", TWO_HOPS, "127.0.0.1", ["10.0.0.9, 10.1.2.3"], "10.0.0.9"),
    ("words instead of an address", LOCAL, "127.0.0.1", ["anybody"], "127.0.0.1"),
    ("words before an address", TWO_HOPS, "127.0.0.1", ["anybody, 10.1.2.3"], "10.1.2.3"),
    ("with a port", LOCAL, "127.0.0.1", ["203.0.113.7:4711"], "203.0.113.7"),
    ("IPv6 counts by its home", IPV6, "::1", ["2001:db8:2:3:4:5:6:7"], "2001:db8:2:3::/64"),
    ("IPv6 with a port", IPV6, "::1", ["[2001:db8:2:3::7]:4711"], "2001:db8:2:3::/64"),
    ("IPv6, two hops, spoofed", IPV6, "::1", ["::5, 2001:db8:2:3::7, 2001:db8:1::1"], "2001:db8:2:3::/64"),
    ("IPv6 without a proxy", NOBODY, "2001:db8:2:3::7", ["2001:db8:9::1"], "2001:db8:2:3::/64"),
    ("IPv4 in IPv6's dress is trusted", LOCAL, "::ffff:127.0.0.1", ["203.0.113.7"], "203.0.113.7"),
    ("and is itself", LOCAL, "127.0.0.1", ["::ffff:203.0.113.7"], "203.0.113.7"),
    ("no address at all", LOCAL, "testclient", ["203.0.113.7"], "testclient"),
]


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_what_is_believed(trusted: Sequence[str], peer: str, forwarded: list[str], expected: str) -> None:
    headers = [(b"host", b"x"), *((b"x-forwarded-for", value.encode()) for value in forwarded)]
    assert parse_proxies(trusted).caller_of(peer, headers) == expected


def test_the_header_is_read_as_bytes_that_strangers_send() -> None:
    headers = [(b"x-forwarded-for", b"\xff\x00, 203.0.113.7")]
    assert parse_proxies(LOCAL).caller_of("127.0.0.1", headers) == "203.0.113.7"


@pytest.mark.parametrize("given", ["proxy.example", "", "*", "10.0.0.1/8", "0.0.0.0/0", "::/0"])
def test_what_is_no_proxy_is_one_sentence_and_a_fix(given: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_proxies([given])
    assert "--trusted-proxy" in refused.value.fix


@pytest.mark.parametrize(("trusted", "expected"), [(LOCAL, "203.0.113.7"), (NOBODY, "127.0.0.1")])
async def test_the_queue_knows_a_caller_behind_a_proxy(trusted: Sequence[str], expected: str) -> None:
    generate = FakeGenerate(*answer("a"))
    proxies = parse_proxies(trusted) if trusted else Proxies()
    server = await serve_http(create_app(service(generate), proxies=proxies), "127.0.0.1", 0)
    body = {"model": "tiny", "prompt": "a"}
    headers = {"x-forwarded-for": "1.1.1.1, 203.0.113.7"}
    async with httpx.AsyncClient() as http:
        assert (await http.post(server.url + "/v1/completions", json=body, headers=headers)).status_code == 200
    await server.stop(drain_s=0)
    assert [caller.name for caller in generate.callers] == [expected]
