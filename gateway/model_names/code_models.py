"""Which model continues code for clients that name none, or one that is long gone. Pure.

Plugins for editors that were written for Codex send names of its time, or of FauxPilot's; some send none at all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from gateway.interface import ModelEntry
from gateway.model_names.naming import is_other_name
from gateway.service import GatewayService
from p2pnet.features import FIM, TEXT

LEGACY_NAMES = frozenset(
    {
        "codegen",
        "fastertransformer",
        "py-model",
        "fastertransformer|py-model",
        "copilot-codex",
        "cushman-codex",
        "cushman-ml",
        "code-cushman-001",
        "code-cushman-002",
        "code-davinci-001",
        "code-davinci-002",
        "davinci-codex",
        "gpt-35-turbo-instruct",
        "gpt-4o-copilot",
    }
)
"""What FauxPilot, Codex and Copilot have been asked for."""

_IS_CODER = re.compile(
    r"(?<!en)(?<!de)coder?(?![a-z])|codex|codestral|codellama|codegemma|codegen|starcoder", re.IGNORECASE
)


def code_model(service: GatewayService) -> str | None:
    """The one that the gateway's owner named, or else the likeliest there is. None where no model generates text."""
    return service.code_model_name or choose_code_model(service.list_models())


def choose_code_model(entries: Sequence[ModelEntry]) -> str | None:
    """The first that calls itself a coder, or else that fills gaps, or else that continues texts, or else any."""
    able = [entry for entry in entries if "generate" in entry.tasks]
    return min(able, key=_rank).id if able else None


def engine_model(service: GatewayService, engine: str) -> str | None:
    """The model that an engine stands for: the one with that name or alias, or else the code model."""
    is_known = is_other_name(engine, service.aliases) or any(entry.id == engine for entry in service.list_models())
    return engine if is_known else code_model(service)


def completion_model(service: GatewayService, name: str | None) -> str | None:
    """The model of a completion that asks for this one: itself, but where nothing is said, or a name that no model
    has any more, the code model."""
    if name is None:
        return code_model(service)
    return engine_model(service, name) if name.lower() in LEGACY_NAMES else name


def _rank(entry: ModelEntry) -> tuple[bool, bool, bool]:
    return not _IS_CODER.search(entry.id), FIM not in entry.features, TEXT not in entry.features
