"""Whether a peer's clock lets it take part, by what the peers it joins through say of theirs."""

from __future__ import annotations

import pytest

from p2pnet.errors import JoinError, PeerUnreachable
from p2pnet.network.interface import Meeting
from p2pnet.network.memory import MemoryNetwork, MemoryWorld
from p2pnet.peer import check_clock
from tests.stories import peer


class Clocks(MemoryNetwork):
    """A network where each address is a clock: by how many seconds it is ahead; nothing where it does not say, and
    "gone" where nobody answers."""

    async def meet(self, address: str) -> Meeting:
        if address == "gone":
            raise PeerUnreachable("nobody answers")
        return Meeting(0.0, float(address) if address else None)


CASES: list[tuple[str, list[str], str | None]] = [
    ("nobody to ask", [], None),
    ("nobody answers", ["gone", "gone"], None),
    ("nobody says", [""], None),
    ("it is right", ["0.5"], None),
    ("it is near enough", ["-4.9"], None),
    ("it is behind", ["3600"], "3600 seconds"),
    ("it is ahead", ["-30"], "30 seconds"),
    ("one agrees", ["3600", "gone", "", "1"], None),
    ("none of those that answer agrees", ["3600", "gone", "", "-20"], "20 seconds"),
]


@pytest.mark.parametrize(("addresses", "refused"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
async def test_a_peer_whose_clock_no_other_shares_does_not_take_part(addresses: list[str], refused: str | None) -> None:
    network = Clocks(MemoryWorld(lambda stored: True), peer("own").peer_id)
    if refused is None:
        await check_clock(network, addresses)
        return
    with pytest.raises(JoinError, match=refused) as error:
        await check_clock(network, addresses)
    assert "Set the clock" in error.value.fix
