"""Invitations into the public network: what `p2pnet invite` prints, and what `--invite` takes of either kind."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from p2pnet.cli.invite import draw
from p2pnet.cli.joining import joining
from p2pnet.cli.main import app
from p2pnet.cli.settings import BOOTSTRAP_FILE_VARIABLE, DATA_DIR_VARIABLE
from p2pnet.entrance.invitation_line import MAX_INVITED, to_line
from p2pnet.errors import UsageError
from tests.stories import address_of, peer

A, B = address_of(peer("ann")), address_of(peer("bob"))
LOCAL = f"/ip4/127.0.0.1/tcp/31337/p2p/{peer('ann').peer_id}"
QUIC = A.replace("/tcp/31337", "/udp/31337/quic-v1")


def printed(*arguments: str, **environment: str) -> tuple[str, str]:
    """What `p2pnet invite` says on standard output, and beside it. Raises what it raises."""
    result = CliRunner().invoke(app, ["invite", *arguments], env=environment)
    if result.exception is not None:
        raise result.exception
    return result.stdout, result.stderr


def through(*sources: str) -> list[str]:
    return [word for source in sources for word in ("--initial-peers", source)]


@pytest.mark.parametrize(
    ("named", "line"),
    [
        ([A], f"p2pnet-join:{A}"),
        ([QUIC, A], f"p2pnet-join:{A},{QUIC}"),
        ([LOCAL, A], f"p2pnet-join:{A}"),
        ([LOCAL], f"p2pnet-join:{LOCAL}"),
        ([A, "https://example.org"], f"p2pnet-join:https://example.org/.well-known/p2pnet,{A}"),
        (["/dnsaddr/example.org"], "p2pnet-join:/dnsaddr/example.org"),
    ],
)
def test_the_line_alone_is_on_standard_output(named: list[str], line: str) -> None:
    out, beside = printed(*through(*named))
    assert out == f"{line}\n"
    assert f"p2pnet serve --model tiny --invite {line}" in beside
    assert ("Only this machine can join so" in beside) == (named == [LOCAL])


def test_without_peers_it_is_what_the_bootstrap_file_lists(tmp_path: Path) -> None:
    (tmp_path / "peers").write_text(f"{B}  # at Bob's\n")
    assert printed(**{BOOTSTRAP_FILE_VARIABLE: str(tmp_path / "peers")})[0] == f"p2pnet-join:{B}\n"
    with pytest.raises(UsageError, match="There is no network to join"):
        printed()


def test_a_web_server_gets_the_document_to_answer() -> None:
    assert json.loads(printed("--json", *through(A, QUIC))[0]) == {"initial_peers": [A, QUIC]}


def test_the_qr_code_of_the_longest_line_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    draw(to_line([QUIC] * MAX_INVITED))
    out, drawn = capsys.readouterr()
    assert out == ""
    assert 20 < len(drawn.splitlines()) <= 40
    assert all(re.fullmatch(r"[ █▀▄]{20,80}", row) for row in drawn.splitlines())


# ---- --invite


def test_an_invitation_into_the_public_network_says_whom_to_join_through(tmp_path: Path) -> None:
    joined = joining((), None, to_line([A, B]), tmp_path)
    assert (joined.initial_peers, joined.membership, joined.folder) == ((A, B), None, None)


def test_one_into_a_swarm_makes_a_member_first_and_may_be_used_again(tmp_path: Path) -> None:
    owner = CliRunner().invoke(
        app, ["swarm", "create", "lab", *through(A)], env={DATA_DIR_VARIABLE: str(tmp_path / "owner")}
    )
    line = owner.stdout.strip()
    for _ in range(2):  # a service is started by the same flags again and again
        joined = joining((), None, line, tmp_path / "anna")
        assert joined.membership is not None and joined.membership.invitation.name == "lab"
        assert joined.initial_peers == (A,)
        assert joined.folder == tmp_path / "anna" / "swarms" / "lab"


@pytest.mark.parametrize(
    ("named", "swarm", "line", "said"),
    [
        ([A], None, to_line([B]), "--invite says which network to join"),
        ([], "lab", to_line([B]), "--invite says which network to join"),
        ([], None, A, "This is no invitation"),
        ([], None, to_line(["nonsense"]), "is not a multiaddr"),
        ([], None, "p2pnet-swarm:AAAA", "This is no invitation that can be used"),
    ],
)
def test_what_cannot_be_joined_by(named: list[str], swarm: str | None, line: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        joining(named, swarm, line, tmp_path)
