"""The official conformance suite for clients, with both protocols: its servers check what the pool sends."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real

DRIVER = Path(__file__).with_name("driver.py")

LEGACY, MODERN = "2025-11-25", "2026-07-28"

WIRE = {
    LEGACY: {"initialize", "tools_call", "sse-retry", "elicitation-sep1034-client-defaults"},
    MODERN: {
        "tools_call",
        "request-metadata",
        "http-standard-headers",
        "http-custom-headers",
        "http-invalid-tool-headers",
        "json-schema-ref-no-deref",
        "sep-2322-client-request-state",
    },
}
AUTH = {
    "auth/metadata-default",
    "auth/metadata-var1",
    "auth/metadata-var2",
    "auth/metadata-var3",
    "auth/basic-cimd",
    "auth/scope-from-www-authenticate",
    "auth/scope-from-scopes-supported",
    "auth/scope-omitted-when-undefined",
    "auth/scope-step-up",
    "auth/scope-retry-limit",
    "auth/token-endpoint-auth-basic",
    "auth/token-endpoint-auth-post",
    "auth/token-endpoint-auth-none",
    "auth/pre-registration",
}
MODERN_AUTH = {
    "auth/resource-mismatch",
    "auth/offline-access-scope",
    "auth/offline-access-not-supported",
    "auth/authorization-server-migration",
    "auth/iss-supported",
    "auth/iss-not-advertised",
    "auth/iss-supported-missing",
    "auth/iss-wrong-issuer",
    "auth/iss-unexpected",
    "auth/iss-normalized",
    "auth/metadata-issuer-mismatch",
}

REQUIRED = {LEGACY: WIRE[LEGACY] | AUTH, MODERN: WIRE[MODERN] | AUTH | MODERN_AUTH}
"""The scenarios that a client must pass to conform to a revision: all of them run."""

BEYOND = [
    ("json-schema-2020-12-preservation", LEGACY),
    ("json-schema-2020-12-preservation", MODERN),
    ("auth/client-credentials-basic", None),  # extensions and older revisions run with the protocol that they belong to
    ("auth/client-credentials-jwt", None),
    ("auth/2025-03-26-oauth-metadata-backcompat", None),
    ("auth/2025-03-26-oauth-endpoint-fallback", None),
]
"""Scenarios that no revision requires, or that belong to an older one than the suite can list."""

SCENARIOS = [(name, revision) for revision, names in REQUIRED.items() for name in sorted(names)] + BEYOND


def backends(scenario, revision):
    """Authorization is one request after another, which no backend changes: trio for the modern revision, asyncio otherwise."""
    if scenario.startswith("auth/"):
        return ["trio" if revision == MODERN else "asyncio"]
    return ["asyncio", "trio"]


RUNS = [(*scenario, backend) for scenario in SCENARIOS for backend in backends(*scenario)]


@pytest.mark.parametrize(("scenario", "revision", "backend"), RUNS)
def test_the_pool_passes_the_official_suite(suite, scenario, revision, backend):
    driver = shlex.join([sys.executable, str(DRIVER), backend])
    of_revision = [] if revision is None else ["--spec-version", revision]
    judged = subprocess.run(
        [*suite, "client", "--command", driver, "--scenario", scenario, *of_revision],
        capture_output=True,
        text=True,
        check=False,
    )
    verdict = judged.stdout + judged.stderr
    # A scenario that does not belong to a revision is skipped without an error, and some may end with one.
    assert judged.returncode == 0, verdict
    assert "OVERALL: PASSED" in verdict, verdict
    assert "Client exited with code" not in verdict, verdict


@pytest.mark.parametrize("revision", [LEGACY, MODERN])
def test_no_scenario_that_a_revision_requires_is_left_out(suite, revision):
    command = [*suite, "list", "--requirements", revision]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    scenarios = listed.partition("Client scenarios")[2].partition("Run and reported, but never scored")[0]
    assert set(re.findall(r"^ +- (\S+)$", scenarios, re.MULTILINE)) == REQUIRED[revision]
