"""What is shown of audits, in the API and in metrics; that flags survive a restart; and how owners and clients
choose."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from gateway.audits.modes import AuditConfig, AuditMode, parse_audits
from gateway.audits.verdicts import Voice
from gateway.observability.history import History
from gateway.observability.metrics import GatewayMetrics
from gateway.peers.flags import FLAGGED_S, UNLIKE, Flag, Flags
from p2pnet.errors import UsageError
from tests.gateway.desk import ANN, BOB, Desk, worker
from tests.gateway.fake_generate import FakeGenerate, Serve, answer
from tests.gateway.receipts.test_over_http import DIALECTS
from tests.gateway.reports import NOON_S
from tests.stories import DIGEST, card

FLAG = Flag(ANN, UNLIKE, DIGEST, 75, 14.9, (BOB, "another"), is_by_trusted=False, flagged_unix_s=NOON_S)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    made = Desk(await History.open(None))
    made.audits = True
    yield made
    await made.http.aclose()


async def test_a_flagged_worker_is_shown_with_the_evidence_and_counts_as_none_in_use(desk: Desk) -> None:
    desk.workers = [worker(ANN)]
    desk.flags.add(FLAG)
    (shown,) = (await desk.get("workers"))["workers"]
    assert (shown["state"], shown["reason"]) == ("flagged", UNLIKE)
    assert shown["audit"] == {
        "verdict": "flagged",
        "tokens": 75,
        "auditors": 2,
        "log_e": 14.9,
        "reason": UNLIKE,
        "until": "2023-11-21T22:13:20Z",
        "compared": 0,
        "alike": 0,
    }
    (model,) = (await desk.get("models"))["models"]
    assert (model["workers"], model["slots"], model["states"]) == (0, 0, {"flagged": 1})
    (seen,) = (await desk.get("overview"))["workers"]["workers"]
    assert seen["audit"] == shown["audit"]


@pytest.mark.parametrize(
    ("sampler", "log_likelihood", "verdict"),
    [
        ("", None, "unverifiable"),
        ("gumbel-1", None, "unaudited"),
        ("gumbel-1", -1.0, "passed"),
        ("gumbel-1", 9.0, "suspected"),
    ],
)
async def test_each_worker_is_shown_with_what_is_known_of_it(
    desk: Desk, sampler: str, log_likelihood: float | None, verdict: str
) -> None:
    desk.workers = [worker(ANN, models=(card(sampler=sampler),))]
    if log_likelihood is not None:
        desk.cases.of(ANN, DIGEST).note(Voice(BOB, frozenset()), log_likelihood, 20)
    (shown,) = (await desk.get("workers"))["workers"]
    assert (shown["state"], shown["audit"]["verdict"]) == ("healthy", verdict)
    assert shown["audit"]["tokens"] == (0 if log_likelihood is None else 20)


async def test_metrics_count_looks_by_what_they_came_to() -> None:
    text = (await GatewayMetrics(audits=lambda: {"passed": 3, "flagged": 1}).scrape()).decode()
    assert 'p2pnet_gateway_audits_total{outcome="passed"} 3.0' in text
    assert 'p2pnet_gateway_audits_total{outcome="flagged"} 1.0' in text


async def test_flags_survive_a_restart_and_expire(tmp_path: Path) -> None:
    path = tmp_path / "gateway.sqlite3"
    first = await History.open(path)
    first.note_flags((FLAG,))
    await first.close()
    second = await History.open(path)
    assert second.flags == (FLAG,)
    now_s = NOON_S + FLAGGED_S - 1
    flags = Flags(second.flags, lambda: now_s)
    flags.listen(lambda: second.note_flags(flags.all))
    flags.expire()
    assert ANN in flags
    now_s += 1
    flags.expire()
    assert ANN not in flags
    await second.close()
    third = await History.open(path)
    assert third.flags == ()
    await third.close()


@pytest.mark.parametrize(("header", "may_be_audited"), [(None, True), ("yes", True), ("no", False), ("NO", False)])
@pytest.mark.parametrize("name", DIALECTS)
async def test_a_request_can_refuse_in_every_dialect(
    serve: Serve, name: str, header: str | None, may_be_audited: bool
) -> None:
    generate = FakeGenerate(*answer("yes"))
    server = await serve(generate)
    path, body = DIALECTS[name]
    headers = {} if header is None else {"x-p2pnet-audit": header}
    async with httpx.AsyncClient(base_url=server.url) as client:
        reply = await client.post(path.replace("echo", "tiny"), json={"model": "tiny", **body}, headers=headers)
    assert reply.status_code == 200, reply.text
    assert [caller.may_be_audited for caller in generate.callers] == [may_be_audited]


@pytest.mark.parametrize(
    ("mode", "auditors", "config"),
    [
        (None, [], AuditConfig(AuditMode.CANARIES)),
        (None, [ANN], AuditConfig(AuditMode.OWN, frozenset({ANN}))),
        ("off", [ANN], AuditConfig(AuditMode.OFF, frozenset({ANN}))),
        ("all", [ANN, ANN, BOB], AuditConfig(AuditMode.ALL, frozenset({ANN, BOB}))),
        ("canaries", [], AuditConfig(AuditMode.CANARIES)),
    ],
)
def test_flags_say_who_looks(mode: str | None, auditors: list[str], config: AuditConfig) -> None:
    assert parse_audits(mode, auditors) == config


@pytest.mark.parametrize(("mode", "auditors"), [("own", []), (None, ["my-worker"]), ("all", [ANN[:-1]])])
def test_flags_that_make_no_sense_say_what_to_do(mode: str | None, auditors: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        parse_audits(mode, auditors)
    assert "--auditor" in error.value.fix or "peer id" in error.value.fix
