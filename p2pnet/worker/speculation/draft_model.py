"""Makes drafts with a small model: it goes on with an answer a few tokens, in memory of its own.

What it says is chosen by the sampler of the answer, with the noise of each place: so it agrees with the large model
more often than chance would have it. Knows nothing of who checks its drafts.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import torch

from p2pnet.errors import WorkerFailed
from p2pnet.worker.engine.kv_store import Kv, KvStore
from p2pnet.worker.engine.runner import Part, Runner
from p2pnet.worker.engine.scheduler import Job
from p2pnet.worker.engine.sequence import Sequence as Answer
from p2pnet.worker.engine.speculation import Guessed

logger = logging.getLogger(__name__)

CATCH_UP_TOKENS = 128
"""Of one answer in one step: all others wait while a long prompt is read, so it is read in pieces."""

SMOOTHING = 0.1
"""How much the last drafts say of how long one takes."""

MODEL_ERRORS = (RuntimeError, MemoryError, ValueError, TypeError, LookupError, AttributeError)
"""What running a model raises."""


@dataclass(eq=False)
class _Held:
    """What the model has computed of one answer: `ids`, of which the first `sure` are known to be its own."""

    kv: Kv
    ids: list[int] = field(default_factory=list)
    sure: int = 0

    def common(self, ids: Sequence[int]) -> int:
        """How many of its ids are those of the answer. The last one of these is always computed: its logits are what
        is wanted."""
        pairs = zip(self.ids[self.sure :], ids[self.sure :], strict=False)
        same = self.sure + sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        return min(same, len(ids) - 1)


@dataclass(eq=False)
class _Drafting:
    """One answer's drafts while they are made."""

    answer: Answer
    held: _Held
    most: int
    next_ids: list[int]
    drafts: list[int] = field(default_factory=list)

    @property
    def part(self) -> Part:
        return Part(self.next_ids, len(self.held.ids), self.held.kv)


class DraftModel:
    """Makes drafts for the answers of one engine: see `speculating.Drafter`. Called in the engine's thread."""

    def __init__(
        self,
        runner: Runner,
        store: KvStore,
        context_length: int,
        vocabulary: int,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`context_length` is how long a text the small model reads, `vocabulary` how many ids the large one has."""
        self._runner = runner
        self._store = store
        self._context_length = context_length
        self._vocabulary = vocabulary
        self._now_s = now_s
        self._held: dict[Job, _Held] = {}
        self._is_broken = False
        self.draft_s = 0.0

    def drafts(self, wanted: Sequence[Guessed]) -> list[Sequence[int]]:
        """See `speculating.Drafter`. After an error of the model's there are none any more."""
        try:
            return self._drafts(wanted)
        except MODEL_ERRORS:
            logger.exception("the model of --draft failed, and is not asked any more")
            self._is_broken = True
            return [()] * len(wanted)

    def forget(self, job: Job) -> None:
        held = self._held.pop(job, None)
        if held is not None:
            self._store.close(held.kv)

    @torch.inference_mode()
    def _drafts(self, wanted: Sequence[Guessed]) -> list[Sequence[int]]:
        begun = [None if self._is_broken else self._begun(*each) for each in wanted]
        going = [each for each in begun if each is not None]
        while going:
            began_s = self._now_s()
            is_draft = all(len(each.next_ids) == 1 for each in going)
            logits = self._runner.forward([each.part for each in going])
            going = [each for each, rows in zip(going, logits, strict=True) if self._goes_on(each, rows[-1])]
            if is_draft:
                self._note(self._now_s() - began_s)
        return [() if each is None else each.drafts for each in begun]

    def _begun(self, answer: object, most: int) -> _Drafting | None:
        """None where an answer is too long, or there is no memory for it."""
        assert isinstance(answer, Answer)  # there is room after nothing else
        ids = answer.job.ids
        if len(ids) + most > self._context_length:
            return None
        held = self._held.get(answer.job)
        if held is None:
            kv = self._store.open(min(answer.job.max_length, self._context_length))
            if kv is None:
                return None
            held = self._held[answer.job] = _Held(kv)
        common = held.common(ids)
        held.sure = common
        del held.ids[common:]
        return _Drafting(answer, held, most, ids[common : common + CATCH_UP_TOKENS])

    def _goes_on(self, drafting: _Drafting, row: torch.Tensor) -> bool:
        """Take in what was computed of an answer. Returns whether it is to go on."""
        held = drafting.held
        held.ids += drafting.next_ids
        if len(held.ids) < len(drafting.answer.job.ids):
            return False  # there is more to catch up with, in the next step
        try:
            draft = drafting.answer.guess(self._fitted(row), drafting.drafts)
        except WorkerFailed:  # what the answer's form allows, this model gives no chance to
            return False
        drafting.drafts.append(draft)
        drafting.next_ids = [draft]
        return len(drafting.drafts) < drafting.most

    def _fitted(self, row: torch.Tensor) -> torch.Tensor:
        """As many logits as the large model has: the rest of either is of ids that no tokenizer gives."""
        lacking = max(0, self._vocabulary - len(row))
        return torch.nn.functional.pad(row[: self._vocabulary], (0, lacking), value=-math.inf)

    def _note(self, took_s: float) -> None:
        self.draft_s = took_s if not self.draft_s else self.draft_s + SMOOTHING * (took_s - self.draft_s)
