"""The published description of the protocol, and our own, held against what is really answered."""

from __future__ import annotations

import json
import os
from pathlib import Path

import hypothesis
import pytest
import requests
import schemathesis
import yaml
from openapi_spec_validator import validate
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from services import ROOT, Service

# The same questions in every run.
QUESTIONS = hypothesis.settings(
    derandomize=True, max_examples=40, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
)
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]

# Of kserve/open-inference-protocol. It belongs to that project, so it lies beside this one.
PUBLISHED = Path(os.environ.get("OIP_DESCRIPTION") or ROOT.parent / "shared" / "data" / "oip" / "open_inference_rest.yaml")


@pytest.fixture(scope="session")
def published() -> dict:
    """As it was published, but for what keeps tools from reading it: names in paths, and undeclared errors."""
    if not PUBLISHED.exists():
        what = "the published description of the protocol, open_inference_rest.yaml: name it in OIP_DESCRIPTION"
        if os.environ.get("REQUIRE_ALL"):
            pytest.fail(f"required but missing: {what}", pytrace=False)
        pytest.skip(f"NOT TESTED, missing: {what}")
    description = yaml.safe_load(PUBLISHED.read_text().replace("${", "{"))
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/inference_error_response"}}}
    paths = {}
    for path, routes in description["paths"].items():
        parameters = routes.get("parameters", [])
        for method in {"get", "post"} & routes.keys():
            routes[method]["responses"] |= {status: {"description": "an error", "content": error} for status in ("400", "404", "413", "415", "422")}
        paths[path] = routes
        for parameter in parameters:
            # Two that are there, and one that is not.
            known = ["versioned", "arithmetic", "nope"] if parameter["name"] == "MODEL_NAME" else ["1", "10", "3"]
            parameter["schema"]["enum"] = known
        if "/versions/" in path:
            unversioned = json.loads(json.dumps(routes))
            unversioned["parameters"] = [parameter for parameter in unversioned["parameters"] if parameter["name"] == "MODEL_NAME"]
            unversioned.get("get", unversioned.get("post"))["operationId"] += "-unversioned"
            paths[path.replace("/versions/{MODEL_VERSION}", "")] = unversioned
    return description | {"paths": paths}


@pytest.fixture
def published_schema(published: dict) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_dict(published)


@pytest.fixture(scope="session")
def ours(web: Service) -> dict:
    response = requests.get(f"{web.url}/openapi.json", timeout=10)
    assert response.status_code == 200
    return response.json()


@pytest.fixture
def our_schema(ours: dict) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_dict(ours)


@schemathesis.pytest.from_fixture("published_schema").parametrize()
@QUESTIONS
def test_the_published_description_holds(case: schemathesis.Case, server: Service):
    case.call_and_validate(base_url=server.url, checks=CHECKS)


@schemathesis.pytest.from_fixture("our_schema").parametrize()
@QUESTIONS
def test_our_own_description_holds(case: schemathesis.Case, web: Service):
    case.call_and_validate(base_url=web.url, checks=CHECKS)


def test_our_own_description_is_valid(ours: dict):
    validate(ours)


def test_our_own_description_has_every_route_of_the_published_one(ours: dict, published: dict):
    def shape(path: str) -> str:
        """Whatever the parameters are called."""
        return "/".join("{}" if part.startswith("{") else part for part in path.strip("/").split("/"))

    assert {shape(path) for path in published["paths"]} <= {shape(path) for path in ours["paths"]}


def test_the_page_of_the_description_asks_nobody_else(web: Service):
    page = requests.get(f"{web.url}/docs", timeout=10)
    assert page.status_code == 200 and page.headers["Content-Type"].startswith("text/html")
    assert "//cdn" not in page.text and "https://unpkg" not in page.text
