"""Tells what audits have shown of a worker, for whoever looks. Changes nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from math import isfinite

from gateway.audits.given import is_unverifiable
from gateway.audits.verdicts import Case, Cases
from gateway.observability.views import FLAGGED, UNAUDITED, AuditView
from gateway.peers.flags import Flag, Flags
from gateway.peers.worker import Worker


def audit_view(worker: Worker, cases: Cases, flags: Flags) -> AuditView:
    """Of a worker of several models what speaks most against it."""
    if (flag := flags.of(worker.peer_id)) is not None:
        return _flagged(flag)
    generating = [card for card in worker.record.models if card.task == "generate"]
    known = [case for card in generating if (case := cases.known(worker.peer_id, card.digest)) is not None]
    if looked_at := [case for case in known if case.evidence.statements]:
        return _of_case(max(looked_at, key=lambda case: case.evidence.log_e))
    if not generating or not all(map(is_unverifiable, generating)):
        return UNAUDITED
    compared, alike = sum(case.compared for case in known), sum(case.alike for case in known)
    return AuditView("unverifiable", compared=compared, alike=alike)


def _flagged(flag: Flag) -> AuditView:
    until = datetime.fromtimestamp(flag.until_unix_s, UTC)
    return AuditView(FLAGGED, flag.tokens, len(flag.accusers), round(flag.log_e, 1), flag.reason, until)


def _of_case(case: Case) -> AuditView:
    evidence = case.evidence
    log_e = round(evidence.log_e, 1) if isfinite(evidence.log_e) else None
    verdict = "suspected" if case.is_suspected else "passed"
    return AuditView(verdict, evidence.positions, len(evidence.voices), log_e)
