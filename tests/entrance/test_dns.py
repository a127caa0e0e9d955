"""TXT records out of a name server on loopback."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import dns.message
import dns.rcode
import dns.rrset
import pytest

from p2pnet.entrance.dnsaddr import look_up, resolve
from p2pnet.errors import UsageError
from tests.stories import address_of, peer

ADDRESS = address_of(peer("ann"))
NAME = "_dnsaddr.lab.example."


@contextmanager
def name_server(*texts: str) -> Iterator[tuple[str, int]]:
    """Knows one name, with these texts in the quoted form of zone files."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def serve() -> None:
            while (packet := server.recvfrom(4096))[0]:
                query = dns.message.from_wire(packet[0])
                reply = dns.message.make_response(query)
                if str(query.question[0].name) == NAME:
                    reply.answer.append(dns.rrset.from_text(NAME, 60, "IN", "TXT", *texts))
                else:
                    reply.set_rcode(dns.rcode.NXDOMAIN)
                server.sendto(reply.to_wire(), packet[1])

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ending:
                ending.sendto(b"", server.getsockname())
            thread.join()


def test_texts_are_put_together_from_their_parts() -> None:
    half = len(ADDRESS) // 2
    with name_server(f'"dnsaddr={ADDRESS[:half]}" "{ADDRESS[half:]}"', '"v=spf1 -all"') as server:
        assert sorted(look_up("_dnsaddr.lab.example", [server])) == [f"dnsaddr={ADDRESS}", "v=spf1 -all"]
        assert resolve("/dnsaddr/lab.example", lambda name: look_up(name, [server])) == (ADDRESS,)


def test_a_name_that_is_not_there_is_said() -> None:
    with (
        name_server('"x"') as server,
        pytest.raises(UsageError, match=r"_dnsaddr.other.example were not found") as said,
    ):
        look_up("_dnsaddr.other.example", [server])
    assert "typing error" in said.value.fix


def test_a_name_that_is_none_is_said() -> None:
    with pytest.raises(UsageError, match="were not found"):
        look_up("_dnsaddr." + "a" * 64 + ".example", [("127.0.0.1", 9)])
