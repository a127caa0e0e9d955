"""Computes the tokens of several sequences at once, and keeps their keys and values: a context of llama.cpp's.

All sequences share one buffer of cells; each token that is kept takes one. Knows nothing of schedules and answers.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from p2pnet.worker.gguf.library import library
from p2pnet.worker.gguf.model import LlamaModel

MAX_SEQUENCES = 64
"""How many sequences have tokens in a context at the same time: the scheduler's 32 that run, and as many prefixes and
answers whose readers are behind. llama.cpp keeps a row of logits for each."""

_CELL_STEP = 256
"""Contexts are made of whole steps, as llama.cpp rounds them up."""


class ContextFailed(RuntimeError):
    """llama.cpp could not compute a step."""


class Batch:
    """The tokens of one step, in arrays that are filled anew for each."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.ids = np.zeros(size, np.int32)
        self.positions = np.zeros(size, np.int32)
        self.sequences = np.zeros(size, np.int32)
        self.wants_logits = np.zeros(size, np.int8)
        self._counts = np.ones(size, np.int32)
        self._places = np.arange(size, dtype=np.uint64) * 4 + self.sequences.ctypes.data
        """For each token the address of its list of sequences, which has one."""

    def of(self, count: int) -> object:
        """The first `count` tokens, as llama.cpp takes them."""
        int32, int8 = ctypes.POINTER(ctypes.c_int32), ctypes.POINTER(ctypes.c_int8)
        return library().llama_batch(
            n_tokens=count,
            token=self.ids.ctypes.data_as(int32),
            pos=self.positions.ctypes.data_as(int32),
            n_seq_id=self._counts.ctypes.data_as(int32),
            seq_id=ctypes.cast(self._places.ctypes.data, ctypes.POINTER(int32)),
            logits=self.wants_logits.ctypes.data_as(int8),
        )


class Context:
    """The memory of one model's sequences. Raises ContextFailed when there is no room for it. Not for several threads
    at the same time."""

    def __init__(
        self, model: LlamaModel, cells: int, step_tokens: int, threads: int, sequences: int = MAX_SEQUENCES
    ) -> None:
        """`cells` is for how many tokens there is room; `step_tokens` how many are computed in one step at most."""
        llama = library()
        params = llama.llama_context_default_params()
        params.n_ctx = -(-cells // _CELL_STEP) * _CELL_STEP
        params.n_batch = params.n_ubatch = step_tokens  # a step is never cut in two
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = True
        params.swa_full = True  # or what slid out of the window could be neither shared nor computed again
        params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.offload_kqv = params.op_offload = model.device.handle is not None
        params.no_perf = True
        self._handle = llama.llama_init_from_model(model.handle, params)
        if self._handle is None:
            raise ContextFailed("llama.cpp made no context")
        weakref.finalize(self, llama.llama_free, self._handle)
        self._llama = llama
        self._model = model  # which has to stay for as long as the context does
        self._memory = llama.llama_get_memory(self._handle)
        self.batch = Batch(step_tokens)

    def compute(self, count: int) -> npt.NDArray[np.float32]:
        """Compute the first `count` tokens of the batch. Returns the logits (rows, vocabulary) of those that want them,
        in order. Raises ContextFailed."""
        status = self._llama.llama_decode(self._handle, self.batch.of(count))
        if status != 0:
            raise ContextFailed(f"llama_decode ended with {status}")
        wanted = np.flatnonzero(self.batch.wants_logits[:count])
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
        fill(context.batch, 0, [index % model.vocabulary_size for index in positions], positions.start, 0, 0)
        context.compute(len(positions))
        sizes.append(context.kept_bytes(0))
    return max(1, (sizes[1] - sizes[0]) // 16)


def fill(batch: Batch, at: int, ids: Sequence[int], start: int, sequence: int, rows: int) -> int:
    """Write a sequence's next tokens into the batch, from place `at` and position `start` on: the last `rows` want
    logits. Returns the place behind them."""
    end = at + len(ids)
    batch.ids[at:end] = ids
    batch.positions[at:end] = np.arange(start, start + len(ids))
    batch.sequences[at:end] = sequence
    batch.wants_logits[at : end - rows] = 0
    batch.wants_logits[end - rows : end] = 1
    return end
