"""Who may import whom: the arrows between the rooms of tests/rooms.py, held against every import in the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.rooms import ROOMS, may_import, room_of

ROOT = Path(__file__).parent.parent

MAX_LINES = 350

NETWORK_STACK = ("asyncio", "hivemind", "torch", "transformers", "fastapi", "starlette", "uvicorn", "socket")

PURE = {
    "p2pnet/errors.py": NETWORK_STACK,
    "p2pnet/config.py": NETWORK_STACK,
    "p2pnet/messages.py": NETWORK_STACK,
    "p2pnet/features.py": NETWORK_STACK,
    "p2pnet/wire/vectors.py": NETWORK_STACK,
    "p2pnet/wire/answer_limits.py": NETWORK_STACK,
    "p2pnet/identity.py": NETWORK_STACK,
    "p2pnet/network/multiaddrs.py": NETWORK_STACK,
    "p2pnet/records.py": NETWORK_STACK,
    "p2pnet/network/interface.py": NETWORK_STACK,
    "p2pnet/directory.py": NETWORK_STACK,
    "p2pnet/swarm/certificates.py": NETWORK_STACK,
    "p2pnet/swarm/revocations.py": NETWORK_STACK,
    "p2pnet/swarm/register.py": NETWORK_STACK,
    "p2pnet/swarm/secret.py": NETWORK_STACK,
    "p2pnet/swarm/invitation.py": NETWORK_STACK,
    "p2pnet/swarm/ledger.py": NETWORK_STACK,
    "p2pnet/wire/codec.py": NETWORK_STACK,
    "p2pnet/wire/stage_frames.py": NETWORK_STACK,
    "p2pnet/stage_messages.py": NETWORK_STACK,
    "p2pnet/spans.py": NETWORK_STACK,
    "p2pnet/worker/chains/choosing.py": NETWORK_STACK,
    "p2pnet/worker/placement/choosing.py": NETWORK_STACK,
    "p2pnet/worker/chains/rows.py": NETWORK_STACK,
    "p2pnet/worker/stages/shelf.py": NETWORK_STACK,
    "p2pnet/wire/exchange.py": NETWORK_STACK,
    "p2pnet/worker/engine/sampler.py": ("asyncio", "hivemind", "fastapi", "socket"),
    "p2pnet/worker/text/emission.py": NETWORK_STACK,
    "p2pnet/worker/embedding/queue.py": NETWORK_STACK,
    "p2pnet/worker/embedding/files.py": NETWORK_STACK,
    "p2pnet/worker/text/stopping.py": NETWORK_STACK,
    "p2pnet/worker/announcing/fitting.py": NETWORK_STACK,
    "p2pnet/worker/streams/merging.py": NETWORK_STACK,
    "p2pnet/worker/streams/arrivals.py": NETWORK_STACK,
    "p2pnet/worker/streams/quota.py": NETWORK_STACK,
    "p2pnet/rate_limit.py": NETWORK_STACK,
    "p2pnet/worker/streams/guard.py": NETWORK_STACK,
    "p2pnet/worker/observability/observer.py": NETWORK_STACK,
    "p2pnet/worker/observability/panel.py": (*NETWORK_STACK, "rich"),
    "p2pnet/worker/observability/tally.py": NETWORK_STACK,
    "p2pnet/display/printable.py": NETWORK_STACK,
    "p2pnet/display/durations.py": NETWORK_STACK,
    "p2pnet/network/libp2p/protobuf.py": NETWORK_STACK,
    "p2pnet/network/libp2p/autonat.py": NETWORK_STACK,
    "p2pnet/cli/systemd_unit.py": NETWORK_STACK,
    "p2pnet/doctor/verdict.py": NETWORK_STACK,
    "p2pnet/doctor/machine_verdicts.py": NETWORK_STACK,
    "p2pnet/doctor/network_verdicts.py": NETWORK_STACK,
    "p2pnet/top/overview.py": (*NETWORK_STACK, "httpx"),
    "p2pnet/top/columns.py": (*NETWORK_STACK, "httpx"),
    "p2pnet/top/frame.py": (*NETWORK_STACK, "httpx"),
    "p2pnet/worker/owner/schedule.py": NETWORK_STACK,
    "p2pnet/worker/owner/busy.py": NETWORK_STACK,
    "p2pnet/worker/backends/upstream/address.py": (*NETWORK_STACK, "aiohttp"),
    "p2pnet/worker/backends/upstream/answer.py": (*NETWORK_STACK, "aiohttp"),
    "p2pnet/worker/backends/upstream/dialect.py": (*NETWORK_STACK, "aiohttp"),
    "p2pnet/worker/backends/upstream/openai/flavours.py": (*NETWORK_STACK, "aiohttp"),
    "p2pnet/worker/backends/upstream/lines.py": (*NETWORK_STACK, "aiohttp"),
    "p2pnet/worker/backends/upstream/logprobs.py": (*NETWORK_STACK, "aiohttp"),
    "p2pnet/worker/backends/upstream/ollama/dialect.py": (*NETWORK_STACK, "aiohttp"),
    "p2pnet/worker/backends/upstream/ollama/reader.py": (*NETWORK_STACK, "aiohttp"),
    "p2pnet/worker/backends/upstream/openai/dialect.py": (*NETWORK_STACK, "aiohttp"),
    "p2pnet/worker/backends/upstream/openai/reader.py": (*NETWORK_STACK, "aiohttp"),
    "p2pnet/worker/backends/upstream/refusals.py": (*NETWORK_STACK, "aiohttp"),
    "p2pnet/worker/speed.py": NETWORK_STACK,
    "gateway/routing/choose.py": NETWORK_STACK,
    "gateway/routing/route_query.py": NETWORK_STACK,
    "gateway/http/proxies.py": NETWORK_STACK,
    "gateway/routing/weighted_sampling.py": NETWORK_STACK,
    "gateway/queueing/fair_queue.py": NETWORK_STACK,
    "gateway/http/failures.py": NETWORK_STACK,
    "gateway/observability/outcomes.py": NETWORK_STACK,
    "gateway/observability/recent.py": NETWORK_STACK,
    "gateway/observability/views.py": NETWORK_STACK,
    "gateway/observability/choice_log.py": NETWORK_STACK,
    "gateway/observability/history_file.py": NETWORK_STACK,
    "gateway/observability/reports.py": NETWORK_STACK,
    "gateway/observability/failures.py": NETWORK_STACK,
    "gateway/observability/mesh.py": NETWORK_STACK,
    "gateway/observability/timeline.py": NETWORK_STACK,
    "gateway/peers/worker.py": NETWORK_STACK,
    "gateway/peers/pace.py": NETWORK_STACK,
    "gateway/peers/health.py": NETWORK_STACK,
    "gateway/dispatch/failure_policy.py": NETWORK_STACK,
    "gateway/dispatch/refusals.py": NETWORK_STACK,
    "gateway/dispatch/silence.py": NETWORK_STACK,
    "gateway/dispatch/hedging.py": NETWORK_STACK,
    "p2pnet/wire/packing.py": NETWORK_STACK,
    "p2pnet/wire/protocols.py": NETWORK_STACK,
    "gateway/interface.py": NETWORK_STACK,
    "gateway/routing/roster.py": NETWORK_STACK,
    "gateway/routing/scoring.py": NETWORK_STACK,
    "gateway/dispatch/progress.py": NETWORK_STACK,
    "gateway/dispatch/generate_progress.py": NETWORK_STACK,
    "gateway/dispatch/embed_progress.py": NETWORK_STACK,
}
"""What is a function of data alone, and what it therefore never imports."""


@dataclass(frozen=True)
class Import:
    """One import of one module, by the file that does it. `is_lazy`: inside a function."""

    file: str
    module: str
    is_lazy: bool

    def of(self, package: str) -> bool:
        return self.module == package or self.module.startswith(package + ".")


def imports_of(path: Path) -> Iterator[Import]:
    file = path.relative_to(ROOT).as_posix()

    def walk(node: ast.AST, is_lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(file, alias.name, is_lazy) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{file}: relative imports hide where they lead"
                assert child.module is not None
                names = (f"{child.module}.{alias.name}" for alias in child.names)
                yield from (Import(file, name if is_module(name) else child.module or "", is_lazy) for name in names)
            else:
                is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(child, is_lazy or is_function)

    yield from walk(ast.parse(path.read_text()), is_lazy=False)


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


SOURCES = [path for package in ("p2pnet", "gateway") for path in sorted((ROOT / package).rglob("*.py"))]
IMPORTS = [found for path in SOURCES for found in imports_of(path)]


def files_that_import(*packages: str) -> set[str]:
    return {found.file for found in IMPORTS if any(found.of(package) for package in packages)}


def in_folder(files: set[str], folder: str) -> set[str]:
    return {file for file in files if file.startswith(folder)}


def test_imports_are_found() -> None:
    assert Import("p2pnet/wire/codec.py", "p2pnet.messages", False) in IMPORTS
    assert Import("p2pnet/peer.py", "p2pnet.network.hivemind.network", True) in IMPORTS
    assert len(IMPORTS) > 200


def module_of(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def test_no_file_is_two() -> None:
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in SOURCES}
    assert {file: length for file, length in lengths.items() if length > MAX_LINES} == {}


def test_no_file_imports_one_that_imports_it() -> None:
    """However long the way round is. What is imported late is imported all the same."""
    graph: dict[str, set[str]] = {}
    for found in IMPORTS:
        graph.setdefault(module_of(found.file), set()).add(found.module)
    modules = {module_of(path.relative_to(ROOT).as_posix()) for path in SOURCES}
    ours = {module: others & modules - {module} for module, others in graph.items()}
    assert list(TopologicalSorter(ours).static_order())  # raises CycleError


def test_every_module_is_in_a_room() -> None:
    """And every room has modules."""
    modules = {module_of(path.relative_to(ROOT).as_posix()) for path in SOURCES} - {"p2pnet", "gateway"}
    homeless = {module for module in modules if room_of(module) is None} - {"p2pnet.worker", "gateway.surfaces"}
    assert homeless == set(), "a new module needs a room in tests/rooms.py"
    assert {room_of(module) for module in modules} - {None} == set(ROOMS)


def test_rooms_import_from_rooms_below_them() -> None:
    order = list(ROOMS)
    upwards = [
        f"{room} stands above {other}"
        for room in ROOMS
        for other in may_import(room)
        if order.index(other) >= order.index(room)
    ]
    assert upwards == []


def test_imports_follow_the_arrows_and_every_arrow_is_used() -> None:
    arrows: dict[str, set[str]] = {room: set() for room in ROOMS}
    for found in IMPORTS:
        room, other = room_of(module_of(found.file)), room_of(found.module)
        if room is not None and other is not None and room != other:
            arrows[room].add(other)
    assert arrows == {room: set(may_import(room)) for room in ROOMS}


def test_only_the_command_line_of_p2pnet_knows_the_gateway() -> None:
    importers = in_folder(files_that_import("gateway"), "p2pnet/")
    assert importers - in_folder(importers, "p2pnet/cli/") == set()


@pytest.mark.parametrize("package", ["p2pnet.worker", "p2pnet.cli", "torch", "transformers", "hivemind"])
def test_the_gateway_never_imports(package: str) -> None:
    assert in_folder(files_that_import(package), "gateway/") == set()


@pytest.mark.parametrize(
    "package",
    ["p2pnet.network.hivemind.network", "p2pnet.peer", "p2pnet.network.hivemind.daemon", "p2pnet.network.memory"],
)
def test_the_gateway_is_handed_its_network(package: str) -> None:
    assert in_folder(files_that_import(package), "gateway/") == set()


def test_hivemind_is_imported_in_one_room() -> None:
    importers = files_that_import("hivemind")
    assert importers and importers == in_folder(importers, "p2pnet/network/hivemind/")


@pytest.mark.parametrize("module", ["daemon", "socket_folder", "listening", "p2pd_stream", "dht_values"])
def test_what_needs_no_hivemind_does_without(module: str) -> None:
    assert f"p2pnet/network/hivemind/{module}.py" not in files_that_import("hivemind")


def test_the_hivemind_network_is_imported_late_and_by_one() -> None:
    importers = [
        found
        for found in IMPORTS
        if found.of("p2pnet.network.hivemind") and not found.file.startswith("p2pnet/network/hivemind/")
    ]
    assert [(found.file, found.is_lazy) for found in importers] == [("p2pnet/peer.py", True)]


def test_llama_cpp_is_imported_late_and_in_one_place() -> None:
    importers = [found for found in IMPORTS if found.of("llama_cpp")]
    assert [(found.file, found.is_lazy) for found in importers] == [("p2pnet/worker/gguf/library.py", True)]


def test_torch_and_transformers_stay_where_models_are_loaded_and_run() -> None:
    computing = ("engine", "speculation", "spans", "stages", "chains", "gguf", "backends")
    parts = ("text", "checkpoints", "embedding", *computing)
    homes = (*(f"p2pnet/worker/{part}/" for part in parts), "p2pnet/cli/loading.py", "p2pnet/cli/staging.py")
    eager = {found.file for found in IMPORTS if (found.of("torch") or found.of("transformers")) and not found.is_lazy}
    assert {file for file in eager if not file.startswith(homes)} == set()


@pytest.mark.parametrize(
    ("part", "above"),
    [
        ("checkpoints", ("text", "embedding", "engine", "backends")),
        ("text", ("embedding", "engine", "backends")),
        ("embedding", ("text", "engine", "backends")),
        ("engine", ("embedding", "spans", "gguf", "backends")),
        ("spans", ("text", "embedding", "gguf", "backends")),
        ("gguf", ("text", "embedding", "backends")),
    ],
)
def test_the_parts_that_run_a_model_import_only_from_below(part: str, above: tuple[str, ...]) -> None:
    inside = [found for found in IMPORTS if found.file.startswith(f"p2pnet/worker/{part}/")]
    assert inside
    assert {found.file for found in inside if any(found.of(f"p2pnet.worker.{name}") for name in above)} == set()


@pytest.mark.parametrize("file", PURE)
def test_what_decides_on_data_alone_imports_nothing_that_acts(file: str) -> None:
    assert (ROOT / file).exists()
    found = {found.module for found in IMPORTS if found.file == file and any(found.of(name) for name in PURE[file])}
    assert found == set()


def test_surfaces_know_neither_dispatch_nor_routing_nor_one_another() -> None:
    forbidden = (
        "gateway.dispatch",
        "gateway.routing.choose",
        "gateway.peers",
        "gateway.app",
        "gateway.gateway",
        "p2pnet.client",
    )
    assert in_folder(files_that_import(*forbidden), "gateway/surfaces/") == set()
    crossing = [
        f"{found.file} imports {found.module}"
        for found in IMPORTS
        if found.file.startswith("gateway/surfaces/") and found.module.startswith("gateway.surfaces.")
        if dialect_of(found.file) != dialect_of(found.module)
    ]
    assert crossing == []


def dialect_of(module_or_file: str) -> str:
    """`openai` for gateway/surfaces/openai/routes.py."""
    return module_or_file.replace("/", ".").split(".")[2]


def loaded_by(module: str) -> set[str]:
    """The top-level packages, and modules of ours, that a fresh interpreter has loaded after importing `module`."""
    script = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        (
            "p2pnet.cli.main",
            [
                *("torch", "hivemind", "transformers", "fastapi", "uvicorn", "numpy", "prometheus_client", "httpx"),
                "p2pnet.worker.serve",
            ],
        ),
        ("p2pnet.network.hivemind.network", ["torch", "transformers", "numpy"]),
        ("gateway.gateway", ["torch", "hivemind", "transformers", "p2pnet.worker", "p2pnet.cli"]),
        (
            "p2pnet.cli.serve.upstreams, p2pnet.worker.backends.upstream.backend",
            ["torch", "hivemind", "transformers", "tokenizers", "numpy", "fastapi", "gateway"],
        ),
        ("p2pnet.worker.gguf.trial", ["torch", "transformers", "llama_cpp", "hivemind", "fastapi", "gateway"]),
        (
            "p2pnet.worker.serve, p2pnet.worker.backends.synthetic.echo",
            ["torch", "hivemind", "transformers", "fastapi", "prometheus_client", "aiohttp", "gateway"],
        ),
    ],
)
def test_importing_stays_light(module: str, absent: list[str]) -> None:
    assert loaded_by(module) & set(absent) == set()
