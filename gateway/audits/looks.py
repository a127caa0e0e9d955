"""Asks one auditor to look at one answer. Draws no conclusion."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from gateway.audits.evidence import Calibration
from gateway.peers.worker import Worker
from p2pnet.client import score
from p2pnet.config import ExchangeTimeouts
from p2pnet.errors import (
    Busy,
    ContextOverflow,
    Draining,
    FeatureMissing,
    InvalidRequest,
    NotAllowed,
    P2PNetError,
    PeerSilent,
    PeerUnreachable,
)
from p2pnet.features import SCORE
from p2pnet.messages import Accepted
from p2pnet.network.interface import Network
from p2pnet.score_messages import MAX_MARGIN, Scored, ScoreRequest

LOOK_S = 120.0
"""How long an auditor has for one look. It comes after all answers there, so it may take long; nobody waits for it."""

NO_FAULT = (Busy, Draining, NotAllowed, PeerUnreachable, ContextOverflow)
"""What an auditor may answer again and again and be of its digest all the same: it has no time, is not to be reached,
or has less memory than whoever gave the answer."""


@dataclass(frozen=True)
class Look:
    """What an auditor says: the margins of the tokens, in logits, and those of the end, of the text and of how many
    tokens the prompt has, as far as they were asked for."""

    margins: tuple[float, ...]
    end: float | None = None
    text: float | None = None
    prompt: float | None = None

    @property
    def positions(self) -> int:
        return len(self.margins) + (self.end is not None)

    def log_likelihood(self, calibration: Calibration) -> float:
        """Of the tokens, with the end."""
        return calibration.log_likelihood(sum(self.margins) + (self.end or 0.0), self.positions)

    def log_likelihood_once(self, calibration: Calibration) -> float:
        """Of what an answer has once, as of one token: of these the largest, since honest workers have 0 in all but the
        end. 0 where none was asked for."""
        once = [each for each in (self.end, self.text, self.prompt) if each is not None]
        return calibration.log_likelihood(max(once), 1) if once else 0.0

    def doubt(self, calibration: Calibration) -> float:
        """More than 0 where it speaks against the worker."""
        return max(self.log_likelihood(calibration), self.log_likelihood_once(calibration))


GIVEN_IDS = ("token_ids", "resume_tokens")
"""The fields of a request to look that come from the worker whose answer it is. What it went on after is among them: an
honest one would have refused ids that its model does not have."""

IMPOSSIBLE = Look((MAX_MARGIN,))
"""Of an answer in which there are ids that the model does not have: one token at full margin, whatever else there is.
It must not be nothing, or a cheat would add one to all that it gives."""


async def look(
    network: Network,
    auditor: Worker,
    request: ScoreRequest,
    timeouts: ExchangeTimeouts,
    prompt_tokens: int | None = None,
) -> Look:
    """Have it look: that takes none of its slots. `prompt_tokens` are those that the worker says the prompt has: who
    says too many may end before `max_tokens`. Raises what the auditor fails with, PeerSilent after LOOK_S."""
    margins: list[float] = []
    end: float | None = None
    text: float | None = None
    prompt: float | None = None
    events = score(network, auditor.peer_id, request, auditor.record.addresses, timeouts)
    try:
        async with asyncio.timeout(LOOK_S):
            async for event in events:
                if isinstance(event, Scored):
                    margins += event.values
                    end, text = event.end, event.text
                elif isinstance(event, Accepted) and prompt_tokens is not None:
                    prompt = 0.0 if event.prompt_tokens == prompt_tokens else MAX_MARGIN
    except InvalidRequest as error:
        if error.param not in GIVEN_IDS:
            raise
        return IMPOSSIBLE
    except TimeoutError as error:
        raise PeerSilent(f"the auditor took more than {LOOK_S:.0f} s") from error
    finally:
        await events.aclose()
    return Look(tuple(margins), end, text, prompt)


def is_fault(error: P2PNetError) -> bool:
    """Whether it speaks against the auditor that another one can look at the same answer. One may take smaller requests
    than others do; but not say that it cannot look at all, which it has announced."""
    if isinstance(error, FeatureMissing):
        return error.param in (SCORE, "score_resume")
    return not isinstance(error, NO_FAULT)
