"""`p2pnet up` before anything runs: a wrong network is said at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from p2pnet.cli.main import app
from p2pnet.errors import UsageError


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--initial-peers", "nonsense"), "is not a multiaddr"),
        (("--invite", "nonsense"), "This is no invitation"),
        (("--swarm", "lab"), "lab"),
    ],
)
def test_a_network_that_cannot_be_joined(flags: tuple[str, ...], said: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["up", *flags], env={"P2PNET_DATA_DIR": str(tmp_path)})
    assert isinstance(result.exception, UsageError)
    assert said in result.exception.message
    assert "$ p2pnet" not in result.output
