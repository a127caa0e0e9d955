"""What the doctor makes of each fact, as tables: how bad it is, and a word of what is said and of the fix."""

from __future__ import annotations

import errno
import json
import socket
from pathlib import Path

import pytest

from p2pnet.config import DEFAULT_LISTEN
from p2pnet.doctor.machine import gpu_from, llama_from, look_at_disks, look_at_packages, look_at_ports, problem_from
from p2pnet.doctor.machine_verdicts import (
    Disk,
    Gpu,
    Llama,
    Memory,
    Package,
    Port,
    judge_disk,
    judge_gpu,
    judge_llama,
    judge_memory,
    judge_model,
    judge_packages,
    judge_ports,
    judge_python,
)
from p2pnet.doctor.network import mapping_of
from p2pnet.doctor.network_verdicts import (
    Asked,
    Mapping,
    Met,
    Seen,
    ThroughGateway,
    judge_clock,
    judge_gateway,
    judge_membership,
    judge_met,
    judge_nat,
    judge_relay,
    judge_round_trip,
)
from p2pnet.doctor.verdict import Level, Verdict, exit_status, failed, ok, warning
from p2pnet.network.interface import Meeting
from p2pnet.network.libp2p.autonat import DialBack
from p2pnet.network.libp2p.relay import GrantedLimits
from p2pnet.swarm.upkeep import WARN_BEFORE_MS
from tests.processes import free_port
from tests.stories import NOW_MS
from tests.swarm.members import ENDS_MS, LAB

OK, WARNING, FAILED = Level.OK, Level.WARNING, Level.FAILED
GB = 10**9
ADDRESS = "/ip4/11.0.0.7/tcp/31337/p2p/12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X"
OBSERVED = "/ip4/11.0.0.9/tcp/40000"
UP, DOWN, UNKNOWN = DialBack.REACHED, DialBack.NOT_REACHED, DialBack.NOT_TRIED
GENEROUS, STINGY = GrantedLimits(21600, 4 << 30), GrantedLimits(120, 128 << 10)


def met(ahead_s: float | None, took_s: float = 0.1) -> Met:
    return Met(ADDRESS, Meeting(took_s, ahead_s))


LOST = Met(ADDRESS, problem="connection\x1b refused")


@pytest.mark.parametrize(
    ("verdict", "level", "said"),
    [
        (judge_disk(Disk("models", "/x", 50 * GB)), OK, "50.0 GB free for models in /x"),
        (judge_disk(Disk("models", "/x", 5 * GB)), WARNING, "HF_HOME"),
        (judge_disk(Disk("models", "/x", GB // 2)), FAILED, "0.5 GB free"),
        (judge_disk(Disk("models", "/x", 50 * GB, "/ is not yours")), FAILED, "cannot be written to: / is not yours"),
        (judge_memory(Memory(8 * GB, 16 * GB)), OK, "8.0 GB of 16.0 GB"),
        (judge_memory(Memory(2 * GB, 16 * GB)), WARNING, "--quantization"),
        (judge_memory(Memory(GB // 2, 16 * GB)), FAILED, "0.5 GB of"),
        (judge_gpu(Gpu(cpu_threads=4)), OK, "none: models run on 4 threads of the CPU"),
        (judge_gpu(Gpu(names=("H100",), memory_bytes=(80 * GB,))), OK, "H100 with 80 GB"),
        (judge_gpu(Gpu(has_mps=True)), OK, "--device mps"),
        (judge_gpu(Gpu(has_nvidia=True)), WARNING, "CUDA"),
        (judge_gpu(Gpu(problem="ImportError: libcudart")), FAILED, "pip install --force-reinstall torch"),
        (judge_llama(Llama()), OK, "pip install 'p2pnet[gguf]'"),
        (judge_llama(Llama("0.3.36")), OK, "llama-cpp-python 0.3.36 runs them on the processor"),
        (judge_llama(Llama("0.3.36", ("RTX (--device cuda)",))), OK, "on RTX (--device cuda)"),
        (judge_llama(Llama(problem="libllama.so is missing.")), WARNING, "docs/volunteer.md says how to build it"),
        (judge_model(None), OK, "the bundled model generates"),
        (judge_model("It has no cache."), FAILED, "does not generate: It has no cache"),
        (judge_model("It has no cache."), FAILED, "-c constraints.txt"),
        (judge_python((3, 11, 0)), OK, "python 3.11.0"),
        (judge_python((3, 10, 9)), FAILED, "Python 3.11"),
        (judge_packages((Package("a", ">=1", "1.2", True), Package("b", "<2", "1", True))), OK, "a 1.2, b 1"),
        (judge_packages((Package("a", ">=1", "1.2", True), Package("b", "<2", "3", False))), FAILED, "'b<2'"),
        (judge_packages((Package("a", ">=1", None, None),)), FAILED, "a is not installed"),
        (judge_ports((Port("/ip4/0.0.0.0/tcp/1"), Port("/ip4/0.0.0.0/udp/1"))), OK, "udp/1"),
        (judge_ports((Port("x"), Port("y", "Address already in use"))), FAILED, "on y: Address already in use"),
        (judge_met(met(0.0)), OK, "answers in 100 ms"),
        (judge_met(met(0.0, 3.5)), WARNING, "answers in 3.5 s"),
        (judge_met(LOST), FAILED, "connection  refused"),
        (judge_clock(NOW_MS, (met(0.0),)), OK, "as the peers' clocks"),
        (judge_clock(NOW_MS, (met(-2.0),)), WARNING, "2.0 s ahead"),
        (judge_clock(NOW_MS, (met(60.0), LOST)), FAILED, "60.0 s behind"),
        (judge_clock(NOW_MS, (met(60.0), met(0.1))), OK, "as the peers' clocks"),
        (judge_clock(NOW_MS, (met(None), LOST)), WARNING, "no peer to compare"),
        (judge_clock(1_000, (met(0.0),)), FAILED, "years behind"),
        (judge_nat(Seen()), WARNING, "no peer told"),
        (judge_nat(Seen("/ip4/10.0.0.1/tcp/1", is_private=True)), OK, "cannot be told from here"),
        (
            judge_nat(Seen(OBSERVED, dialled=(("TCP", UP), ("QUIC", UP)))),
            OK,
            "public: peers see this machine at 11.0.0.9",
        ),
        (judge_nat(Seen(OBSERVED, dialled=(("TCP", UP), ("QUIC", DOWN)))), WARNING, "by TCP, not by QUIC"),
        (judge_nat(Seen(OBSERVED, dialled=(("TCP", DOWN), ("QUIC", DOWN)))), WARNING, "through relays"),
        (judge_nat(Seen(OBSERVED, dialled=(("TCP", DOWN), ("QUIC", UNKNOWN)))), WARNING, "behind NAT"),
        (judge_nat(Seen(OBSERVED, dialled=(("TCP", DOWN),), mapping=Mapping.ONE_FOR_ALL)), WARNING, "through holes"),
        (judge_nat(Seen(OBSERVED, dialled=(("TCP", DOWN),), mapping=Mapping.ONE_FOR_EACH)), WARNING, "NAT (symmetric"),
        (judge_nat(Seen(OBSERVED, dialled=(("TCP", UNKNOWN),))), WARNING, "Ask again in a minute."),
        (judge_nat(Seen(OBSERVED)), WARNING, "none would dial it now"),
        (judge_membership(LAB.invitation(), NOW_MS), OK, "a member of lab for 90 d"),
        (judge_membership(LAB.invitation(), ENDS_MS - WARN_BEFORE_MS + 1), WARNING, "p2pnet swarm join"),
        (judge_relay((GENEROUS, None), is_needed=True), OK, "1 of 2 peers would relay"),
        (judge_relay((STINGY,), is_needed=True), WARNING, "cut answers short"),
        (judge_relay((STINGY,), is_needed=False), OK, "1 of 1"),
        (judge_relay((GrantedLimits(None, None),), is_needed=True), OK, "1 of 1"),
        (judge_relay((None,), is_needed=True), FAILED, "others can dial"),
        (judge_relay((None,), is_needed=False), OK, "none is needed"),
        (judge_round_trip((Asked("p", "m", problem="busy"), Asked("q", "m\n", 0.25))), OK, "a token of m  in 250 ms"),
        (judge_round_trip((Asked("q", "m", 0.25, is_direct=True),)), OK, "in 250 ms, directly"),
        (judge_round_trip((Asked("q", "m", 0.25, is_direct=False),)), OK, "in 250 ms, through a relay"),
        (judge_round_trip((Asked("peer", "m", problem="no\x07"),)), FAILED, "..peer: no )"),
        (judge_round_trip(()), WARNING, "p2pnet serve --model tiny"),
        (judge_gateway(ThroughGateway("http://x", 200, 0.5)), OK, "500 ms"),
        (judge_gateway(ThroughGateway("http://x", 401)), FAILED, "--api-key-env"),
        (judge_gateway(ThroughGateway("http://x", 503, 0.1, "no worker")), FAILED, "503: no worker"),
        (judge_gateway(ThroughGateway("http://x", problem="refused")), FAILED, "p2pnet gateway"),
    ],
)
def test_what_each_fact_comes_to(verdict: Verdict, level: Level, said: str) -> None:
    assert verdict.level is level
    assert said in f"{verdict.says} {verdict.fix}"
    assert not verdict.says.endswith(".")
    assert f"{verdict.says}{verdict.fix}".isprintable()
    assert (verdict.fix is None) == (level is OK)
    assert verdict.fix is None or verdict.fix.endswith(".")


def test_only_what_failed_makes_the_status() -> None:
    assert exit_status([]) == 0
    assert exit_status([ok("a", "b"), warning("a", "b", "c")]) == 0
    assert exit_status([failed("a", "b", "c"), ok("a", "b")]) == 1


@pytest.mark.parametrize(
    ("status", "stdout", "stderr", "found"),
    [
        (0, b'chatter\n{"names": [], "memory_bytes": [], "cpu_threads": 3}\n', b"", Gpu(cpu_threads=3)),
        (0, b'{"names": ["A"], "memory_bytes": [5], "has_mps": false}', b"noise", Gpu(None, ("A",), (5,))),
        (1, b"", b"Traceback\nImportError: libtorch", Gpu(problem="ImportError: libtorch")),
        (-11, b"", b"", Gpu(problem="it ended with status -11")),
        (0, b"nothing", b"", Gpu(problem="it ended with status 0")),
    ],
)
def test_what_torch_says_of_itself(status: int, stdout: bytes, stderr: bytes, found: Gpu) -> None:
    assert gpu_from(status, stdout, stderr) == found


@pytest.mark.parametrize(
    ("status", "stdout", "stderr", "found"),
    [
        (0, b'{"version":"0.3.36","devices":["A (--device cuda)"]}', b"", Llama("0.3.36", ("A (--device cuda)",))),
        (0, b"{}", b"", Llama()),
        (-4, b"", b"", Llama(problem="it was built for another processor, and dies of an illegal instruction")),
        (1, b"", b"Traceback\nOSError: libgomp", Llama(problem="OSError: libgomp")),
        (0, b"nothing", b"", Llama(problem="it ended with status 1")),
    ],
)
def test_what_llama_cpp_says_of_itself(status: int, stdout: bytes, stderr: bytes, found: Llama) -> None:
    assert llama_from(status, stdout, stderr) == found


@pytest.mark.parametrize(
    ("status", "stderr", "problem"),
    [
        (0, b"chatter", None),
        (1, b"noise\nError: The model has no key-value cache.\nUse another.\n", "The model has no key-value cache."),
        (1, b"Traceback\nImportError: cannot import name", "ImportError: cannot import name"),
        (-9, b"", "it ended with status -9"),
    ],
)
def test_what_a_try_of_the_bundled_model_says(status: int, stderr: bytes, problem: str | None) -> None:
    assert problem_from(status, b"{}", stderr) == problem


def test_versions_are_held_against_our_own_metadata() -> None:
    found = {package.name: package for package in look_at_packages()}
    assert set(found) == {"torch", "transformers", "hivemind"}
    assert all(package.fits for package in found.values())
    (wrong,) = look_at_packages(["torch>=99", "nothing>1; extra == 'dev'"])
    assert (wrong.name, wrong.wanted, wrong.fits) == ("torch", ">=99", False)


def test_ports_that_are_taken(tmp_path: Path) -> None:
    port = free_port()
    addresses = [f"/ip4/127.0.0.1/tcp/{port}", f"/ip4/127.0.0.1/udp/{port}/quic-v1"]
    assert [one.problem for one in look_at_ports(addresses)] == [None, None]
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", port))
        tcp.listen()
        udp.bind(("127.0.0.1", port))
        assert [one.problem for one in look_at_ports(addresses)] == ["Address already in use"] * 2
    (elsewhere,) = look_at_ports(["/ip4/203.0.113.7/tcp/1234"])
    assert elsewhere.problem is not None
    (odd,) = look_at_ports(["/dns4/example.org/tcp/1"])
    assert odd.problem is not None


def test_a_machine_can_listen_by_default_whether_it_has_ipv6_or_not() -> None:
    assert {one.problem for one in look_at_ports(DEFAULT_LISTEN)} == {None}

    def make(family: int, kind: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return socket.socket(family, kind)

    assert {one.problem for one in look_at_ports(DEFAULT_LISTEN, make)} == {None}
    (asked_for,) = look_at_ports([f"/ip6/::/tcp/{free_port()}"], make)
    assert asked_for.problem == "Address family not supported by protocol"


def test_folders_that_are_not_there_yet_have_their_parents_room(tmp_path: Path) -> None:
    first, _ = look_at_disks(tmp_path / "not" / "yet")
    assert first.free_bytes > 0 and first.problem is None
    (tmp_path / "file").touch()
    blocked, _ = look_at_disks(tmp_path / "file" / "below")
    assert blocked.problem == f"{tmp_path / 'file'} is no folder"


def test_verdicts_are_json() -> None:
    import msgspec

    assert json.loads(msgspec.json.encode([failed("a", "b", "c")])) == [
        {"check": "a", "level": "failed", "says": "b", "fix": "c"}
    ]


@pytest.mark.parametrize(
    ("observed", "mapping"),
    [
        ([], None),
        (["/ip4/20.1.1.1/udp/5/quic-v1"], None),
        (["/ip4/20.1.1.1/udp/5/quic-v1", "/ip4/20.1.1.1/tcp/7", "/ip4/20.1.1.1/tcp/8"], None),
        (["/ip4/20.1.1.1/udp/5/quic-v1"] * 2, Mapping.ONE_FOR_ALL),
        (["/ip4/20.1.1.1/udp/5/quic-v1", "/ip4/20.1.1.1/udp/6/quic-v1"], Mapping.ONE_FOR_EACH),
    ],
)
def test_what_kind_of_nat_it_is(observed: list[str], mapping: Mapping | None) -> None:
    assert mapping_of(observed) is mapping
