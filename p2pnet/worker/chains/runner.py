"""Runs a model over a chain, as an engine's runner: ids become hidden states here, and what comes back becomes logits.

What a chain lacks of a sequence is computed there first, from its ids: so an answer goes on over another chain as it
would have over the first, and whoever reads it sees a pause. Knows nothing of sampling or scheduling.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import torch

from p2pnet.errors import WorkerFailed
from p2pnet.stage_messages import ELEMENT_BYTES, TICKET_BYTES, StageDtype, StageRow
from p2pnet.wire.stage_frames import MAX_STAGE_BODY_BYTES
from p2pnet.worker.chains.chain import Chain, ChainFault, SequenceGone, StageFull
from p2pnet.worker.chains.chains import Chains
from p2pnet.worker.chains.rows import ROW_TOKENS, RowPlan, Stint, rows_of
from p2pnet.worker.chains.store import ChainStore, Notes, remote_of
from p2pnet.worker.engine.runner import Part
from p2pnet.worker.spans.rows import are_finite, to_body, to_states
from p2pnet.worker.spans.running import EndsRunner
from p2pnet.worker.speculation.pace import Pace

MAX_LANES = 8
"""Steps under way at the same time: with more, each has too few sequences for what a stage does with them at once."""

MAX_FORGOTTEN = 3
"""How often in one step a chain may have forgotten something: then its stage is no good."""

T = TypeVar("T")

NO_TICKET = bytes(TICKET_BYTES)


@dataclass(frozen=True, eq=False)
class _Sent:
    """A step that is under way over a chain."""

    chain: Chain
    parts: Sequence[Part]
    plans: list[RowPlan]
    steps: list[Future[bytes]]


class ChainRunner:
    """Computes parts over whichever chain there is. `forward` is called in a thread that computes, and waits there for
    what happens in `loop`."""

    is_packed = True

    def __init__(
        self,
        ends: EndsRunner,
        width: int,
        dtype: str,
        store: ChainStore,
        chains: Chains,
        loop: asyncio.AbstractEventLoop,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ends = ends
        self._width = width
        self._dtype = cast(StageDtype, dtype)
        self._store = store
        self._chains = chains
        self._loop = loop
        self._now_s = now_s
        self.pace = Pace()
        """Of the chain that there is: what a row takes from here to here."""
        self._chain: Chain | None = None
        self._row_tokens = max(1, min(ROW_TOKENS, MAX_STAGE_BODY_BYTES // (width * ELEMENT_BYTES[dtype])))

    @property
    def lanes(self) -> int:
        """As many as keep all stages at work, and no more."""
        return min(MAX_LANES, self._chains.lanes(self.pace.least_s))

    def begin(self, parts: Sequence[Part]) -> Callable[[], list[torch.Tensor]]:
        """See Pipelined. What cannot be begun with at once is done when it is waited for."""
        chain = self._chains.usable
        if chain is None or chain is not self._chain:
            return partial(self.forward, parts)
        return partial(self._finish, self._sent(chain, parts))

    def forward(self, parts: Sequence[Part]) -> list[torch.Tensor]:
        """See Runner. Raises WorkerFailed when there is no whole chain for too long, or the parts do not fit."""
        forgotten = 0
        while True:
            chain = self._call(self._chains.current())
            if chain is not self._chain:
                self._chain = chain
                self._store.drop_notes()
                self.pace.forget()
            sent = self._sent(chain, parts)
            try:
                return self._received(sent)
            except SequenceGone as gone:
                forgotten += 1
                self._mend(sent, gone, forgotten)
            except (StageFull, ChainFault) as error:
                self._mend(sent, error)

    def _finish(self, sent: _Sent) -> list[torch.Tensor]:
        try:
            return self._received(sent)
        except (SequenceGone, StageFull, ChainFault) as error:
            self._mend(sent, error)
            return self.forward(sent.parts)

    def _mend(self, sent: _Sent, error: Exception, forgotten: int = 1) -> None:
        """What has to be done before the parts are computed again. Raises WorkerFailed when they do not fit at once."""
        for part in sent.parts:
            remote_of(part.kv).filled = 0  # what the chain has of these is not known
        match error:
            case StageFull() if len(sent.parts) > 1:
                raise WorkerFailed("a stage has no room for so many sequences") from error
            case StageFull(peer_id=peer_id):
                self._call(self._chains.leave(sent.chain, ChainFault(peer_id, "it has no room")))
            case SequenceGone(peer_id=peer_id):
                if forgotten >= MAX_FORGOTTEN:
                    self._call(self._chains.leave(sent.chain, ChainFault(peer_id, "it forgets what it has computed")))
            case ChainFault():
                self._call(self._chains.leave(sent.chain, error))

    def _sent(self, chain: Chain, parts: Sequence[Part]) -> _Sent:
        """Send all rows of a step, and before what is new what the chain lacks."""
        stints: list[Stint] = []
        for index, part in enumerate(parts):
            remote = remote_of(part.kv)
            has = remote.filled_at(chain)
            if has < part.start:
                stints.append(Stint(index, remote.number, remote.ids[has : part.start], has))
            stints.append(Stint(index, remote.number, part.ids, part.start, part.logits))
        plans = list(rows_of(stints, self._row_tokens))
        notes = self._store.take_notes()
        steps = [
            self._send(chain, plan, notes if number == 0 else Notes(), is_alone=len(plans) == 1)
            for number, plan in enumerate(plans)
        ]
        return _Sent(chain, parts, plans, steps)

    def _received(self, sent: _Sent) -> list[torch.Tensor]:
        """The logits of a step. Raises ChainFault, SequenceGone or StageFull."""
        wait(sent.steps)  # all of them, also where one fails: nothing of it is under way when it is repeated
        wanted: list[list[torch.Tensor]] = [[] for _ in sent.parts]
        for plan, step in zip(sent.plans, sent.steps, strict=True):
            for index, states in self._states(sent.chain, plan, step.result()):
                wanted[index].append(states)
        for part in sent.parts:
            remote_of(part.kv).note(sent.chain, part.start, part.ids)
        return self._logits(wanted)

    def _send(self, chain: Chain, plan: RowPlan, notes: Notes, is_alone: bool) -> Future[bytes]:
        states = self._ends.embed(plan.ids, plan.positions)
        row = StageRow(NO_TICKET, 1, self._width, self._dtype, plan.pieces, notes.forget, notes.copies)
        step = self._timed(chain, row, to_body(states)) if is_alone else chain.step(row, to_body(states))
        return asyncio.run_coroutine_threadsafe(step, self._loop)

    async def _timed(self, chain: Chain, row: StageRow, body: bytes) -> bytes:
        began_s = self._now_s()
        found = await chain.step(row, body)
        self.pace.note(row.tokens, self._now_s() - began_s)
        return found

    def _states(self, chain: Chain, plan: RowPlan, body: bytes) -> list[tuple[int, torch.Tensor]]:
        """The hidden states that have come of a row, each with its part. Raises ChainFault."""
        states = to_states(body, self._width, self._dtype)
        if not are_finite(states):
            raise ChainFault(chain.peers[-1], "its hidden states are no finite numbers")
        return list(zip(plan.parts, torch.split(states, [piece.wanted for piece in plan.pieces]), strict=True))

    def _logits(self, wanted: list[list[torch.Tensor]]) -> list[torch.Tensor]:
        """Of all parts in one pass."""
        states = [torch.cat(each) for each in wanted]
        together = torch.cat(states)
        if not len(together):
            return [torch.empty(0) for _ in states]
        return list(torch.split(self._ends.logits(together), [len(each) for each in states]))

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
