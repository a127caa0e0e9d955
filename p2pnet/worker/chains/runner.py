"""Runs a model over a chain, as an engine's runner: ids become hidden states here, and what comes back becomes logits.

What a stage lacks of a sequence is computed there first, from what the stage before it has kept, or from the ids: so an
answer goes on over other stages as it would have over the first, and whoever reads it sees a pause. Knows nothing of
sampling or scheduling.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, TypeVar, cast

import torch

from p2pnet.errors import WorkerFailed
from p2pnet.stage_messages import ELEMENT_BYTES, TICKET_BYTES, Piece, StageDtype, StageReplay, StageRow
from p2pnet.wire.stage_frames import MAX_STAGE_BODY_BYTES
from p2pnet.worker.chains.chain import Chain
from p2pnet.worker.chains.chains import Chains
from p2pnet.worker.chains.feeding import Feeder
from p2pnet.worker.chains.member import ChainFault, Member, SequenceGone, StageFull
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
    members: Sequence[Member]
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
        self._members: tuple[Member, ...] = ()
        self._feeder = Feeder(self._feed)
        self._row_tokens = max(1, min(ROW_TOKENS, MAX_STAGE_BODY_BYTES // (width * ELEMENT_BYTES[dtype])))

    @property
    def lanes(self) -> int:
        """As many as keep all stages at work, and no more."""
        return min(MAX_LANES, self._chains.lanes(self.pace.least_s))

    def begin(self, parts: Sequence[Part]) -> Callable[[], list[torch.Tensor]]:
        """See Pipelined. What cannot be begun with at once is done when it is waited for."""
        chain = self._chains.usable
        if chain is None or chain is not self._chain or _lacks(chain.members, parts):
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
            if chain.members != self._members:
                self._members = chain.members
                self.pace.forget()
            try:
                self._catch_up(chain, parts)
                return self._received(self._sent(chain, parts))
            except SequenceGone as gone:
                forgotten += 1
                self._mend(chain, parts, gone, forgotten)
            except (StageFull, ChainFault) as error:
                self._mend(chain, parts, error)

    def _finish(self, sent: _Sent) -> list[torch.Tensor]:
        try:
            return self._received(sent)
        except (SequenceGone, StageFull, ChainFault) as error:
            self._mend(sent.chain, sent.parts, error)
            return self.forward(sent.parts)

    def _mend(self, chain: Chain, parts: Sequence[Part], error: Exception, forgotten: int = 1) -> None:
        """What has to be done before the parts are computed again. Raises WorkerFailed when they do not fit at once."""
        match error:
            case StageFull() if len(parts) > 1:
                raise WorkerFailed("a stage has no room for so many sequences") from error
            case StageFull(member=member):
                self._call(chain.blame(member, "it has no room"))
            case SequenceGone(member=member):
                _lose(parts, [member] if forgotten == 1 else chain.members)
                if forgotten >= MAX_FORGOTTEN:
                    self._call(chain.blame(member, "it forgets what it has computed"))

    def _catch_up(self, chain: Chain, parts: Sequence[Part]) -> None:
        """Have stages that lack what others have compute it, from what the stage before them has kept. Where that is
        not kept any more it is lacking everywhere, and computed from the ids with the step. Raises as `_received`
        does."""
        lacks = _lacks(chain.members, parts)
        if not lacks:
            return
        self._call(chain.settled())  # at no stage may rows come in another order than that of their steps
        if (notes := self._store.take_notes()) != Notes():
            self._call(chain.step(self._row((), notes), b""))
        for (start, end), indices in lacks.items():
            members = chain.members[start:end]
            stints = [_lacking(index, parts[index], members) for index in indices]
            for stint in stints:
                remote_of(parts[stint.part].kv).lower(members, stint.start)
            steps = [self._again(chain, start, end, plan) for plan in rows_of(stints, self._row_tokens)]
            wait(steps)
            try:
                for step in steps:
                    step.result()
            except (SequenceGone, StageFull) as error:
                if start == 0 or error.member is not chain.members[start - 1]:
                    raise
                _lose([parts[index] for index in indices], chain.members)
                continue
            for index in indices:
                remote_of(parts[index].kv).fill(members, parts[index].start)

    def _again(self, chain: Chain, start: int, end: int, plan: RowPlan) -> Future[None]:
        members = chain.members[start:end] if start == 0 else chain.members[start - 1 : end]
        return self._fed(chain, members, start == 0, plan.pieces, plan.ids)

    def _feed(
        self,
        chain: Chain,
        members: Sequence[Member],
        pieces: Sequence[Piece],
        ids: Sequence[int],
        forget: Sequence[int],
    ) -> Future[None]:
        return self._fed(chain, members, len(members) == 1, pieces, ids, forget, is_spare=True)

    def _fed(
        self,
        chain: Chain,
        members: Sequence[Member],
        is_first: bool,
        pieces: Sequence[Piece],
        ids: Sequence[int],
        forget: Sequence[int] = (),
        is_spare: bool = False,
    ) -> Future[None]:
        """Have the last of these members compute tokens whose ids these are: those with the model's first layers are
        sent them from here, others by the first of these members."""
        if is_first:
            positions = [at for piece in pieces for at in range(piece.start, piece.start + piece.count)]
            row = self._row(pieces, Notes(tuple(forget)), is_spare)
            return self._begin(chain.fill(members, row, to_body(self._ends.embed(ids, positions))))
        route = tuple(member.hop for member in members[1:])
        replay = StageReplay(NO_TICKET, 1, tuple(pieces), route, tuple(forget), is_spare)
        return self._begin(chain.replay(members, replay))

    def _sent(self, chain: Chain, parts: Sequence[Part]) -> _Sent:
        """Send all rows of a step, and before what is new what the chain lacks."""
        members = chain.members
        stints: list[Stint] = []
        for index, part in enumerate(parts):
            remote = remote_of(part.kv)
            has = remote.filled_everywhere(members)
            remote.lower(members, min(has, part.start))
            remote.rewind(part.start)
            if has < part.start:
                stints.append(Stint(index, remote.number, remote.ids[has : part.start], has))
            stints.append(Stint(index, remote.number, part.ids, part.start, part.logits))
        plans = list(rows_of(stints, self._row_tokens))
        notes = self._store.take_notes()
        steps = [
            self._send(chain, plan, notes if number == 0 else Notes(), is_alone=len(plans) == 1)
            for number, plan in enumerate(plans)
        ]
        return _Sent(chain, members, parts, plans, steps)

    def _received(self, sent: _Sent) -> list[torch.Tensor]:
        """The logits of a step. Raises ChainFault, SequenceGone or StageFull."""
        wait(sent.steps)  # all of them, also where one fails: nothing of it is under way when it is repeated
        wanted: list[list[torch.Tensor]] = [[] for _ in sent.parts]
        for plan, step in zip(sent.plans, sent.steps, strict=True):
            for index, states in self._states(sent, plan, step.result()):
                wanted[index].append(states)
        for part in sent.parts:
            remote_of(part.kv).note(sent.members, part.start, part.ids)
        self._feeder.feed(sent.chain, [remote_of(part.kv) for part in sent.parts])
        return self._logits(wanted)

    def _send(self, chain: Chain, plan: RowPlan, notes: Notes, is_alone: bool) -> Future[bytes]:
        states = self._ends.embed(plan.ids, plan.positions)
        row = self._row(plan.pieces, notes)
        step = self._timed(chain, row, to_body(states)) if is_alone else chain.step(row, to_body(states))
        return self._begin(step)

    async def _timed(self, chain: Chain, row: StageRow, body: bytes) -> bytes:
        began_s = self._now_s()
        found = await chain.step(row, body)
        self.pace.note(row.tokens, self._now_s() - began_s)
        return found

    def _row(self, pieces: Sequence[Piece], notes: Notes, is_spare: bool = False) -> StageRow:
        return StageRow(
            NO_TICKET, 1, self._width, self._dtype, tuple(pieces), notes.forget, notes.copies, is_spare=is_spare
        )

    def _states(self, sent: _Sent, plan: RowPlan, body: bytes) -> list[tuple[int, torch.Tensor]]:
        """The hidden states that have come of a row, each with its part. Raises ChainFault."""
        states = to_states(body, self._width, self._dtype)
        if not are_finite(states):
            reason = "its hidden states are no finite numbers"
            self._call(sent.chain.blame(sent.members[-1], reason))
            raise ChainFault(sent.members[-1].leg.peer_id, reason)
        return list(zip(plan.parts, torch.split(states, [piece.wanted for piece in plan.pieces]), strict=True))

    def _logits(self, wanted: list[list[torch.Tensor]]) -> list[torch.Tensor]:
        """Of all parts in one pass."""
        states = [torch.cat(each) for each in wanted]
        together = torch.cat(states)
        if not len(together):
            return [torch.empty(0) for _ in states]
        return list(torch.split(self._ends.logits(together), [len(each) for each in states]))

    def _begin(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._begin(coroutine).result()


def _lacks(members: Sequence[Member], parts: Sequence[Part]) -> dict[tuple[int, int], list[int]]:
    """Which stages, from the first to before the second of these, lack what comes before which parts, while others
    have it. What all of them lack goes through the chain with the step."""
    found: dict[tuple[int, int], list[int]] = {}
    for index, part in enumerate(parts):
        remote = remote_of(part.kv)
        lacking = [remote.filled_at(member) < part.start for member in members]
        for is_lacking, run in groupby(range(len(members)), key=lacking.__getitem__):
            numbers = list(run)
            if is_lacking and len(numbers) < len(members):
                found.setdefault((numbers[0], numbers[-1] + 1), []).append(index)
    return found


def _lacking(index: int, part: Part, members: Sequence[Member]) -> Stint:
    remote = remote_of(part.kv)
    has = remote.filled_everywhere(members)
    return Stint(index, remote.number, remote.ids[has : part.start], has)


def _lose(parts: Sequence[Part], members: Sequence[Member]) -> None:
    """These stages may not have anything of these parts any more."""
    for part in parts:
        remote_of(part.kv).lower(members, 0)
