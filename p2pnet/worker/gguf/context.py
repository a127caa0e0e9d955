"""Computes the tokens of several sequences at once, and keeps their keys and values: a context of llama.cpp's.

All sequences share one buffer of cells; each token that is kept takes one. Knows nothing of schedules and answers.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from p2pnet.display.printable import printable_line
from p2pnet.worker.gguf.library import library, take_errors
from p2pnet.worker.gguf.model import LlamaModel

MAX_SEQUENCES = 48
"""How many sequences have tokens in a context at the same time: the scheduler's 32 that run, and some prefixes and
answers whose readers are behind. llama.cpp keeps a row of logits for each, and wants no more of them than there are
rows in a call."""

_CELL_STEP = 256
"""Contexts are made of whole steps, as llama.cpp rounds them up."""

Ints = npt.NDArray[np.int32]


class ContextFailed(RuntimeError):
    """llama.cpp could not compute some tokens."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Tokens to compute, one after the other: their ids, positions and sequences, and whether logits are wanted."""

    ids: Ints
    positions: Ints
    sequences: Ints
    wants_logits: npt.NDArray[np.int8]

    @classmethod
    def of(cls, ids: Sequence[int], start: int, sequence: int, logits: int = 0) -> Rows:
        """A sequence's tokens from position `start` on. Of the last `logits` of them logits are wanted."""
        count = len(ids)
        wants = np.zeros(count, np.int8)
        wants[count - logits :] = 1
        positions = np.arange(start, start + count, dtype=np.int32)
        return cls(np.array(ids, np.int32), positions, np.full(count, sequence, np.int32), wants)

    @classmethod
    def joined(cls, several: Iterable[Rows]) -> Rows:
        fields = zip(*((rows.ids, rows.positions, rows.sequences, rows.wants_logits) for rows in several), strict=True)
        return cls(*map(np.concatenate, fields))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, part: slice) -> Rows:
        return Rows(self.ids[part], self.positions[part], self.sequences[part], self.wants_logits[part])


class Context:
    """The memory of one model's sequences. Raises ContextFailed when there is no room for it. Not for several threads
    at the same time."""

    def __init__(
        self, model: LlamaModel, cells: int, max_rows: int, threads: int, sequences: int = MAX_SEQUENCES
    ) -> None:
        """`cells` is for how many tokens there is room; `max_rows` how many are computed at once at most."""
        llama = library()
        params = llama.llama_context_default_params()
        params.n_ctx = -(-cells // _CELL_STEP) * _CELL_STEP
        params.n_batch = params.n_ubatch = max_rows
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = True
        params.swa_full = True  # or what slid out of the window could be neither shared nor computed again
        params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_AUTO  # on a processor it is on, for models that allow it
        params.offload_kqv = params.op_offload = model.device.handle is not None
        params.no_perf = True
        take_errors()
        self._handle = llama.llama_init_from_model(model.handle, params)
        if self._handle is None:
            raise ContextFailed(printable_line(next(iter(take_errors()), "it makes no context")).rstrip("."))
        weakref.finalize(self, llama.llama_free, self._handle)
        self._llama = llama
        self._model = model  # which has to stay for as long as the context does
        self._memory = llama.llama_get_memory(self._handle)
        self.max_rows = max_rows

    def compute(self, rows: Rows) -> npt.NDArray[np.float32]:
        """Compute at most `max_rows` rows. Returns the logits (rows, vocabulary) of those that want them, in order.
        Raises ContextFailed."""
        int32, int8 = ctypes.POINTER(ctypes.c_int32), ctypes.POINTER(ctypes.c_int8)
        one_each = np.ones(len(rows), np.int32)
        places = np.arange(len(rows), dtype=np.uint64) * rows.sequences.itemsize + rows.sequences.ctypes.data
        batch = self._llama.llama_batch(
            n_tokens=len(rows),
            token=rows.ids.ctypes.data_as(int32),
            pos=rows.positions.ctypes.data_as(int32),
            n_seq_id=one_each.ctypes.data_as(int32),
            seq_id=ctypes.cast(places.ctypes.data, ctypes.POINTER(int32)),
            logits=rows.wants_logits.ctypes.data_as(int8),
        )
        status = self._llama.llama_decode(self._handle, batch)
        if status != 0:
            raise ContextFailed(f"llama_decode ended with {status}")
        wanted = np.flatnonzero(rows.wants_logits)
        found = np.empty((len(wanted), self._model.vocabulary_size), np.float32)
        for row, index in zip(found, wanted.tolist(), strict=True):
            row[:] = np.ctypeslib.as_array(self._llama.llama_get_logits_ith(self._handle, index), row.shape)
        return found

    def forget(self, sequence: int, start: int) -> None:
        """Forget a sequence's tokens from position `start` on."""
        self._llama.llama_memory_seq_rm(self._memory, sequence, start, -1)

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Have the first tokens of one sequence be those of another, too: the cells are shared."""
        self._llama.llama_memory_seq_cp(self._memory, source, target, 0, tokens)

    def kept_bytes(self, sequence: int) -> int:
        """How much a sequence's keys and values take, with some bytes for each token's position."""
        return int(self._llama.llama_state_seq_get_size(self._handle, sequence))


def bytes_per_token(model: LlamaModel, threads: int) -> int:
    """What one token's keys and values take in all layers together, measured on a few tokens. Never 0."""
    context = Context(model, _CELL_STEP, 32, threads, sequences=1)
    sizes = []
    for positions in (range(8), range(8, 24)):
        context.compute(Rows.of([index % model.vocabulary_size for index in positions], positions.start, 0))
        sizes.append(context.kept_bytes(0))
    return max(1, (sizes[1] - sizes[0]) // 16)
