"""What every answer bears, and what the log says of every request."""

import pytest
import structlog
from django.test import Client, RequestFactory, override_settings
from django.utils import translation

from tests.api_client import ApiClient
from waqueue.middleware import RequestLogMiddleware

pytestmark = pytest.mark.django_db


def logged_address(**meta: str) -> object:
    structlog.contextvars.clear_contextvars()
    RequestLogMiddleware.bind_ip(RequestFactory().get("/", REMOTE_ADDR="10.0.0.7", **meta))
    address = structlog.contextvars.get_contextvars()["ip"]
    structlog.contextvars.clear_contextvars()
    return address


def test_data_may_load_and_frame_nothing_whether_it_is_an_answer_or_a_problem() -> None:
    api = ApiClient()
    for response in (api.get("/whatsapp/sessions"), api.get("/whatsapp/sessions/nobody"), Client().get("/livez")):
        assert response.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"


def test_a_page_keeps_the_policy_of_pages() -> None:
    assert "default-src 'self'" in Client().get("/admin/login/").headers["Content-Security-Policy"]
    assert "default-src 'self'" in Client().get("/whatsapp/docs").headers["Content-Security-Policy"]


def test_an_answer_of_the_api_hangs_on_no_cookie_and_no_language() -> None:
    client = Client()
    client.get("/admin/login/")
    for address in ("/whatsapp/sessions", "/livez"):
        response = client.get(address, headers={"accept-language": "es"})
        assert not response.cookies and "Vary" not in response.headers
        assert "Content-Language" not in response.headers
    assert client.get("/admin/login/", headers={"accept-language": "es"}).headers["Content-Language"] == "es"


def test_the_language_of_a_page_does_not_stay_for_the_api(db: None) -> None:
    api = ApiClient()

    def complaint() -> str:
        return str(api.post("/whatsapp/sessions", {"name": "alpha", "on_uncertain": "nonsense"}).body)

    before = complaint()
    Client().get("/admin/login/", headers={"accept-language": "es"})
    assert translation.get_language() == "es"
    assert complaint() == before
    assert translation.get_language() == "en"


def test_the_log_names_who_is_connected_whatever_the_client_claims_to_be() -> None:
    with override_settings(SECURE_PROXY_SSL_HEADER=None):
        assert logged_address(HTTP_X_FORWARDED_FOR="1.2.3.4") == "10.0.0.7"


def test_the_log_names_whom_the_proxy_saw_where_a_proxy_is_trusted() -> None:
    with override_settings(SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https")):
        assert logged_address(HTTP_X_FORWARDED_FOR="1.2.3.4, 93.184.216.34") == "93.184.216.34"
        assert logged_address() == "10.0.0.7"
        assert logged_address(HTTP_X_FORWARDED_FOR="1.2.3.4, \x1b[31mnobody") == "10.0.0.7"
