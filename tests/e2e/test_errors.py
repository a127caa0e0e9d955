"""What the commands say when something is wrong: one sentence and a fix, a status that is not 0, and no traceback."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pnet.identity import Identity
from tests.processes import TCP_AND_QUIC_ON_LOOPBACK, Outcome, Process, Start, processes, run

LISTEN = TCP_AND_QUIC_ON_LOOPBACK
NOBODY = f"/ip4/127.0.0.1/tcp/9/p2p/{Identity.from_seed(bytes(32)).peer_id}"
"""A well-formed address with nobody behind it: port 9 is the discard service's."""


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    with processes("errors") as starting:
        yield starting


@pytest.fixture(scope="module")
def bootstrap(start: Start) -> Process:
    process = start.bootstrap()
    process.wait_ready()
    return process


def error_of(outcome: Outcome) -> str:
    """The error in its form: `Error: sentence`, then the fix on the next line."""
    assert outcome.status not in (0, None), outcome.stdout
    for output in (outcome.stdout, outcome.stderr):
        assert "Traceback" not in output
    errors = outcome.stderr[outcome.stderr.index("Error: ") :]
    message, fix, *rest = errors.strip().splitlines()
    assert rest == [], errors
    assert re.fullmatch(r"Error: .+\.", message), message
    assert re.fullmatch(r"[A-Z].+\.", fix), fix
    return f"{message}\n{fix}"


CASES = {
    "not a multiaddr": (
        ("serve", "--model", "tiny", "--initial-peers", "localhost:31337"),
        ("'localhost:31337' is not a multiaddr", "/ip4/"),
    ),
    "a multiaddr without a peer": (
        ("gateway", "--initial-peers", "/ip4/127.0.0.1/tcp/9"),
        ("/ip4/127.0.0.1/tcp/9 does not say which peer", "/p2p/"),
    ),
    "a listen address that is none": (("bootstrap", "--listen", "0.0.0.0:1"), ("'0.0.0.0:1' is not a multiaddr",)),
    "two models under one name": (
        ("serve", "--model", "tiny", "--model", "tiny", "--served-name", "both", "--initial-peers", NOBODY),
        ("--served-name", "Leave it out"),
    ),
    "no network for a worker": (("serve", "--model", "tiny"), ("no network to join", "`p2pnet bootstrap`")),
    "no network for a gateway": (("gateway",), ("no network to join", "`p2pnet bootstrap`")),
    "no network to look at": (("peers",), ("no network to join", "`p2pnet bootstrap`")),
    "nobody there for a gateway": (
        ("gateway", *LISTEN, "--port", "0", "--initial-peers", NOBODY),
        ("No peer could be reached", NOBODY, "--initial-peers"),
    ),
    "nobody there to ask": (("models", "--initial-peers", NOBODY), ("No peer could be reached", NOBODY)),
    "no gateway to chat with": (
        ("chat", "--gateway", "http://127.0.0.1:9", "-m", "Hello"),
        ("no gateway at http://127.0.0.1:9", "`p2pnet gateway`"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_one_sentence_and_a_fix(start: Start, name: str) -> None:
    arguments, words = CASES[name]
    error = error_of(run(*arguments, root=start.root))
    for word in words:
        assert word in error


@pytest.mark.parametrize("model", ["/no/such/model", "./no/such/model", "no such model!"])
def test_a_model_that_is_not_there(start: Start, model: str) -> None:
    """It is told before the network is joined, which cannot be here."""
    assert model in error_of(run("serve", *LISTEN, "--model", model, "--initial-peers", NOBODY, root=start.root))


def test_an_http_port_in_use(start: Start, bootstrap: Process) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        arguments = ("gateway", *LISTEN, "--port", port, "--initial-peers", bootstrap.ready.address)
        error = error_of(run(*arguments, root=start.root))
    assert f"Port {port}" in error
    assert "--port 0" in error


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_listen_port_in_use(start: Start, transport: str) -> None:
    kind = socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if transport == "tcp":
            taken.listen()
        port = taken.getsockname()[1]
        address = f"/ip4/127.0.0.1/{transport}/{port}" + ("/quic-v1" if transport == "udp" else "")
        error = error_of(run("bootstrap", "--listen", address, root=start.root))
    assert "in use" in error
    assert "--listen" in error


def test_an_identity_in_use(start: Start, bootstrap: Process) -> None:
    path = str(start.root / "data" / "bootstrap.key")
    assert Identity.load(Path(path)).peer_id == bootstrap.ready.peer_id
    error = error_of(run("bootstrap", *LISTEN, "--identity", path, root=start.root))
    assert path in error
    assert "--identity" in error


def test_an_identity_that_is_none(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "junk.key"
    path.write_bytes(b"junk")
    error = error_of(run("bootstrap", *LISTEN, "--identity", str(path), root=start.root))
    assert str(path) in error
    assert path.read_bytes() == b"junk"


def test_an_identity_that_cannot_be_read(start: Start, tmp_path: Path) -> None:
    """A folder in its place: not even root can read that as a file."""
    path = tmp_path / "folder.key"
    path.mkdir()
    error = error_of(run("bootstrap", *LISTEN, "--identity", str(path), root=start.root))
    assert f"{path} cannot be read" in error


def test_a_ready_file_that_cannot_be_written(start: Start, tmp_path: Path) -> None:
    """Nobody could wait for it: the command ends instead of serving."""
    path = str(tmp_path / "no" / "ready.json")
    error = error_of(run("bootstrap", *LISTEN, "--ready-file", path, root=start.root))
    assert path in error


# ---- settings from the environment


def test_initial_peers_from_the_environment(start: Start, bootstrap: Process) -> None:
    """Several, separated by spaces; one that can be reached is enough."""
    peers = f"{NOBODY} {bootstrap.ready.address}"
    outcome = run("peers", "--json", root=start.root, environment={"P2PNET_INITIAL_PEERS": peers})
    assert outcome.status == 0, outcome.stderr
    assert json.loads(outcome.stdout) == []


def test_a_bootstrap_file_from_the_environment(start: Start, bootstrap: Process, tmp_path: Path) -> None:
    path = tmp_path / "peers.txt"
    path.write_text(f"# ours\n\n{bootstrap.ready.address}  # the only one\n")
    environment = {"P2PNET_BOOTSTRAP_FILE": str(path)}
    outcome = run("models", "--json", root=start.root, environment=environment)
    assert outcome.status == 0, outcome.stderr
    assert json.loads(outcome.stdout) == []
    path.write_text("nonsense\n")
    assert "nonsense" in error_of(run("models", root=start.root, environment=environment))
    path.unlink()
    assert "P2PNET_BOOTSTRAP_FILE" in error_of(run("models", root=start.root, environment=environment))


def test_a_data_folder_from_the_environment(start: Start, tmp_path: Path) -> None:
    process = start("bootstrap", *LISTEN, environment={"P2PNET_DATA_DIR": str(tmp_path / "data")})
    peer_id = process.wait_ready().peer_id
    assert Identity.load(tmp_path / "data" / "bootstrap.key").peer_id == peer_id
    assert process.stop() == 0
    again = start("bootstrap", *LISTEN, environment={"P2PNET_DATA_DIR": str(tmp_path / "data")})
    assert again.wait_ready().peer_id == peer_id


# ---- help


def test_help_imports_nothing_heavy(start: Start) -> None:
    """What makes `p2pnet --help` answer at once."""
    script = (
        "import sys\n"
        "from p2pnet.cli.main import main\n"
        "sys.argv = ['p2pnet', *sys.argv[1:]]\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as ended:\n"
        "    assert not ended.code\n"
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)\n"
    )
    heavy = {"torch", "transformers", "hivemind", "numpy", "fastapi", "starlette", "uvicorn", "httpx"}
    heavy |= {"gateway", "cryptography", "multiaddr", "safetensors", "tokenizers"}
    for arguments in (("--help",), ("serve", "--help"), ("--version",)):
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
        assert heavy & set(done.stderr.split()) == set()


def test_a_worker_whose_key_another_one_has(start: Start, bootstrap: Process, tmp_path: Path) -> None:
    """As on a cloned machine: the second is refused while the first answers, and starts once the first is killed."""
    script = tmp_path / "script.json"
    script.write_text(json.dumps([{"model": "one", "answers": [{"text": "one"}]}]))
    peer = bootstrap.ready.address
    own, copied = tmp_path / "own.key", tmp_path / "copied.key"
    first = start.worker("--script", str(script), "--identity", str(own), peer=peer)
    first.wait_ready()
    copied.write_bytes(own.read_bytes())
    copied.chmod(0o600)
    arguments = ("serve", *LISTEN, "--initial-peers", peer, "--script", str(script), "--identity", str(copied))
    said = error_of(run(*arguments, root=start.root))
    assert "Another worker has this one's key" in said and "copied.key" in said
    first.stop(signal.SIGKILL)
    start.worker("--script", str(script), "--identity", str(copied), peer=peer).wait_ready()
