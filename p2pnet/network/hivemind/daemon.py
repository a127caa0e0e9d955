"""Starts p2pd with the flags we choose, and owns its process and its sockets' folder.

Knows nothing of the DHT or of streams: `p2pd` attaches to the control socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from p2pnet.config import NetworkConfig
from p2pnet.errors import DaemonFailed
from p2pnet.network.dial_addresses import Scope, scope_of_text
from p2pnet.network.hivemind.file_limit import raise_file_limit
from p2pnet.network.hivemind.listening import cannot_listen
from p2pnet.network.hivemind.socket_folder import SocketFolder
from p2pnet.network.multiaddrs import is_loopback, parts_of

logger = logging.getLogger(__name__)

READY_LINE = b"Peer ID:"
STOP_TIMEOUT_S = 3.0
"""p2pd leaves within 0.1 s of SIGTERM; after this it is killed."""

MAX_LINE_BYTES = 1 << 16

MAX_CONTROL_BYTES = 1 << 16
"""Of one message to p2pd: the largest names the addresses of a peer to dial. p2pd reads strangers' messages of its own
unary calls by the same bound, and reserves what they announce. We register no such call."""

TRIMMED_FACTOR = 2
"""With so many times the connections that are allowed p2pd itself parts from peers that have been there for two
minutes, whoever they are. Its own defaults, 256 and 512, would have newcomers push out those who are served."""

COLLECTED_ABOVE_BYTES = 96 << 20
RELAY_COLLECTED_ABOVE_BYTES = 192 << 20
"""Above this p2pd's Go collects garbage eagerly, and gives it back to the system. What is in use stays below it: 1,500
streams and 1,000 connections have 100 MB, and a relay's 1,000 circuits with 100 kB each on its way 140 MB."""


class Daemon:
    """One p2pd process. It ends with us: p2pd exits when its last client goes, also when we are killed."""

    def __init__(self, process: asyncio.subprocess.Process, folder: SocketFolder) -> None:
        self._process = process
        self._folder = folder
        self._log_task = asyncio.create_task(self._log_output())

    @classmethod
    async def start(cls, config: NetworkConfig, listen: tuple[str, ...]) -> Daemon:
        """Start p2pd and wait until it serves its control socket. Raises DaemonFailed."""
        raise_file_limit()
        folder = SocketFolder.make()
        process: asyncio.subprocess.Process | None = None
        try:
            with _started_in_batches() if config.is_client else contextlib.nullcontext():
                process = await asyncio.create_subprocess_exec(
                    str(binary()),
                    *flags(config, listen, folder.path),
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    stdin=asyncio.subprocess.DEVNULL,
                    limit=MAX_LINE_BYTES,
                    start_new_session=True,  # Ctrl-C in the terminal must reach us first, to withdraw our records
                    env=environment(config),
                )
            async with asyncio.timeout(config.start_timeout_s):
                await _wait_until_ready(process)
        except BaseException as error:
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()
            folder.remove()
            if isinstance(error, TimeoutError):
                raise DaemonFailed(
                    f"p2pd did not start within {config.start_timeout_s:.0f} seconds.",
                    "Try again on a less busy machine.",
                ) from error
            if isinstance(error, OSError):
                raise DaemonFailed(
                    f"p2pd cannot be run: {error.strerror}.", "Reinstall hivemind: its wheel carries p2pd."
                ) from error
            raise
        return cls(process, folder)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def folder(self) -> Path:
        """For more sockets that must end with this process."""
        return self._folder.path

    @property
    def control_socket(self) -> Path:
        return self.folder / "control.sock"

    async def wait(self) -> int:
        """Wait for its end, wanted or not; returns the exit status."""
        return await self._process.wait()

    def kill(self) -> None:
        """End the process at once; who waits for its end is told. Its folder stays until `stop`."""
        if self._process.returncode is None:
            self._process.kill()

    async def stop(self) -> None:
        """End the process and remove its folder, also when it has died already."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        self._log_task.cancel()
        self._folder.remove()

    async def _log_output(self) -> None:
        while line := await self._next_line():
            logger.debug("p2pd: %s", line.decode(errors="replace").rstrip())

    async def _next_line(self) -> bytes:
        """Empty at the end. One beyond the limit is passed over: were it the last to be read, p2pd would wait for ever
        for room to say more."""
        assert self._process.stdout is not None
        try:
            return await self._process.stdout.readline()
        except ValueError:
            return b"an overlong line"


@contextlib.contextmanager
def _started_in_batches() -> Iterator[None]:
    """What is started inside is woken without interrupting who wakes it (SCHED_BATCH, sched(7)), on Linux.

    Each write to p2pd wakes it. On a busy machine it took our core from us at once, for that one frame, several times a
    request. So it does several at a time: with 50 live streams p2pd takes a third less CPU time a token and a gateway a
    tenth, and tokens are as late as before. Not where models are computed: p2pd should not have to wait for those. A
    core that is free takes it at once anyway.
    """
    is_usual = hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_OTHER
    if not is_usual:  # another system, or somebody has chosen otherwise for us
        yield
        return
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def binary() -> Path:
    """The p2pd that hivemind's wheel carries, found without importing hivemind."""
    spec = importlib.util.find_spec("hivemind")
    if spec is None or spec.origin is None:
        raise DaemonFailed("hivemind is not installed.", "Install it: pip install hivemind.")
    return Path(spec.origin).parent / "hivemind_cli" / "p2pd"


def flags(config: NetworkConfig, listen: tuple[str, ...], folder: Path) -> list[str]:
    """p2pd's command line for this kind of peer. No -dhtServer: its own Kademlia stores whatever strangers send it, and
    `network/dht` passes addresses on itself."""
    chosen: dict[str, str | int] = {
        "listen": f"/unix{folder}/control.sock",
        "id": str(config.identity_file),
        "hostAddrs": ",".join(listen),
        "persistentConnMaxMsgSize": MAX_CONTROL_BYTES,
        "connManager": 1,
        "connLo": config.max_connections,
        "connHi": TRIMMED_FACTOR * config.max_connections,
        "natPortMap": int(_asks_router(config) and not all(map(is_loopback, listen))),
        "idleTimeout": "60s",
        # No -b: with it p2pd exits when none of its bootstrap peers answers. We dial the initial peers ourselves.
        "b": 0,
    }
    if config.announce:
        chosen["announceAddrs"] = ",".join(config.announce)
    chosen |= _reachability_flags(config)
    return [f"-{name}={value}" for name, value in chosen.items()]


def _asks_router(config: NetworkConfig) -> bool:
    return not config.is_client if config.asks_router is None else config.asks_router


def environment(config: NetworkConfig) -> dict[str, str]:
    """p2pd's environment: quiet and frugal."""
    collected_above = RELAY_COLLECTED_ABOVE_BYTES if is_known_public(config) else COLLECTED_ABOVE_BYTES
    frugal = {"GOMEMLIMIT": str(min(collected_above, config.max_p2pd_bytes // 2))}
    return {"GOLOG_LOG_LEVEL": "error"} | frugal | dict(os.environ)


def is_known_public(config: NetworkConfig) -> bool:
    """Whether others can dial a peer from everywhere, as is known at its start: a bootstrap, a machine with a public
    address, and who says so."""
    if config.is_bootstrap or config.is_behind_nat is not None:
        return config.is_bootstrap or not config.is_behind_nat
    return not config.is_client and _has_public_address(config.listen)


def _has_public_address(listen: Sequence[str]) -> bool:
    """Whether this machine has one itself, among those listened on."""
    hosts = {value for name, value in (parts_of(address)[0] for address in listen) if name in ("ip4", "ip6")}
    own = {each.address for addresses in psutil.net_if_addrs().values() for each in addresses}
    heard = own if hosts & {"0.0.0.0", "::"} else hosts
    return any(scope_of_text(host) is Scope.PUBLIC for host in heard)


def _reachability_flags(config: NetworkConfig) -> dict[str, str | int]:
    """All take circuits that come to them, ask relays for places themselves (`network/reach`), and relay themselves
    (`network/relaying`). p2pd is told whether it is public, which it would go and find out, since then it answers those
    who ask to be dialled back; and relays with libp2p's limits, until our own relay has taken its place. One that is
    told that it is not punches holes, once four peers have told it its address."""
    reachability = "forceReachabilityPublic" if is_known_public(config) else "forceReachabilityPrivate"
    return {"autonat": 1, "relay": 1, "relayService": 0, reachability: 1}


async def _wait_until_ready(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    last_line = b""
    while line := await process.stdout.readline():
        if line.startswith(READY_LINE):
            return
        last_line = line.strip() or last_line
    reason = last_line.decode(errors="replace")
    if "failed to listen" in reason:
        raise cannot_listen(reason)
    raise DaemonFailed(f"p2pd did not start: {reason or 'it gave no reason'}.", "See --log-level debug for its output.")
