"""Who may read the viewer, and what: hosts, the token, headers, and paths that try to leave the folder."""

from __future__ import annotations

import hashlib
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import slpd_toolkit.report.viewer
from slpd_toolkit.report.viewer.access import SECURITY_HEADERS, Guard
from slpd_toolkit.report.viewer.app import below
from slpd_toolkit.report.viewer.server import bind
from tests.report.viewing import Answer, get

if TYPE_CHECKING:
    from pathlib import Path

from pathlib import Path as _Path

TOKEN = "a-token-of-this-test"
VIEWER = _Path(slpd_toolkit.report.viewer.__file__).parent


def secret(_: object) -> PlainTextResponse:
    return PlainTextResponse("secret")


APP = Guard(Starlette(routes=[Route("/{path:path}", secret)]), TOKEN, "slpd-view-8765")
BEARER = {"authorization": f"token {TOKEN}"}


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:9999", "LOCALHOST", "127.0.0.1", "[::1]:8765", "[::1]"])
def test_the_names_of_this_machine_are_allowed(host: str) -> None:
    assert get(APP, "/", {"host": host, **BEARER}).body == b"secret"


@pytest.mark.parametrize(
    "host",
    ["evil.example:8765", "127.0.0.1.evil.example", "localhost.evil.example:8765", "", "[::1].evil.example", "0.0.0.0",
     "127.0.0.1:8765@evil.example", "evil.example:127.0.0.1"],
)  # fmt: skip
def test_a_page_whose_name_resolves_to_this_machine_is_refused(host: str) -> None:
    answer = get(APP, "/", {"host": host, **BEARER})
    assert answer.status == 421
    assert b"secret" not in answer.body


def given(**parts: str) -> Answer:
    query = parts.pop("query", "")
    return get(APP, "/api/cohort" + query, parts)


def test_nothing_is_answered_without_the_token() -> None:
    for answer in (
        given(),
        given(query="?token="),
        given(query="?token=wrong"),
        given(authorization="token wrong"),
        given(authorization=f"Basic {TOKEN}"),
        given(cookie="slpd-view-8765=wrong"),
        given(cookie=f"slpd-view-1={TOKEN}"),  # of a viewer on another port
        given(cookie='"\0=;;'),
        given(query=f"?token={TOKEN[:-1]}"),
    ):
        assert answer.status == 403
        assert TOKEN.encode() not in answer.body
        assert "set-cookie" not in answer.headers


def test_the_token_opens_the_page_and_leaves_the_address() -> None:
    answer = given(query=f"?token={TOKEN}&px=3")
    assert (answer.status, answer.headers["location"]) == (303, "/api/cohort?px=3")
    cookie = answer.headers["set-cookie"]
    assert re.match(rf"slpd-view-8765={TOKEN};", cookie)
    assert {"HttpOnly", "Path=/", "SameSite=lax"} <= {part.strip() for part in cookie.split(";")}
    assert given(cookie=f"other=1; slpd-view-8765={TOKEN}").body == b"secret"
    assert given(authorization=f"token {TOKEN}").body == b"secret"
    away = get(APP, f"//evil.example/?token={TOKEN}")
    assert away.headers["location"] == "/evil.example/"


def test_only_reading_is_allowed() -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
        assert get(APP, "/", BEARER, method).status == 405


def test_every_answer_has_the_security_headers() -> None:
    for answer in (get(APP, "/", BEARER), given(), given(query=f"?token={TOKEN}"), get(APP, "/", {"host": "evil"})):
        for name, value in SECURITY_HEADERS.items():
            assert answer.headers[name.lower()] == value
    policy = SECURITY_HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "http" not in policy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "study"
    for path in ("eval/report.html", "eval/model.h5", "eval/.hidden/report.html", ".secret.html", "atlas/a b.jpg"):
        (inside / path).parent.mkdir(parents=True, exist_ok=True)
        (inside / path).write_text("inside", encoding="utf-8")
    (tmp_path / "outside.html").write_text("outside", encoding="utf-8")
    (tmp_path / "study-2").mkdir()
    (tmp_path / "study-2" / "report.html").write_text("outside", encoding="utf-8")
    (inside / "link.html").symlink_to(tmp_path / "outside.html")
    (inside / "linked").symlink_to(tmp_path)
    return inside


@pytest.mark.parametrize("name", ["eval/report.html", "atlas/a b.jpg", "eval/../eval/report.html"])
def test_reports_below_the_folder_are_found(folder: Path, name: str) -> None:
    found = below(folder, name)
    assert found is not None
    assert found.read_text(encoding="utf-8") == "inside"


@pytest.mark.parametrize(
    "name",
    ["../outside.html", "eval/../../outside.html", "/etc/passwd", "link.html", "linked/outside.html", "eval", "", "..",
     "../study-2/report.html", "eval/model.h5", ".secret.html", "eval/.hidden/report.html", "eval/report.html\0.png",
     "%2e%2e/outside.html", "..\\outside.html", "linked/study/eval/../../outside.html", "//outside.html"],
)  # fmt: skip
def test_nothing_else_is(folder: Path, name: str) -> None:
    assert below(folder, name) is None


def test_an_absolute_name_is_no_way_out(folder: Path) -> None:
    assert below(folder, str(folder.parent / "outside.html")) is None


class _Inline(HTMLParser):
    """Attributes and elements that a page must not have."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.inline: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        self.inline += [name for name in names if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in names):
            self.inline.append(tag)
        self.addresses += [str(value) for name, value in attrs if name in {"src", "href"}]


def test_the_page_needs_no_network_and_has_nothing_inline() -> None:
    page = _Inline((VIEWER / "page" / "index.html").read_text("utf-8"))
    assert page.inline == []
    assert all(address.startswith(("/page/", "#")) for address in page.addresses)
    for script in (VIEWER / "page").glob("*.js"):
        text = script.read_text("utf-8")
        assert "http" not in text.replace("http://www.w3.org", ""), script.name
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert word not in text, script.name


def test_openseadragon_is_the_build_that_its_note_names() -> None:
    folder = VIEWER / "third_party" / "openseadragon"
    digest = hashlib.sha256((folder / "openseadragon.min.js").read_bytes()).hexdigest()
    note = (folder / "README.md").read_text("utf-8")
    assert f"`{digest}`" in note
    version = re.search(r"openseadragon (\d+\.\d+\.\d+)", (folder / "openseadragon.min.js").read_text("utf-8"))
    assert version is not None
    assert f"# OpenSeadragon {version[1]}\n" in note
    assert "Redistribution and use in source and binary forms" in (folder / "LICENSE.txt").read_text("utf-8")


def test_a_port_in_use_is_skipped() -> None:
    with bind(0) as first:
        port = first.getsockname()[1]
        assert first.getsockname()[0] == "127.0.0.1"
        first.listen()
        with bind(port) as second:
            assert port < second.getsockname()[1] <= port + 10
