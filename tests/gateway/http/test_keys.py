"""Keys: the file, who is let in with which, and what each may take."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import httpx
import pytest

from gateway.app import create_app
from gateway.gateway import check_host
from gateway.http.access import Access, KeyRing, RateLimited, Unauthorized
from gateway.http.keys import (
    ApiKey,
    add_key,
    hash_key,
    new_key,
    parse_keys,
    read_keys,
    revoke_key,
    with_new,
    without,
    write_keys,
)
from gateway.interface import Caller
from gateway.observability.reports import RequestReport
from p2pnet.errors import UsageError
from tests.gateway.fake_generate import FakeGenerate, answer, service

ANNA = ApiKey("anna", hash_key("sk-p2pnet-anna"), 1, 6, 600)
BOB = ApiKey("bob", hash_key("sk-p2pnet-bob"))
CARL = ApiKey("carl", hash_key("sk-p2pnet-carl"), concurrent=2)


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_keys(tmp_path / "keys.txt", (ANNA, BOB))
    return tmp_path / "keys.txt"


@pytest.fixture
def access(path: Path, clock: Clock) -> Access:
    return Access(KeyRing(path, clock), clock)


def bearer(key: str) -> dict[bytes, bytes]:
    return {b"authorization": b"Bearer " + key.encode()}


def test_what_is_written_is_read_again_and_holds_no_key(path: Path) -> None:
    assert read_keys(path) == {ANNA.hashed: ANNA, BOB.hashed: BOB}
    text = path.read_text()
    assert "sk-p2pnet-" not in text
    assert path.stat().st_mode & 0o077 == 0


def test_new_keys_are_long_and_different() -> None:
    assert len({new_key() for _ in range(100)}) == 100
    assert min(len(new_key()) for _ in range(100)) >= 50


@pytest.mark.parametrize(
    "line",
    [
        "anna",
        "anna plain-text-key",
        "anna sha256:12",
        "a/b " + BOB.hashed,
        f"carl {BOB.hashed}",
        f"bob {ANNA.hashed}",
        f"carl {ANNA.hashed} speed=3",
        f"carl {ANNA.hashed} concurrent=0",
        f"carl {ANNA.hashed} concurrent=many",
    ],
)
def test_a_line_that_is_not_understood_is_named(line: str) -> None:
    with pytest.raises(UsageError, match="Line 3 of the key file"):
        parse_keys(f"# keys\nbob {BOB.hashed}\n{line}\n")


def test_adding_and_revoking_by_name() -> None:
    keys = with_new({ANNA.hashed: ANNA}, BOB)
    assert without(keys, "anna") == {BOB.hashed: BOB}
    for name in ("anna", "", "with space", "x" * 65):
        with pytest.raises(UsageError):
            with_new(keys, ApiKey(name, hash_key("other")))
    with pytest.raises(UsageError, match="no key named carl"):
        without(keys, "carl")


def test_a_file_is_made_by_the_first_key_and_kept_after_the_last(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "keys.txt"
    add_key(path, ANNA)
    add_key(path, BOB)
    assert set(read_keys(path)) == {ANNA.hashed, BOB.hashed}
    revoke_key(path, "anna")
    revoke_key(path, "bob")
    assert read_keys(path) == {}
    assert path.stat().st_mode & 0o077 == 0


def test_a_change_that_is_refused_changes_nothing(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(UsageError, match="named anna already"):
        add_key(path, ANNA)
    with pytest.raises(UsageError, match="no key named carl"):
        revoke_key(path, "carl")
    assert path.read_bytes() == before


def test_nothing_is_made_where_there_is_nothing_to_revoke(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        revoke_key(tmp_path / "none" / "keys.txt", "anna")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_replaced_leaves_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "keys.txt").mkdir()
    with pytest.raises(UsageError, match=r"keys\.txt cannot be written: Is a directory"):
        write_keys(tmp_path / "keys.txt", (ANNA,))
    assert [found.name for found in tmp_path.iterdir()] == ["keys.txt"]


def test_a_full_disk_leaves_the_file_as_it_was_and_nothing_beside_it(path: Path) -> None:
    """A process that may write no more than so many bytes to a file is told so as one on a full disk is."""
    before = path.read_bytes()
    script = "import sys; from pathlib import Path; from gateway.http.keys import *; add_key(Path(sys.argv[1]), ApiKey"
    done = subprocess.run(
        [sys.executable, "-c", f"{script}('carl', hash_key('carl')))", str(path)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (len(before), len(before))),
        capture_output=True,
        text=True,
    )
    assert "UsageError" in done.stderr and "cannot be written" in done.stderr
    assert path.read_bytes() == before
    assert {found.name for found in path.parent.iterdir()} == {"keys.txt", ".keys.txt.lock"}


def test_a_lock_file_that_somebody_left_is_no_obstacle(path: Path) -> None:
    path.with_name(".keys.txt.lock").write_text("left by a process that was killed")
    add_key(path, CARL)
    assert CARL.hashed in read_keys(path)


def test_a_lock_file_that_cannot_be_written_is_named(path: Path) -> None:
    path.with_name(".keys.txt.lock").mkdir()
    with pytest.raises(UsageError, match=r"\.keys\.txt\.lock"):
        add_key(path, CARL)


CHANGES = """
import sys
from pathlib import Path
from gateway.http.keys import ApiKey, add_key, hash_key, revoke_key

path, *changes = Path(sys.argv[1]), *sys.argv[2:]
print("ready", flush=True)
sys.stdin.readline()
for change in changes:
    verb, name = change.split()
    add_key(path, ApiKey(name, hash_key(name))) if verb == "add" else revoke_key(path, name)
"""


def change_together(path: Path, *changes: Iterable[str]) -> None:
    """A process for each of the lists of changes, let go at the same moment."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", CHANGES, str(path), *own], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for own in changes
    ]
    for process in started:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in started:
        process.communicate()
    assert [process.returncode for process in started] == [0] * len(started)


def test_processes_that_add_at_once_lose_nothing(tmp_path: Path) -> None:
    names = [[f"user-{process}-{number}" for number in range(25)] for process in range(4)]
    change_together(tmp_path / "keys.txt", *([f"add {name}" for name in own] for own in names))
    assert {key.name for key in read_keys(tmp_path / "keys.txt").values()} == {name for own in names for name in own}
    assert {found.name for found in tmp_path.iterdir()} == {"keys.txt", ".keys.txt.lock"}


def test_adding_and_revoking_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    old, new = [f"old-{number}" for number in range(40)], [f"new-{number}" for number in range(40)]
    write_keys(path, [ApiKey(name, hash_key(name)) for name in old])
    change_together(
        path,
        [f"revoke {name}" for name in old[::2]],
        [f"revoke {name}" for name in old[1::2]],
        [f"add {name}" for name in new],
    )
    assert [key.name for key in read_keys(path).values()] == new


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        KeyRing(tmp_path / "none")
    assert "p2pnet keys add" in error.value.fix


@pytest.mark.parametrize(
    "headers",
    [
        bearer("sk-p2pnet-anna"),
        {b"authorization": b"bearer  sk-p2pnet-anna "},
        {b"x-api-key": b"sk-p2pnet-anna"},
        {b"api-key": b"sk-p2pnet-anna"},
    ],
)
def test_who_has_a_key_is_its_name(access: Access, headers: dict[bytes, bytes]) -> None:
    assert access.identify(headers, "192.0.2.1") == Caller("anna", 1)


@pytest.mark.parametrize(
    "headers", [{}, bearer("sk-p2pnet-carl"), bearer(""), bearer("x" * 10_000), {b"authorization": b"Basic YTpi"}]
)
def test_who_has_none_is_refused(access: Access, headers: dict[bytes, bytes]) -> None:
    with pytest.raises(Unauthorized):
        access.identify(headers, "192.0.2.1")


def test_without_keys_everybody_is_their_address() -> None:
    assert Access().identify({}, "192.0.2.1") == Caller("192.0.2.1")


def test_a_revoked_key_is_refused_and_a_new_one_taken_without_a_restart(
    access: Access, path: Path, clock: Clock
) -> None:
    assert access.identify(bearer("sk-p2pnet-bob"), "")
    write_keys(path, (ANNA, ApiKey("carl", hash_key("sk-p2pnet-carl"))))
    clock.now_s += 1
    with pytest.raises(Unauthorized):
        access.identify(bearer("sk-p2pnet-bob"), "")
    assert access.identify(bearer("sk-p2pnet-carl"), "").name == "carl"


def test_a_damaged_or_missing_file_takes_no_keys_away(access: Access, path: Path, clock: Clock) -> None:
    path.write_text("nonsense")
    clock.now_s += 1
    assert access.identify(bearer("sk-p2pnet-bob"), "")
    path.unlink()
    clock.now_s += 1
    assert access.identify(bearer("sk-p2pnet-bob"), "")


def test_requests_at_the_same_time_are_bounded_by_key(path: Path, clock: Clock) -> None:
    write_keys(path, (BOB, CARL))
    access = Access(KeyRing(path, clock), clock)
    carl = access.identify(bearer("sk-p2pnet-carl"), "")
    bob = access.identify(bearer("sk-p2pnet-bob"), "")
    with access.admitted(carl), access.admitted(carl):
        with pytest.raises(RateLimited), access.admitted(carl):
            pass
        with access.admitted(bob), access.admitted(bob), access.admitted(bob):
            pass
    with access.admitted(carl):
        pass


def test_requests_a_minute_are_bounded_and_come_back(access: Access, clock: Clock) -> None:
    anna = access.identify(bearer("sk-p2pnet-anna"), "")
    with access.admitted(anna):
        pass
    with pytest.raises(RateLimited) as limited, access.admitted(anna):
        pass
    assert 0 < limited.value.retry_after_s <= 10
    clock.now_s += limited.value.retry_after_s
    with access.admitted(anna):
        pass


def test_tokens_a_minute_are_waited_for_by_the_next_request(access: Access, clock: Clock) -> None:
    anna = access.identify(bearer("sk-p2pnet-anna"), "")
    with access.admitted(anna):
        access.note(RequestReport("r", "m", "generate", "anna", 0.0, "stop", 0.0, 1.0, None, None, 500, 700))
    clock.now_s += 60
    with pytest.raises(RateLimited) as limited, access.admitted(anna):
        pass
    assert limited.value.retry_after_s == pytest.approx(50, abs=1)
    clock.now_s += limited.value.retry_after_s + 0.001
    with access.admitted(anna):
        pass


def test_a_gateway_without_keys_listens_on_this_machine_only() -> None:
    for host in ("127.0.0.1", "::1", "localhost", "127.9.9.9"):
        check_host(host, has_keys=False)
    for host in ("0.0.0.0", "::", "192.0.2.1", "gateway.example"):
        with pytest.raises(UsageError) as error:
            check_host(host, has_keys=False)
        assert "p2pnet keys add" in error.value.fix
        check_host(host, has_keys=True)


@pytest.mark.parametrize(
    ("route", "shape"),
    [("/v1/models", ("error", "code")), ("/v1/messages", ("error", "type")), ("/api/tags", ("error",))],
)
async def test_http_without_a_key_is_401_in_the_surfaces_own_shape(
    access: Access, route: str, shape: tuple[str, ...]
) -> None:
    app = create_app(service(FakeGenerate(*answer("Hi"))), access=access)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        refused = await client.get(route)
        assert refused.status_code == 401
        document = refused.json()
        for name in shape:
            document = document[name]
        assert (await client.get("/health")).status_code == 200
        allowed = await client.get("/v1/models", headers={"authorization": "Bearer sk-p2pnet-anna"})
        assert allowed.status_code == 200


async def test_a_request_beyond_a_keys_limit_is_429_with_retry_after(access: Access) -> None:
    app = create_app(service(FakeGenerate(*answer("Hi"))), access=access)
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://gateway",
        headers={"authorization": "Bearer sk-p2pnet-anna"},
    ) as client:
        assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
        second = await client.post("/v1/chat/completions", json=body)
        assert second.status_code == 429
        assert second.json()["error"]["code"] == "rate_limited"
        assert 1 <= int(second.headers["retry-after"]) <= 10
