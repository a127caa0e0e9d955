"""`p2pnet swarm` as a command, without a network: what it prints, keeps and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from p2pnet.cli.joining import joining
from p2pnet.cli.main import app
from p2pnet.cli.settings import DATA_DIR_VARIABLE
from p2pnet.errors import UsageError
from tests.stories import address_of, peer

PEER = address_of(peer("bootstrap"))
OTHER = address_of(peer("other bootstrap"))


class User:
    """Somebody with a data folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {DATA_DIR_VARIABLE: str(folder), "COLUMNS": "200"}

    def __call__(self, *arguments: str, stdin: str = "") -> str:
        """What `p2pnet swarm` prints on standard output. Raises what it raises."""
        result = CliRunner().invoke(app, ["swarm", *arguments], input=stdin, env=self.environment)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout


@pytest.fixture
def owner(tmp_path: Path) -> User:
    return User(tmp_path / "owner")


@pytest.fixture
def anna(tmp_path: Path) -> User:
    return User(tmp_path / "anna")


def test_the_invitation_alone_is_on_standard_output(owner: User, anna: User) -> None:
    for line in (owner("create", "lab", "--initial-peers", PEER), owner("invite", "lab", "--for", "anna")):
        assert line.startswith("p2pnet-swarm:") and line.count("\n") == 1
    assert "You are a member of lab until" in anna("join", stdin=line)
    assert "You are a member of work until" in anna("join", line.strip(), "--name", "work")
    assert {path.name for path in (anna.folder / "swarms").iterdir()} == {"lab", "work"}


def test_what_is_refused_says_what_to_do(owner: User, anna: User) -> None:
    line = owner("create", "lab", "--initial-peers", PEER)
    for user, arguments, reason in (
        (owner, ("create", "lab", "--initial-peers", PEER), "already"),
        (owner, ("create", "other", "--initial-peers", "localhost"), "is not a multiaddr"),
        (owner, ("create", "a/b", "--initial-peers", PEER), "cannot be called"),
        (owner, ("revoke", "lab", "anna"), "neither a peer nor an invitation"),
        (owner, ("join", line), "was made here"),
        (anna, ("invite", "lab"), "is not here"),
        (anna, ("members", "lab"), "no swarm called lab"),
        (anna, ("join", "hello"), "is no invitation"),
        (anna, ("join",), "is no invitation"),
    ):
        with pytest.raises(UsageError, match=reason) as caught:
            user(*arguments)
        assert caught.value.fix
    assert not (owner.folder / "swarms" / "other").exists()


@pytest.mark.parametrize(("named", "through"), [([], PEER), ([OTHER], OTHER)])
def test_a_swarm_is_joined_through_its_invitations_peers_unless_others_are_named(
    owner: User, named: list[str], through: str
) -> None:
    owner("create", "lab", "--initial-peers", PEER)
    joined = joining(named, "lab", data=owner.folder)
    assert joined.initial_peers == (through,)
    assert joined.folder == owner.folder / "swarms" / "lab"
    assert joined.membership is not None and joined.membership.invitation.name == "lab"
    public = joining([OTHER], None)
    assert (public.initial_peers, public.membership, public.folder) == ((OTHER,), None, None)
