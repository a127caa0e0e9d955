"""`p2pnet swarm`: private swarms, which only members see and take part in."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from p2pnet.cli import options

if TYPE_CHECKING:
    from p2pnet.swarm.invitation import Invitation
    from p2pnet.swarm.ledger import Ledger
    from p2pnet.swarm.values import MemberValue

swarm = typer.Typer(
    name="swarm", help="Make private swarms, invite into them, join them and leave people out.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(help="What the swarm is called here.", metavar="NAME")]
Days = Annotated[
    float, typer.Option("--days", min=1, max=3650, help="Memberships that come of the invitation end after so long.")
]
JoinDays = Annotated[
    float,
    typer.Option(
        "--join-days",
        min=1,
        max=3650,
        help="The invitation is to be used within so long. It binds honest software alone.",
    ),
]
For = Annotated[str, typer.Option("--for", metavar="NOTE", help="Whom it is for: a note of yours, for `members`.")]


@swarm.command()
def create(
    name: Name,
    initial_peers: options.InitialPeers = [],
    note: For = "",
    days: Days = 90,
    join_days: JoinDays = 7,
) -> None:
    """Make a swarm, become its first member, and print an invitation for somebody else."""
    from p2pnet.cli.joining import swarm_folder
    from p2pnet.cli.settings import initial_peers_required
    from p2pnet.peer import now_ms
    from p2pnet.swarm import owner

    folder = swarm_folder(name)
    owner.create(folder, initial_peers_required(initial_peers), now_ms())
    invitation = owner.invite(folder, note, owner.Terms(days, join_days), now_ms())
    typer.echo(f"The swarm {name} is made. Its key is in {folder.path}: keep a copy of that folder.", err=True)
    _print_invitation(invitation)


@swarm.command()
def invite(name: Name, note: For = "", days: Days = 90, join_days: JoinDays = 7) -> None:
    """Print another invitation: one for each person, so that each can be revoked alone."""
    from p2pnet.cli.joining import swarm_folder
    from p2pnet.peer import now_ms
    from p2pnet.swarm import owner

    _print_invitation(owner.invite(swarm_folder(name), note, owner.Terms(days, join_days), now_ms()))


@swarm.command()
def join(
    invitation: Annotated[
        str | None,
        typer.Argument(metavar="[INVITATION]", help="The line. Left out, it is read from standard input."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="What to call the swarm here. Default: its own name.")
    ] = None,
) -> None:
    """Become a member of a swarm by an invitation, or stay one for longer by another."""
    from p2pnet.cli.joining import swarm_folder
    from p2pnet.peer import now_ms
    from p2pnet.swarm import owner
    from p2pnet.swarm.invitation import read_invitation

    if invitation is None and sys.stdin.isatty():
        typer.echo("Paste the invitation, and end the line:", err=True)
    read = read_invitation(sys.stdin.readline() if invitation is None else invitation, now_ms())
    folder = swarm_folder(name or read.name)
    owner.join(folder, read, now_ms())
    typer.echo(f"You are a member of {folder.name} until {_day(read.expires_ms)}.")
    typer.echo(f"Take part: p2pnet serve --swarm {folder.name} --model tiny, or p2pnet gateway --swarm {folder.name}")


@swarm.command()
def members(name: Name, as_json: options.Json = False) -> None:
    """List who is in the swarm now, and until when; where it was made, its invitations and what is revoked, too."""
    import asyncio

    from p2pnet.cli.directory_view import visiting
    from p2pnet.cli.joining import joining, swarm_folder
    from p2pnet.swarm.member_network import MemberNetwork

    async def seen() -> list[MemberValue]:
        async with visiting(network) as peer:
            assert isinstance(peer.network, MemberNetwork)
            return await peer.network.members()

    folder = swarm_folder(name)
    network = joining([], name)
    found = sorted(asyncio.run(seen()), key=lambda member: member.peer_id)
    ledger = folder.ledger() if folder.has_key else None
    if as_json:
        _print_json(found, ledger)
    else:
        _print_tables(found, ledger)


@swarm.command()
def revoke(
    name: Name,
    revoked_id: Annotated[
        str, typer.Argument(metavar="ID", help="An invitation's id, which ends all who came through it, or a peer's.")
    ],
) -> None:
    """End memberships. Members know within a minute; streams of those who are revoked are cut then."""
    import asyncio

    from p2pnet.cli.directory_view import visiting
    from p2pnet.cli.joining import Joining, joining, swarm_folder
    from p2pnet.errors import P2PNetError
    from p2pnet.peer import now_ms
    from p2pnet.swarm import owner
    from p2pnet.swarm.member_network import MemberNetwork

    async def is_told(network: Joining) -> bool:
        async with visiting(network) as peer:
            assert isinstance(peer.network, MemberNetwork)
            return await peer.network.upkeep.look()

    owner.revoke(swarm_folder(name), revoked_id, now_ms())
    try:
        told = asyncio.run(is_told(joining([], name)))
    except P2PNetError as error:
        told = False
        typer.echo(error.message, err=True)
    if told:
        typer.echo("It is revoked: members know within a minute.")
    else:
        typer.echo(
            "It is revoked, but nobody could be told. A peer of yours that runs with --swarm here tells the others; "
            "or revoke it again."
        )


def _print_invitation(invitation: Invitation) -> None:
    """The line alone goes to standard output."""
    typer.echo(invitation.to_line())
    typer.echo(
        f"Whoever has this line can join, until {_day(invitation.join_by_ms)}, with `p2pnet swarm join`. "
        f"Send it to one person, in private. Its id, for `p2pnet swarm revoke`: {invitation.invitation_id}",
        err=True,
    )


def _print_json(found: list[MemberValue], ledger: Ledger | None) -> None:
    import msgspec

    shown = [
        {
            "peer_id": member.peer_id,
            "invitation_id": member.certificate.invitation_id,
            "expires_ms": member.certificate.expires_ms,
        }
        for member in found
    ]
    own = {} if ledger is None else {"invitations": ledger.invitations, "revoked": ledger.revoked}
    print(msgspec.json.encode({"members": shown, **own}).decode())


def _print_tables(found: list[MemberValue], ledger: Ledger | None) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    console = Console()
    members = Table(Column("Member", overflow="fold"), Column("Came through", overflow="fold"), "Ends")
    for member in found:
        invitation_id = member.certificate.invitation_id
        note = "" if ledger is None else ledger.note_of(invitation_id)
        members.add_row(member.peer_id, escape(note) or invitation_id, _day(member.certificate.expires_ms))
    console.print(
        members if found else "No member is seen at the moment. Who has just come is seen after half a minute."
    )
    if ledger is None:
        return
    invitations = Table(Column("Invitation", overflow="fold"), "For", "Ends", "Revoked")
    for each in ledger.invitations:
        is_revoked = "yes" if each.invitation_id in ledger.revoked else ""
        invitations.add_row(each.invitation_id, escape(each.note), _day(each.expires_ms), is_revoked)
    console.print(invitations)
    for revoked_id in sorted(ledger.revoked.keys() - {each.invitation_id for each in ledger.invitations}):
        console.print(f"Revoked peer: {revoked_id}")


def _day(ms: int) -> str:
    import datetime

    return f"{datetime.datetime.fromtimestamp(ms / 1000).astimezone():%Y-%m-%d %H:%M}"
