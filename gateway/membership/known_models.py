"""Remembers which models there are, or ever were, and since when. Their names are strangers' words: it has a bound."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from gateway.interface import ModelEntry
from gateway.routing.roster import Roster
from p2pnet.records import CapabilityRecord

MAX_KNOWN_MODELS = 10_000
"""Names of models remembered after their workers have gone."""


@dataclass(frozen=True)
class Remembered:
    """What is known from earlier runs of this gateway: models, and whether a peer has served a request."""

    models: Iterable[str] = ()
    has_served: Callable[[str], bool] = lambda peer_id: False


class KnownModels:
    """Those of one gateway. `models` are known from earlier runs."""

    def __init__(self, models: Iterable[str], unix_s: Callable[[], float]) -> None:
        self._unix_s = unix_s
        self._first_seen_s: dict[str, int] = dict.fromkeys(models, int(unix_s()))
        self._listed_for: Roster | None = None
        self._listed: Sequence[ModelEntry] = ()

    def __contains__(self, model: str) -> bool:
        return model in self._first_seen_s

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._first_seen_s)

    def note(self, record: CapabilityRecord) -> None:
        for card in record.models:
            self._first_seen_s.setdefault(card.id, int(self._unix_s()))

    def forget(self, announced: Iterable[CapabilityRecord]) -> None:
        """The oldest of those that nobody announces now: a name costs its inventor nothing."""
        surplus = len(self._first_seen_s) - MAX_KNOWN_MODELS
        if surplus <= 0:
            return
        running = {card.id for record in announced for card in record.models}
        for model in [model for model in self._first_seen_s if model not in running][:surplus]:
            del self._first_seen_s[model]

    def listed(self, roster: Roster, records: Iterable[CapabilityRecord]) -> Sequence[ModelEntry]:
        """The entries of these records, which are those of the roster. The same list for as long as the roster is the
        same one: each request asks, and for a thousand workers it takes milliseconds to make."""
        if self._listed_for is not roster:
            self._listed_for, self._listed = roster, self._entries(records)
        return self._listed

    def _entries(self, records: Iterable[CapabilityRecord]) -> list[ModelEntry]:
        """One entry per model, over all these workers."""
        by_model: dict[str, list[CapabilityRecord]] = {}
        for record in records:
            for model in {card.id for card in record.models}:
                by_model.setdefault(model, []).append(record)
        return [self._entry(model, announced) for model, announced in sorted(by_model.items())]

    def _entry(self, model: str, records: list[CapabilityRecord]) -> ModelEntry:
        cards = [card for record in records for card in record.models if card.id == model]
        return ModelEntry(
            id=model,
            created_s=self._first_seen_s[model],
            workers=len(records),
            context_length=max(card.context_length for card in cards),
            digests=tuple(sorted({card.digest for card in cards})),
            tasks=tuple(sorted({task for card in cards for _, task in card.asked_for} - {"tokenize"})),
            features=tuple(sorted({feature for card in cards for feature in card.features})),
            quantizations=tuple(sorted({card.quantization for card in cards})),
            dtypes=tuple(sorted({card.dtype for card in cards})),
            is_warm=not all(card.is_cold for card in cards),
        )
