"""The OpenAPI document tells of every address, and what it shows is what the API does."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from django.contrib.staticfiles import finders
from django.test import Client
from django.urls import get_resolver

from sessions_app.models import Status
from tests.api_client import ApiClient
from tests.factories import become, make_session, submit

pytestmark = pytest.mark.django_db

_SCHEMA = "#/components/schemas/"
WITHOUT_A_KEY = {"/livez", "/readyz", "/whatsapp/hooks/{name}"}


@pytest.fixture
def document() -> dict[str, Any]:
    """Return the document as clients get it: without a key."""
    answer = ApiClient(plain="").get("/whatsapp/openapi.json")
    assert answer.status == 200
    return answer.body  # type: ignore[no-any-return]


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method, path, operation


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for inner in node.values():
            yield from references(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from references(inner)


def test_it_is_openapi_3_1_and_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    assert document["info"]["title"] == "waqueue" and document["info"]["version"]
    found = set(references(document))
    assert found
    for reference in found:
        node: Any = document
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]


def test_it_tells_of_every_address_that_is_served(document: dict[str, Any]) -> None:
    (namespace,) = (resolver for resolver in get_resolver().url_patterns if "api.urls" in repr(resolver))
    served = {
        "/" + re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", str(pattern.pattern))
        for group in namespace.url_patterns
        for pattern in group.url_patterns
    }
    # The first is ninja's own root, behind the site's front page.
    assert served - {"/", "/whatsapp/openapi.json", "/whatsapp/docs"} == set(document["paths"])
    assert len(served) > 15


def test_every_operation_says_what_it_is_for_what_it_needs_and_how_it_fails(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(names) == len(set(names))
    tags = {tag["name"] for tag in document["tags"]}
    for method, path, operation in operations(document):
        where = f"{method} {path}"
        assert operation["summary"] and operation["description"], where
        assert set(operation["tags"]) <= tags, where
        answers = operation["responses"]
        assert any(status < "300" for status in answers) and "500" in answers, where
        if path in WITHOUT_A_KEY:
            assert "security" not in operation, where
            # What verifies itself may refuse.
            assert ("401" in answers) == ("hooks" in path), where
            continue
        assert {"401", "403", "503"} <= answers.keys(), where
        scopes = {scope for way in operation["security"] for scopes in way.values() for scope in scopes}
        assert len(scopes) == 1 and scopes <= {"read", "send", "manage"}, where
        assert [set(way) for way in operation["security"]] == [{"bearer"}, {"apiKey"}], where
        assert ("404" in answers) >= ("{" in path), where
        if "requestBody" in operation:
            assert {"400", "411", "413", "415", "422"} <= answers.keys(), where


def test_every_error_has_the_one_shape_and_an_example_of_itself(document: dict[str, Any]) -> None:
    for _, _, operation in operations(document):
        for status, answer in operation["responses"].items():
            if status < "400":
                continue
            shown = document["components"]["responses"][answer["$ref"].rpartition("/")[2]]
            (kind,) = shown["content"]
            assert kind == "application/problem+json"
            assert shown["content"][kind]["schema"]["$ref"] == f"{_SCHEMA}ProblemOut"
            assert str(shown["content"][kind]["example"]["status"]) == status


def test_no_parameter_is_null_or_shows_a_list_where_a_map_belongs(document: dict[str, Any]) -> None:
    parameters = [parameter for _, _, operation in operations(document) for parameter in operation["parameters"]]
    assert len(parameters) > 20
    for parameter in parameters:
        assert "null" not in json.dumps(parameter["schema"]) and "examples" not in parameter, parameter


def test_every_example_of_a_body_is_accepted(document: dict[str, Any]) -> None:
    client = ApiClient()
    tried = 0
    for method, path, operation in operations(document):
        if "requestBody" not in operation or not set(operation["tags"]) & {"Sessions", "Messages"}:
            continue
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        name = schema["$ref"].removeprefix(_SCHEMA)
        examples = document["components"]["schemas"][name]["examples"]
        assert examples, name
        for at, example in enumerate(examples):
            session = make_session(f"s{tried}-{at}")
            (message,) = submit(session, "x")
            become(message, Status.UNCERTAIN)
            answer = client.call(method.upper(), path.format(name=session.name, message_id=message.pk), example)
            assert answer.status in (200, 201, 202), (path, example, answer.body)
            assert str(answer.status) in operation["responses"]
        tried += 1
    assert tried == 5


def test_what_is_answered_has_the_fields_that_are_told(document: dict[str, Any]) -> None:
    (message,) = submit(make_session("alpha"), "x")
    become(message, Status.FAILED, error_class="permanent", error_code="x")
    client = ApiClient()
    for path, body in (
        ("/whatsapp/sessions", client.get("/whatsapp/sessions").body),
        ("/whatsapp/sessions/{name}", client.get("/whatsapp/sessions/alpha").body),
        ("/whatsapp/messages", client.get("/whatsapp/messages").body),
        ("/whatsapp/messages/{message_id}", client.get(f"/whatsapp/messages/{message.pk}").body),
        ("/whatsapp/queues", client.get("/whatsapp/queues").body),
    ):
        schema = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        _assert_alike(document, schema, body, path)


def _assert_alike(document: dict[str, Any], schema: dict[str, Any], value: Any, where: str) -> None:
    """Compare names only, all the way down: types are the schemas' own business."""
    for choice in schema.get("anyOf", ()):
        if "$ref" in choice and value is not None:
            _assert_alike(document, choice, value, where)
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].removeprefix(_SCHEMA)]
    if schema.get("type") == "array":
        for item in value:
            _assert_alike(document, schema["items"], item, f"{where}[]")
    elif "properties" in schema:
        assert value.keys() == schema["properties"].keys(), where
        for name, inner in schema["properties"].items():
            _assert_alike(document, inner, value[name], f"{where}.{name}")


class _Page(HTMLParser):
    """What a page loads, and what stands in it and would be run."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        address = given.get("src") or (given.get("href") if tag == "link" else None)
        if address:
            self.loaded.append(address)
        elif tag == "style" or (tag == "script" and given.get("type") != "application/json"):
            self.inline.append(tag)
        self.inline += [name for name in given if name == "style" or name.startswith("on")]


def test_its_page_loads_only_what_we_serve_and_runs_nothing_inline() -> None:
    response = Client().get("/whatsapp/docs")
    assert response.status_code == 200 and response.headers["Content-Type"].startswith("text/html")
    page = _Page()
    page.feed(response.content.decode())
    assert not page.inline
    assert len(page.loaded) >= 3
    for address in page.loaded:
        assert address.startswith("/static/") and finders.find(address.removeprefix("/static/")), address
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy
    settings = json.loads(re.findall(r'id="swagger-settings">(.*?)</script>', response.content.decode(), re.S)[0])
    assert settings["url"] == "/whatsapp/openapi.json" and settings["validatorUrl"] is None


def descriptions(node: Any, name: str) -> Iterator[str]:
    """What is said of the members of this name, wherever they are."""
    if isinstance(node, dict):
        for key, inner in node.items():
            if key == name and isinstance(inner, dict) and "description" in inner:
                yield inner["description"]
            yield from descriptions(inner, name)
    elif isinstance(node, list):
        for inner in node:
            yield from descriptions(inner, name)


@pytest.mark.parametrize(
    ("name", "words", "times"),
    [
        ("hourly_cap", "up to twice the cap", 1),
        ("daily_cap", "up to twice the cap", 1),
        ("estimated_send_at", "earliest", 3),
        ("estimated_done_at", "earliest", 4),
    ],
)
def test_it_says_what_a_cap_and_an_estimate_are_and_no_more(
    document: dict[str, Any], name: str, words: str, times: int
) -> None:
    said = list(descriptions(document, name))
    assert len(said) == times
    assert all(words in text for text in said)
