"""Drives chains for one model: its ends are here, its layers at stages elsewhere.

To all others it is a worker that runs the model, as long as there is a whole chain.
"""

from __future__ import annotations

import asyncio
import random
from functools import partial
from pathlib import Path

from p2pnet.directory import Directory
from p2pnet.network.interface import Clock, Network
from p2pnet.records import MAX_GAPS, IncompleteModel, ModelCard
from p2pnet.spans import in_words
from p2pnet.worker.backends.engine_backend import EngineBackend, EngineOptions
from p2pnet.worker.chains.chains import Chains, ChainTimes, Wanted
from p2pnet.worker.chains.runner import ChainRunner
from p2pnet.worker.chains.store import ChainStore
from p2pnet.worker.checkpoints.digest import HashCache, Progress
from p2pnet.worker.checkpoints.loading import LoadedModel, find_folder
from p2pnet.worker.checkpoints.names import name_of
from p2pnet.worker.engine.kv_store import KvStore
from p2pnet.worker.engine.runner import Runner
from p2pnet.worker.engine.speculation import Speculation
from p2pnet.worker.engine.turns import in_own_thread
from p2pnet.worker.spans.loading import Part, load_ends
from p2pnet.worker.spans.running import EndsRunner
from p2pnet.worker.speculation.loading import load_draft_model
from p2pnet.worker.speculation.speculating import Drafter, Speculating

CHAIN_CONTEXT_TOKENS = 8192
"""Of prompt and answer together, where the driver's owner does not say: each stage must have memory for so many."""


class ChainBackend(EngineBackend):
    """Runs the ends of one model. Make one with `from_spec`."""

    def __init__(
        self,
        part: Part,
        loaded: LoadedModel,
        name: str,
        now_ms: Clock,
        options: EngineOptions,
        chains: Chains,
        loop: asyncio.AbstractEventLoop,
        drafter: Drafter | None = None,
    ) -> None:
        self._part = part
        self._chains = chains
        self._loop = loop
        self._drafter = drafter
        super().__init__(loaded, name, now_ms, options)

    @classmethod
    async def from_spec(
        cls,
        spec: str,
        network: Network,
        directory: Directory,
        *,
        now_ms: Clock,
        options: EngineOptions | None = None,
        served_name: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        cache_dir: Path,
        progress: Progress | None = None,
        times: ChainTimes | None = None,
        rng: random.Random | None = None,
        draft: str | None = None,
    ) -> ChainBackend:
        """Load a model's ends, and look for stages. `draft` is a small model that makes drafts for it. Raises
        UsageError, which says what to do."""
        name, options = name_of(spec, served_name), options or EngineOptions()
        folder = await in_own_thread(partial(find_folder, spec))
        load = partial(load_ends, folder, device, dtype, HashCache(cache_dir), progress)
        part, loaded = await in_own_thread(load)
        context_tokens = min(part.context_length, options.context_tokens or CHAIN_CONTEXT_TOKENS)
        drafter: Drafter | None = None
        if draft is not None:
            small = await in_own_thread(partial(find_folder, draft))
            tokens = options.slots * context_tokens
            prepare = partial(load_draft_model, small, loaded, tokens, device, HashCache(cache_dir), progress)
            drafter = await options.turns.take(prepare)
        chains = Chains(
            network,
            partial(directory.stages_of, part.digest),
            Wanted(part.digest, part.layers, context_tokens),
            times,
            rng=rng,
        )
        await chains.start()
        try:
            make = partial(cls, part, loaded, name, now_ms, options, chains, asyncio.get_running_loop(), drafter)
            return await in_own_thread(make)
        except BaseException:
            await chains.close()
            raise

    @property
    def models(self) -> tuple[ModelCard, ...]:
        """The model, as long as there is a whole chain."""
        return super().models if self._chains.is_whole else ()

    @property
    def incomplete(self) -> tuple[IncompleteModel, ...]:
        """The model, as long as nobody has some of its layers."""
        gaps = () if self._chains.is_whole else self._chains.gaps
        part = self._part
        return (IncompleteModel(self._card.id, part.digest, part.layers, gaps[:MAX_GAPS]),) if gaps else ()

    @property
    def missing(self) -> str:
        """What keeps it from being offered, for people; empty where nothing does."""
        return in_words(self._chains.gaps) if self._chains.gaps else ""

    async def look(self) -> None:
        """Look now which stages there are, and not only when it is time to."""
        await self._chains.look()

    async def close(self) -> None:
        """End the chain first: what waits for it fails, and nothing is waited for."""
        await self._chains.close()
        await super().close()

    def _prepare(self, loaded: LoadedModel) -> tuple[Runner, KvStore]:
        ends = EndsRunner(self._part)
        store = ChainStore(self._options.slots * self._context_length(loaded), lambda: self._chains.kv_tokens)
        return ChainRunner(ends, self._part.width, self._part.dtype, store, self._chains, self._loop), store

    def _speculation(self, runner: Runner) -> Speculation | None:
        assert isinstance(runner, ChainRunner)
        return Speculating(lambda: runner.pace.cost, self._drafter)

    def _context_length(self, loaded: LoadedModel) -> int:
        return min(loaded.context_length, self._options.context_tokens or CHAIN_CONTEXT_TOKENS)
