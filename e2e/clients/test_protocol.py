"""The published description of the protocol, and our own, held against what is really answered."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Callable

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

from requirements import missing
from services import ROOT, Service

# The same requests in every run.
REQUESTS = hypothesis.settings(
    derandomize=True, max_examples=40, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
)


def not_an_internal_error(context: object, response: schemathesis.Response, case: schemathesis.Case) -> bool | None:
    """As in schemathesis, except that 504 is the status of `only-if-cached` without a cached result (RFC 9111)."""
    if response.status_code == 504 and "only-if-cached" in str(case.headers.get("Cache-Control", "")):
        return None
    return not_a_server_error(context, response, case)


CHECKS = [not_an_internal_error, status_code_conformance, content_type_conformance, response_schema_conformance]

# Of kserve/open-inference-protocol. It belongs to that project, so it lies beside this one.
PUBLISHED = Path(os.environ.get("OIP_DESCRIPTION") or ROOT.parent / "shared" / "data" / "oip" / "open_inference_rest.yaml")


@pytest.fixture(scope="session")
def published() -> dict:
    """As it was published, but for what keeps tools from reading it: names in paths, and undeclared errors."""
    if not PUBLISHED.exists():
        missing("the published description of the protocol, open_inference_rest.yaml: name it in OIP_DESCRIPTION")
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


@pytest.fixture(scope="module")
def of_its_own(spawn_shared: Callable[..., Service], repository: Path) -> Service:
    """The description contains the unloading of models, and other tests need theirs."""
    model_api = spawn_shared("model_api", MODEL_NAME="mnist,versioned,arithmetic", MODELS_DIR=repository)
    return spawn_shared("web_api", APP_TYPE="cli", MODEL_API_URL=model_api.url)


@pytest.fixture(scope="module")
def ours(of_its_own: Service) -> dict:
    response = requests.get(f"{of_its_own.url}/openapi.json", timeout=10)
    assert response.status_code == 200
    return response.json()


def assert_holds(description: dict, server: Service, subtests: pytest.Subtests) -> None:
    """Sends many requests that the description allows to every operation."""
    for found in schemathesis.openapi.from_dict(description).get_all_operations():
        operation = found.ok()

        @REQUESTS
        @hypothesis.given(case=operation.as_strategy())
        def answers_as_described(case: schemathesis.Case) -> None:
            case.call_and_validate(base_url=server.url, checks=CHECKS)

        with subtests.test(operation.label):
            answers_as_described()


def test_the_published_description_holds(published: dict, server: Service, subtests: pytest.Subtests):
    assert_holds(published, server, subtests)


def test_our_own_description_holds(ours: dict, of_its_own: Service, subtests: pytest.Subtests):
    assert_holds(ours, of_its_own, subtests)


def test_our_own_description_is_valid(ours: dict):
    validate(ours)


def test_our_own_description_has_every_route_of_the_published_one(ours: dict, published: dict):
    def shape(path: str) -> str:
        """Whatever the parameters are called."""
        return "/".join("{}" if part.startswith("{") else part for part in path.strip("/").split("/"))

    assert {shape(path) for path in published["paths"]} <= {shape(path) for path in ours["paths"]}


def test_the_page_of_the_description_loads_nothing_from_elsewhere(web: Service):
    page = requests.get(f"{web.url}/docs", timeout=10)
    assert page.status_code == 200 and page.headers["Content-Type"].startswith("text/html")
    assert "//cdn" not in page.text and "https://unpkg" not in page.text
