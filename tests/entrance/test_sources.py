"""What may be named to join through: which is asked, which is refused, and what it comes to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from p2pnet.cli.lifecycle import Ready
from p2pnet.entrance import dnsaddr
from p2pnet.entrance.document import MAX_ENTRANCES, decode_document, encode_document
from p2pnet.entrance.invitation_line import MAX_INVITED, read_line, to_line
from p2pnet.entrance.remembered import MAX_REMEMBERED, Remembered
from p2pnet.entrance.sources import check_source, find_addresses, is_of_this_machine
from p2pnet.errors import UsageError
from tests.stories import address_of, peer

ANN, BOB = peer("ann"), peer("bob")
A, B = address_of(ANN), address_of(BOB)
HERE = f"/ip4/127.0.0.1/tcp/31337/p2p/{ANN.peer_id}"
PAGE = "https://example.org/.well-known/p2pnet"


def document(*addresses: str) -> bytes:
    return json.dumps({"initial_peers": addresses}).encode()


def serving(**bodies: bytes | UsageError) -> Callable[[str], object]:
    """A web of hosts by their first names."""

    async def fetch(url: str) -> bytes:
        body = bodies[url.split("//")[1].split(".")[0].split("/")[0]]
        if isinstance(body, UsageError):
            raise body
        return body

    return fetch


def zone(**texts: list[str]) -> dnsaddr.TxtLookup:
    """Domains by their first names. Others do not exist."""

    def lookup(name: str) -> list[str]:
        try:
            return texts[name.removeprefix("_dnsaddr.").split(".")[0]]
        except KeyError:
            raise UsageError(f"{name} was not found.", "Look for a typing error.") from None

    return lookup


# ---- forms


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        (A, A),
        ("/dnsaddr/example.org", "/dnsaddr/example.org"),
        (f"/dnsaddr/example.org/p2p/{ANN.peer_id}", f"/dnsaddr/example.org/p2p/{ANN.peer_id}"),
        (f"/dns4/example.org/tcp/31337/p2p/{ANN.peer_id}", f"/dns4/example.org/tcp/31337/p2p/{ANN.peer_id}"),
        ("https://example.org", PAGE),
        ("https://example.org/", PAGE),
        (PAGE, PAGE),
        ("https://example.org:8443/peers.json", "https://example.org:8443/peers.json"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/.well-known/p2pnet"),
        ("http://localhost:8000/x", "http://localhost:8000/x"),
        ("http://[::1]:8000/x", "http://[::1]:8000/x"),
        ("file:///run/bootstrap.json", "file:///run/bootstrap.json"),
    ],
)
def test_what_may_be_named(source: str, asked: str) -> None:
    assert check_source(source) == asked


@pytest.mark.parametrize(
    ("source", "said", "fix"),
    [
        ("example.org", "is not a multiaddr", "/ip4/203.0.113.7"),
        ("/ip4/203.0.113.7/tcp/31337", "does not say which peer", "Add the peer's id"),
        ("/dnsaddr/", "is not a multiaddr", "/dnsaddr/example.org"),
        ("http://example.org", "is not encrypted", "https://"),
        ("http://127.0.0.1.example.org", "is not encrypted", "https://"),
        ("ftp://example.org", "is not encrypted", "https://"),
        ("file://", "names no file here", "file:///run/p2pnet/bootstrap.json"),
        ("file://elsewhere/run/x", "names no file here", "file:///run/p2pnet/bootstrap.json"),
        ("https://anna:secret@example.org", "has a user name or password", "Leave them out"),
        ("https://", "is no URL", "https://example.org/.well-known/p2pnet"),
        ("https://[::1", "is no URL", "https://example.org"),
        ("https://example.org:99999", "is no URL", "https://example.org"),
        ("https://example.org/a,b", "is no URL", "https://example.org"),
        ("https://example.org/\nHost: x", "is no URL", "https://example.org"),
    ],
)
def test_what_may_not(source: str, said: str, fix: str) -> None:
    with pytest.raises(UsageError) as refused:
        check_source(source)
    assert said in refused.value.message
    assert fix in refused.value.fix
    assert "secret" not in refused.value.message


def test_what_says_nothing_elsewhere() -> None:
    assert [is_of_this_machine(one) for one in (A, HERE, PAGE, "http://127.0.0.1:8000", "/dnsaddr/example.org")] == [
        *(False, True, False, True, False)
    ]


# ---- pages


def test_addresses_are_those_of_all_that_is_named_each_once() -> None:
    fetch, lookup = serving(example=document(B, A)), zone(lab=[f"dnsaddr={B}", "v=spf1", f"dnsaddr={HERE}"])
    assert find_addresses([A, PAGE, "/dnsaddr/lab.org"], None, fetch, lookup) == (A, B, HERE)


def test_a_page_elsewhere_does_not_lead_to_this_machine() -> None:
    assert find_addresses([PAGE], None, serving(example=document(HERE, A))) == (A,)
    with pytest.raises(UsageError, match="addresses of its own machine only"):
        find_addresses([PAGE], None, serving(example=document(HERE)))
    assert find_addresses(["http://localhost:1"], None, serving(**{"localhost:1": document(HERE)})) == (HERE,)


def test_one_of_several_may_fail_but_not_all(caplog: pytest.LogCaptureFixture) -> None:
    gone = UsageError("It is gone.", "Wait.")
    assert find_addresses([PAGE, A], None, serving(example=gone)) == (A,)
    assert "It is gone. What else is known is joined through." in caplog.text
    with pytest.raises(UsageError, match="It is gone"):
        find_addresses([PAGE, "/dnsaddr/lab.org"], None, serving(example=gone), zone())
    with pytest.raises(UsageError, match="is not a multiaddr"):
        find_addresses([A, "nonsense"])


def test_what_a_name_came_to_is_remembered_for_when_it_says_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Given a page and a domain that were asked once, when neither answers, then their peers are joined through all the
    same; a file that is damaged, or cannot be written, keeps nobody from joining."""
    remembered, gone = Remembered(tmp_path / "entrances.json"), UsageError("It is gone.", "Wait.")
    names = [PAGE, "/dnsaddr/lab.org"]
    there = {"fetch": serving(example=document(A)), "lookup": zone(lab=[f"dnsaddr={B}"])}
    away = {"fetch": serving(example=gone), "lookup": zone()}
    assert find_addresses(names, remembered, **there) == (A, B)
    assert find_addresses(names, remembered, **away) == (A, B)
    assert caplog.text.count("What else is known is joined through.") == 2
    assert find_addresses([PAGE], remembered, serving(example=document(B))) == (B,)
    assert find_addresses([PAGE], remembered, serving(example=gone)) == (B,), "the last word counts"
    (tmp_path / "entrances.json").write_text("{")
    with pytest.raises(UsageError, match="It is gone"):
        find_addresses([PAGE], remembered, serving(example=gone))
    unwritable = Remembered(tmp_path / "entrances.json" / "in a file")
    assert find_addresses([PAGE], unwritable, serving(example=document(A))) == (A,)


def test_as_many_names_are_remembered_as_are_useful(tmp_path: Path) -> None:
    remembered = Remembered(tmp_path / "entrances.json")
    for number in range(MAX_REMEMBERED + 1):
        remembered.note(f"https://{number}.example", (A,))
    assert remembered.find("https://0.example") == ()
    assert remembered.find("https://1.example") == remembered.find(f"https://{MAX_REMEMBERED}.example") == (A,)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"<html>", b"\xff", b"[]", b"{}", b"[" * 10_000),
        *(document(), document(*[A] * (MAX_ENTRANCES + 1)), document("/" + "x" * 300)),
        b'{"initial_peers": "/ip4/203.0.113.7"}',
        b'{"initial_peers": [1]}',
    ],
)
def test_what_is_no_document(body: bytes) -> None:
    with pytest.raises(UsageError) as refused:
        decode_document(body, PAGE)
    assert refused.value.message == f"{PAGE} is no document of p2pnet's."
    assert "p2pnet invite --json" in refused.value.fix


def test_a_document_may_say_more_and_is_read_as_it_was_written() -> None:
    assert decode_document(json.dumps({"version": 2, "initial_peers": [A]}).encode(), PAGE) == (A,)
    assert decode_document(encode_document([A, B]), PAGE) == (A, B)
    assert decode_document(document(f"/dnsaddr/lab.org/p2p/{ANN.peer_id}", A), PAGE) == (A,)
    assert decode_document(encode_document([HERE, A]), PAGE) == (A,)
    with pytest.raises(UsageError, match="does not say which peer"):
        decode_document(document("/ip4/203.0.113.7/tcp/31337"), PAGE)


# ---- ready files


def test_another_command_on_this_machine_is_joined_through_by_its_ready_file(tmp_path: Path) -> None:
    file = tmp_path / "a file.json"
    source = file.as_uri()
    with pytest.raises(UsageError, match="cannot be read: No such file") as refused:
        find_addresses([source])
    assert "--ready-file" in refused.value.fix
    file.write_bytes(msgspec.json.encode(Ready(ANN.peer_id, (HERE, A), http="http://127.0.0.1:8000")))
    assert find_addresses([source]) == (HERE, A)
    assert is_of_this_machine(source)
    for wrong in (b"", b"[]", b'{"addresses": "x"}', b"\xff"):
        file.write_bytes(wrong)
        with pytest.raises(UsageError, match="is no ready file"):
            find_addresses([source])


# ---- domains

WITH_ID = f"/dnsaddr/lab.org/p2p/{ANN.peer_id}"


@pytest.mark.parametrize(
    ("asked", "records", "found"),
    [
        ("/dnsaddr/lab.org", {"lab": [f"dnsaddr={A}", f"dnsaddr={B}"]}, (A, B)),
        ("/dnsaddr/lab.org", {"lab": [A, "dnsaddr=nonsense", "dnsaddr=/ip4/203.0.113.7/tcp/1", f"dnsaddr={A}"]}, (A,)),
        (WITH_ID, {"lab": [f"dnsaddr={B}", f"dnsaddr={A}"]}, (A,)),
        ("/dnsaddr/lab.org", {"lab": ["dnsaddr=/dnsaddr/one.lab.org"], "one": [f"dnsaddr={A}"]}, (A,)),
        (WITH_ID, {"lab": [f"dnsaddr=/dnsaddr/one.org/p2p/{ANN.peer_id}"], "one": [f"dnsaddr={A}"]}, (A,)),
        ("/dnsaddr/lab.org", {"lab": ["dnsaddr=/dnsaddr/lab.org", f"dnsaddr={A}"]}, (A,)),
        ("/dnsaddr/lab.org", {"lab": ["dnsaddr=" + "/p2p-circuit" * 100, f"dnsaddr={A}"]}, (A,)),
    ],
)
def test_what_a_domain_stands_for(asked: str, records: dict[str, list[str]], found: tuple[str, ...]) -> None:
    assert dnsaddr.resolve(asked, zone(**records)) == found


@pytest.mark.parametrize(
    ("asked", "records"),
    [("/dnsaddr/lab.org", {"lab": []}), (WITH_ID, {"lab": [f"dnsaddr={B}"]}), ("/dnsaddr/lab.org", {"lab": [A]})],
)
def test_a_domain_that_stands_for_nobody(asked: str, records: dict[str, list[str]]) -> None:
    with pytest.raises(UsageError, match=r"_dnsaddr.lab.org name no peer that /dnsaddr/lab.org") as refused:
        dnsaddr.resolve(asked, zone(**records))
    assert "--initial-peers" in refused.value.fix


def test_a_domain_that_leads_on_for_ever_is_asked_a_few_times() -> None:
    asked: list[str] = []

    def lookup(name: str) -> list[str]:
        asked.append(name)
        return [f"dnsaddr=/dnsaddr/a{len(asked)}.org", f"dnsaddr=/dnsaddr/b{len(asked)}.org"]

    with pytest.raises(UsageError):
        dnsaddr.resolve("/dnsaddr/lab.org", lookup)
    assert len(asked) == dnsaddr.MAX_LOOKUPS


# ---- invitations


def test_an_invitation_is_read_as_it_was_written() -> None:
    line = to_line([A, PAGE, "/dnsaddr/lab.org"])
    assert read_line(f"  {line}\n") == (A, PAGE, "/dnsaddr/lab.org")
    assert line.isascii() and not set(line) & set(" '\"$&;<>|\\`"), "no shell takes it for something else"
    assert len(read_line(to_line([A] * 10))) == MAX_INVITED


@pytest.mark.parametrize(
    "line", ["", A, "p2pnet-join:", "p2pnet-join:,", f"p2pnet-join:{A},", "p2pnet-join:" + "x," * 9]
)
def test_what_is_no_invitation(line: str) -> None:
    with pytest.raises(UsageError, match="This is no invitation") as refused:
        read_line(line)
    assert refused.value.fix == "Copy the whole line, or ask for another invitation."
