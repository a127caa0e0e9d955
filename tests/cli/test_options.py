"""The flags are a contract: their names, and an environment variable for each."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from p2pnet.cli.gateway import GATEWAY_GROUPS, GatewayFlags
from p2pnet.cli.main import app
from p2pnet.cli.serve.flags import SERVE_GROUPS, ServeFlags
from p2pnet.cli.signature import Groups

EXPECTED_FLAGS = {
    "bootstrap": {
        "--listen",
        "--announce",
        "--initial-peers",
        "--identity",
        "--ready-file",
        "--log-level",
        "--log-json",
    },
    "serve": {
        *("--upstream", "--upstream-kind", "--upstream-key-env", "--upstream-images", "--script"),
        *(
            "--model",
            "--served-name",
            "--name",
            "--initial-peers",
            "--swarm",
            "--invite",
            "--listen",
            "--announce",
            "--behind-nat",
            "--max-concurrency",
        ),
        "--layers",
        "--memory",
        *("--schedule", "--pause-when-busy", "--idle-unload-seconds"),
        *("--allow-gateway", "--block-gateway", "--max-per-gateway", "--max-requests-per-minute"),
        *("--max-request-bytes", "--max-request-seconds", "--no-gateway-quota", "--metrics-port", "--metrics-host"),
        *("--device", "--dtype", "--quantization", "--kv-memory", "--context", "--identity", "--ready-file"),
        *("--drain-seconds", "--log-level", "--log-json", "--no-panel", "--public", "--no-relay"),
    },
    "drive": {
        *("--model", "--served-name", "--draft", "--name", "--initial-peers", "--swarm", "--listen", "--announce"),
        *("--max-concurrency", "--device", "--dtype", "--context", "--identity", "--ready-file", "--drain-seconds"),
        *("--log-level", "--log-json"),
    },
    "manifest": {"--model", "--log-level"},
    "gateway": {
        *(
            "--host",
            "--port",
            "--initial-peers",
            "--swarm",
            "--invite",
            "--listen",
            "--identity",
            "--ready-file",
            "--drain-seconds",
        ),
        *(
            "--log-level",
            "--log-json",
            "--wait-seconds",
            "--max-waiting",
            "--allowed-host",
            "--allowed-origin",
            "--api-key-file",
            "--vouched-by",
            "--alias",
            "--code-model",
            "--trusted-proxy",
            "--keep-responses",
            "--audit",
            "--auditor",
        ),
    },
    "up": {
        *("--model", "--upstream", "--yes", "--port", "--no-browser", "--initial-peers", "--swarm", "--invite"),
        "--ready-file",
    },
    "health": {"--ready-file", "--listen"},
    "invite": {"--initial-peers", "--json", "--no-qr"},
    "chat": {"--model", "--gateway", "--message", "--temperature", "--log-level"},
    "models": {"--initial-peers", "--swarm", "--invite", "--json", "--log-level"},
    "doctor": {
        "--initial-peers",
        "--swarm",
        "--invite",
        "--listen",
        "--gateway",
        "--api-key-env",
        "--json",
        "--log-level",
    },
    "top": {"--gateway", "--api-key-env", "--once"},
    "peers": {"--initial-peers", "--swarm", "--invite", "--json", "--log-level"},
    "bench": {
        *("--model", "--concurrency", "--prompt-tokens", "--tokens", "--device", "--dtype", "--quantization"),
        *("--kv-memory", "--json", "--log-level"),
    },
}


def commands() -> TyperGroup:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    return group


def test_every_command_has_its_flags() -> None:
    for name, flags in EXPECTED_FLAGS.items():
        found = {option.opts[0] for option in commands().commands[name].params}
        assert found == flags, name


def test_every_flag_has_an_environment_variable() -> None:
    """Those of `keys` say what is done once, and have none."""
    for name, command in commands().commands.items():
        for option in command.params:
            assert str(option.envvar).startswith("P2PNET_"), f"{name} {option.opts}"


@pytest.mark.parametrize(("flags", "groups"), [(ServeFlags, SERVE_GROUPS), (GatewayFlags, GATEWAY_GROUPS)])
def test_each_of_many_flags_is_in_one_group(flags: Any, groups: Groups) -> None:
    grouped = [name for names in groups.values() for name in names]
    assert sorted(grouped) == sorted(field.name for field in fields(flags))
