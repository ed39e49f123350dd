"""Whatever the OpenAPI document allows is answered as it says, and nothing makes the service fail."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.services.api.conftest import Api, problem

EXAMPLES = 6  # of each operation; with more the suite would be about this test


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[Api]:
    """A service with one of everything, so that ids lead somewhere."""
    folder = tmp_path_factory.mktemp("schema")
    for file in migrated.parent.iterdir():
        shutil.copy(file, folder)
    limits = {"sse_max_s": 0.05, "api_anonymous_rate_limit": "100000/minute"}
    api = Api(folder, **limits)
    yield api
    api.store.close()


@pytest.fixture(scope="module")
def ids(service: Api) -> dict[str, str]:
    """Real values for path parameters."""
    graded, cohort = service.submit(), service.cohort(2)
    endpoint = service("POST", "/webhook-endpoints", json={"url": "https://receiver.example/hook"}).json["id"]
    service.grade(graded)
    (delivery,) = service("GET", f"/webhook-endpoints/{endpoint}/deliveries").json["data"]
    service("POST", "/integrations", json={"slug": "partner", "kind": "greenhouse"})
    return {
        "submission_id": graded,
        "cohort_id": cohort,
        "endpoint_id": endpoint,
        "message_id": delivery["id"],
        "key_id": service("POST", "/keys", json={"name": "x", "scopes": ["read"]}).json["id"],
        "integration": "partner",
        "challenge": "spiral",
    }


_FEW = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_every_operation_keeps_its_word(service: Api, ids: dict[str, str], mode: GenerationMode):
    """Schemathesis's own checks: no 5xx, documented statuses, types and bodies, bad data refused, good taken.

    Its plugin does not go with this pytest, so its strategies are drawn from here.
    """
    schema = schemathesis.openapi.from_wsgi("/openapi.json", service.app)
    schema.config.generation.with_security_parameters = False  # test_access tries the keys
    found = [_broken_word(service, ids, mode, operation.ok()) for operation in schema.get_all_operations()]
    assert len(found) > 40
    assert not "\n\n".join(filter(None, found))


def _broken_word(service: Api, ids: dict[str, str], mode: GenerationMode, operation: Any) -> str | None:
    """What is wrong with an operation; None where nothing is."""

    @_FEW
    @given(data=st.data())
    def keeps_its_word(data: st.DataObject) -> None:
        case = data.draw(operation.as_strategy(generation_mode=mode))
        if mode is GenerationMode.POSITIVE and data.draw(st.integers(0, 3)):  # mostly ids that lead somewhere
            case.path_parameters = {name: ids.get(name, value) for name, value in (case.path_parameters or {}).items()}
        headers = {"Authorization": f"Bearer {service.everything}"}
        # What the document cannot say, such as which challenges there are, may be refused.
        case.call_and_validate(headers=headers, excluded_checks=[positive_data_acceptance])

    try:
        keeps_its_word()
    except Unsatisfiable:
        return None if mode is GenerationMode.NEGATIVE else f"{operation.label} takes nothing"
    except BaseExceptionGroup as broken:
        return operation.label + "\n" + "\n".join(str(error) for error in broken.exceptions)
    return None


def test_the_document_is_valid_and_complete(service: Api):
    document = service("GET", "//openapi.json").json
    assert document["openapi"] == "3.1.0"
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert operation["summary"] and operation["tags"], (method, path)
            assert {"400", "422", "429", "500", "503"} <= set(operation["responses"])
    for name, schema in document["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema), name
    references = set(_references(document))
    assert references <= {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            if name == "$ref":
                yield value
            else:
                yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def test_a_report_is_as_the_document_says(service: Api):
    document = service("GET", "//openapi.json").json
    name = service.submit()
    service.grade(name)
    body = service("GET", f"/submissions/{name}").json
    wanted = {**document, "$ref": "#/components/schemas/SubmissionInFull"}
    jsonschema.Draft202012Validator(wanted).validate(body)
    problem(service("GET", f"/submissions/{name}/report?generation=7"), 404)
