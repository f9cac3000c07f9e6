"""Spanish: every page in it, every string with it, and the compiled catalogue as new as its source."""

import ast
import gettext
import re
from pathlib import Path

import pytest
from django.conf import settings
from django.urls import reverse

from sessions_app.models import Session, Status
from tests.admin_lab import act_url, boss, list_url, page_url, text_of
from tests.batch_lab import hand_in
from tests.factories import become, hold, make_session, submit

FOLDER = Path(settings.BASE_DIR) / "sessions_app" / "locale" / "es" / "LC_MESSAGES"
PLACEHOLDER = re.compile(r"%(?:\(\w+\))?[sd]|%\.1f")


def _entries() -> list[dict[str, str]]:
    """The entries of the catalogue's source, each by its keywords."""
    entries = []
    for block in (FOLDER / "django.po").read_text().split("\n\n"):
        entry: dict[str, str] = {}
        keyword = ""
        for line in block.splitlines():
            if line.startswith("#"):
                continue
            if not line.startswith('"'):
                keyword, _, line = line.partition(" ")
            entry[keyword] = entry.get(keyword, "") + ast.literal_eval(line)
        if entry.get("msgid"):
            entries.append(entry)
    return entries


def test_every_string_has_its_spanish_with_the_same_placeholders() -> None:
    for entry in _entries():
        spanish = [value for keyword, value in entry.items() if keyword.startswith("msgstr")]
        assert all(spanish), entry["msgid"]
        for value in spanish:
            assert sorted(PLACEHOLDER.findall(value)) == sorted(PLACEHOLDER.findall(entry["msgid"])), entry["msgid"]


def test_no_string_is_only_guessed() -> None:
    assert "fuzzy" not in (FOLDER / "django.po").read_text()


def test_the_compiled_catalogue_is_as_new_as_its_source() -> None:
    with (FOLDER / "django.mo").open("rb") as compiled:
        catalogue = gettext.GNUTranslations(compiled)
    for entry in _entries():
        context, source = entry.get("msgctxt"), entry["msgid"]
        if "msgid_plural" in entry:
            for count, keyword in ((1, "msgstr[0]"), (2, "msgstr[2]")):
                assert catalogue.ngettext(source, entry["msgid_plural"], count) == entry[keyword], source
        elif context:
            assert catalogue.pgettext(context, source) == entry["msgstr"], source
        else:
            assert catalogue.gettext(source) == entry["msgstr"], source


@pytest.mark.django_db
def test_every_page_is_in_spanish_for_a_browser_that_asks_for_it() -> None:
    session = make_session("alpha")
    hold(session, "refused")
    message = become(submit(session, "hola")[0], Status.UNCERTAIN)
    batch = hand_in(session, "uno", "dos")
    client = boss()
    client.defaults["HTTP_ACCEPT_LANGUAGE"] = "es"
    pages = {
        "/admin/": [
            "Necesita atención",
            "La sesión alpha está retenida.",
            "1 mensaje de alpha quedó incierto: ¿llegó?",
        ],
        list_url("session"): ["Sesiones", "retenida", "el motor rechaza esta sesión", "Pausar todo", "Por estado"],
        page_url("session", session.pk): ["Por qué no envía", "Su motor la rechaza", "Horas de silencio"],
        "/admin/sessions_app/session/add/": ["Añadir una sesión", "WAHA (no oficial"],
        "/admin/sessions_app/session/add/?transport=loopback": ["Espera mínima", "cuánto tarda cada envío"],
        "/admin/sessions_app/session/add/?transport=waha": ["la dirección de WAHA", "la clave de API de WAHA"],
        reverse("admin:sessions_app_session_delete", args=[session.pk]): ["¿Eliminar alpha?"],
        list_url("message"): ["incierto", "Un teléfono completo"],
        page_url("message", message.pk): ["Cronología", "Nadie sabe si llegó", "Enviar otra vez", "Mensaje en cola"],
        act_url("message", "resend", message.pk): ["¿Enviar otra vez 1 mensaje incierto?", "No, llévame de vuelta"],
        list_url("worker"): ["Nunca se inició un worker"],
        list_url("loopbackentry"): ["A loopback todavía no se le pidió enviar nada."],
        list_url("event"): ["Sesión creada", "Por clase"],
        list_url("apikey"): ["Todavía no hay ninguna clave de API."],
        "/admin/sessions_app/apikey/add/": ["Crear una clave de API", "una sola vez"],
        list_url("auditentry"): ["Crear sesión"],
        list_url("queue"): ["Colas", "retenida", "Reconciliar ahora"],
        list_url("orphan"): ["No espera ningún huérfano", "Esperan una decisión"],
        list_url("reconciliation"): ["Simulacro", "Redis todavía no se comparó"],
        reverse("admin:sessions_app_reconciliation_run"): ["¿Reconciliar Redis con PostgreSQL?"],
        list_url("backgroundtask"): ["Tareas de fondo"],
        list_url("batch"): ["Lotes", "Entregado", "Cancelar el resto", "0 de 2"],
        page_url("batch", batch.pk): ["Cancelar el resto", "Su sesión no envía", "Rechazados", "verlos todos"],
        act_url("batch", "cancel", batch.pk): ["¿Cancelar el resto de 1 lote?", "Se cancelarán"],
    }
    for url, expected in pages.items():
        response = client.get(url)
        assert 'lang="es"' in response.content.decode()
        for words in expected:
            assert words.lower() in text_of(response).lower(), (url, words)


@pytest.mark.django_db
def test_an_error_is_told_in_spanish_beside_its_field() -> None:
    client = boss()
    client.defaults["HTTP_ACCEPT_LANGUAGE"] = "es"
    response = client.post("/admin/sessions_app/session/add/?transport=loopback", {"name": "con espacio"})
    assert "Este campo es obligatorio." in text_of(response)
    assert not Session.objects.exists()


def _marked_in_code() -> set[str]:
    """Every string that the code of the app marks for translation."""
    found: set[str] = set()
    marks = {"_", "gettext", "gettext_lazy", "gettext_noop", "ngettext", "ngettext_lazy"}
    for path in (Path(settings.BASE_DIR) / "sessions_app").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in marks and node.args:
                first = node.args[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    found.add(first.value)
    return found


def _marked_in_templates() -> set[str]:
    """Every string that a template of ours marks for translation, but for those with names in them."""
    found: set[str] = set()
    for path in (Path(settings.BASE_DIR) / "templates").rglob("*.html"):
        found |= set(re.findall(r'{% translate "([^"]+)"', path.read_text()))
    return found


def test_no_string_of_ours_is_without_its_spanish() -> None:
    known = {entry["msgid"] for entry in _entries()}
    assert _marked_in_code() - known == set(), "see CONTRIBUTING: makemessages, translate, compilemessages"
    assert _marked_in_templates() - known == set(), "see CONTRIBUTING: makemessages, translate, compilemessages"
