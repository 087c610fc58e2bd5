"""Every route of the OpenAPI schema, fuzzed against the running gateway: no 5xx, no undocumented status or body."""

import contextlib
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)
MAX_EXAMPLES = 6


def test_no_route_breaks(server: str, client: httpx.Client) -> None:
    schema = schemathesis.openapi.from_url(f"{server}/openapi.json")
    broken: list[str] = []
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in GenerationMode:
            try:
                with contextlib.suppress(Unsatisfiable):  # nothing in it can be wrong
                    _fuzz(operation, mode, client.headers["authorization"])
            except FailureGroup as group:
                broken += [f"{operation.label}: {failure}" for failure in group.exceptions]
    assert broken == [], "\n".join(broken)


def _fuzz(operation: Any, mode: GenerationMode, authorization: str) -> None:
    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=MAX_EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def run(case: schemathesis.Case) -> None:
        case.call_and_validate(headers={"authorization": authorization, "accept": "application/json"}, checks=CHECKS)

    run()
