"""The gateway's own OpenAPI document, and requests made from it by schemathesis: whatever comes, no answer is a 500.

The routes read their bodies themselves, so the document says of them that they are objects: what schemathesis makes is
mostly nonsense, which is the point. Bodies that are nearly right are fuzzed surface by surface.
"""

from __future__ import annotations

import os

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from gateway.app import create_app
from tests.depth import scaled
from tests.gateway.fake_generate import FakeGenerate, answer, service

CASES = int(os.environ.get("P2PNET_OPENAPI_CASES", scaled(ci=5, deep=60)))
"""For each route. 2,400 in all with P2PNET_OPENAPI_CASES=150."""

schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(service(FakeGenerate(*answer("Hi")))))
OPERATIONS = {each.ok().label: each.ok() for each in schema.get_all_operations()}
"""Tests of our own making, one for each: those that schemathesis makes have one name, and of these xdist runs one."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("label", OPERATIONS)
def test_no_request_that_the_document_allows_is_an_internal_error(label: str) -> None:
    @settings(
        max_examples=CASES,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(OPERATIONS[label].as_strategy())
    def is_answered(case: schemathesis.Case) -> None:
        response = case.call()
        assert response.status_code != 500, response.text
        assert "Traceback" not in response.text

    is_answered()
