"""Fetching over HTTP, from servers on loopback that behave and that do not."""

from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybuild.errors import CancelledError
from pybuild.remote import http
from pybuild.remote.addresses import Reach
from pybuild.remote.errors import AddressError, RemoteError
from pybuild.remote.http import Answer as Got
from pybuild.remote.http import Fetcher
from pybuild.remote.validators import Validators, modified
from support import web as servers
from support.web import Answer, Asked, Web


class Memory:
    """A sink in memory."""

    def __init__(self) -> None:
        self.data = b""
        self.restarts = 0

    def write(self, data: bytes) -> None:
        self.data += data

    def restart(self) -> None:
        self.data = b""
        self.restarts += 1


def fetcher(**changes: Any) -> Fetcher:
    given = Fetcher(proxies={}, ca_bundle="", limit=Reach.LOCAL, follow=Reach.LOCAL, max_size=1 << 20, cancel=Event())
    return given._replace(**changes)


def fetch(url: str, by: Fetcher | None = None, **options: Any) -> tuple[bytes, Got]:
    sink = Memory()
    answer = (by or fetcher()).fetch(url, sink, **options)
    return sink.data, answer


@pytest.fixture
def web() -> Iterator[Web]:
    with servers.serve() as web:
        yield web


@pytest.fixture
def other() -> Iterator[Web]:
    with servers.serve() as other:
        yield other


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "PAUSE_SECONDS", 0.001)


def test_a_file_comes_with_what_the_server_says_of_it(web: Web) -> None:
    web.answers["/a.txt"] = Answer(
        b"hello",
        etag='"1"',
        modified="Tue, 01 Sep 2026 10:00:00 GMT",
        headers={"Content-Disposition": 'attachment; filename="../../b.txt"'},
    )
    data, answer = fetch(web.url("/a.txt?x=1#part"))
    assert data == b"hello"
    assert answer == Got(False, Validators('"1"', "Tue, 01 Sep 2026 10:00:00 GMT"), "b.txt", web.url("/a.txt?x=1"))
    [asked] = web.asked
    assert asked.path == "/a.txt?x=1"
    assert asked.headers["Accept-Encoding"] == "identity"
    assert "Authorization" not in asked.headers


@pytest.mark.parametrize("how", ["etag", "modified"])
def test_what_is_known_is_not_sent_again(web: Web, how: str) -> None:
    value = '"tag"' if how == "etag" else "Tue, 01 Sep 2026 10:00:00 GMT"
    web.answers["/a"] = Answer(b"hello", **{how: value})
    _, first = fetch(web.url("/a"))
    data, second = fetch(web.url("/a"), known=first.validators)
    assert (data, second.unchanged, second.validators) == (b"", True, first.validators)
    web.answers["/a"] = Answer(b"other", etag='"new"')
    data, third = fetch(web.url("/a"), known=first.validators)
    assert (data, third.unchanged) == (b"other", False)


def test_a_transfer_that_breaks_off_is_taken_up_where_it_broke(web: Web) -> None:
    web.answers["/big"] = Answer(bytes(range(256)) * 100, etag='"1"', ranges=True, cut=10_000)
    data, _ = fetch(web.url("/big"))
    assert data == bytes(range(256)) * 100
    assert [asked.headers.get("Range") for asked in web.asked] == [None, "bytes=10000-"]
    assert web.asked[1].headers["If-Range"] == '"1"'


@pytest.mark.parametrize(("etag", "ranges"), [("", False), ('W/"weak"', True), ('"1"', False)])
def test_it_begins_anew_where_versions_cannot_be_told_apart(web: Web, etag: str, ranges: bool) -> None:
    web.answers["/big"] = Answer(b"x" * 9000 + b"end", etag=etag, ranges=ranges, cut=5000)
    sink = Memory()
    fetcher().fetch(web.url("/big"), sink)
    assert sink.data == b"x" * 9000 + b"end"
    assert sink.restarts == 1


def test_another_version_after_a_break_is_taken_as_a_whole(web: Web) -> None:
    def answer(asked: Asked) -> Answer:
        if "Range" in asked.headers:
            return Answer(b"new content", etag='"2"', ranges=True)
        return Answer(b"old content, longer", etag='"1"', ranges=True, cut=4)

    web.answers["/f"] = answer
    data, got = fetch(web.url("/f"))
    assert (data, got.validators.etag) == (b"new content", '"2"')


def test_a_transfer_that_always_breaks_off_fails(web: Web) -> None:
    web.answers["/f"] = lambda asked: Answer(b"abcdef", cut=3)
    with pytest.raises(RemoteError, match="broke off"):
        fetch(web.url("/f"))
    assert len(web.asked) == http.RETRIES + 1


def test_a_busy_server_is_asked_again_and_one_that_refuses_is_not(web: Web) -> None:
    answers = iter([Answer(status=503), Answer(status=429), Answer(b"at last")])
    web.answers["/busy"] = lambda asked: next(answers)
    assert fetch(web.url("/busy"))[0] == b"at last"
    web.asked.clear()
    with pytest.raises(RemoteError, match="404 Not Found") as failed:
        fetch(web.url("/absent"))
    assert web.url("/absent") in failed.value.message
    assert len(web.asked) == 1


def test_redirects_are_followed_up_to_a_limit(web: Web, other: Web) -> None:
    web.answers["/1"] = Answer(status=302, headers={"Location": "/2"})
    web.answers["/2"] = Answer(status=307, headers={"Location": other.url("/3")})
    other.answers["/3"] = Answer(b"here")
    assert fetch(web.url("/1"))[0] == b"here"
    web.answers["/loop"] = Answer(status=301, headers={"Location": "/loop"})
    web.asked.clear()
    with pytest.raises(RemoteError, match="redirects"):
        fetch(web.url("/loop"))
    assert len(web.asked) == http.MAX_REDIRECTS + 1


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1/x", "data:,x"])
def test_no_redirect_leads_out_of_http(web: Web, target: str) -> None:
    web.answers["/"] = Answer(status=302, headers={"Location": target})
    with pytest.raises(RemoteError, match="other than HTTP"):
        fetch(web.url("/"))


@pytest.mark.parametrize("target", ["http://h:port/", "http://[::1/", "http:///x", "http://127.0.0.1:99999/"])
def test_redirects_to_what_is_no_address(web: Web, target: str) -> None:
    web.answers["/"] = Answer(status=302, headers={"Location": target})
    with pytest.raises(RemoteError, match="redirected to"):
        fetch(web.url("/"))


def test_the_query_a_redirect_leads_to_is_not_told(web: Web) -> None:
    web.answers["/a"] = Answer(status=302, headers={"Location": "/b?X-Signature=abc"})
    with pytest.raises(RemoteError, match="404") as failed:
        fetch(web.url("/a?mine=1"))
    assert web.url("/a?mine=1") in failed.value.message
    assert web.url("/b") in failed.value.message
    assert "Signature" not in failed.value.message


def test_credentials_stay_with_their_host(web: Web, other: Web) -> None:
    web.answers["/same"] = Answer(status=302, headers={"Location": "/file"})
    web.answers["/file"] = Answer(b"private", authorization="Bearer t0ken")
    assert fetch(web.url("/same"), secret="Bearer t0ken")[0] == b"private"
    web.answers["/away"] = Answer(status=302, headers={"Location": other.url("/file")})
    other.answers["/file"] = Answer(b"public")
    assert fetch(web.url("/away"), secret="Bearer t0ken")[0] == b"public"
    # Another port is another host
    assert [asked.headers.get("Authorization") for asked in other.asked] == [None]


def test_a_password_in_the_address_is_sent_and_never_told(web: Web) -> None:
    web.answers["/file"] = Answer(b"x", authorization="Basic dXNlcjpwQHNz")
    url = web.url("/file", host="user:p%40ss@127.0.0.1")
    assert fetch(url)[0] == b"x"
    with pytest.raises(RemoteError) as failed:
        fetch(url.replace("/file", "/gone"))
    assert "p%40ss" not in failed.value.message
    assert "p@ss" not in failed.value.message


def test_a_server_cannot_give_us_a_password_to_send(web: Web, other: Web) -> None:
    location = other.url("/x", host="user:pass@127.0.0.1")
    web.answers["/"] = Answer(status=302, headers={"Location": location})
    other.answers["/x"] = Answer(b"x")
    fetch(web.url("/"))
    assert "Authorization" not in other.asked[0].headers


@pytest.mark.parametrize("length", [None, -1])
def test_a_file_over_the_limit_is_not_taken(web: Web, length: int | None) -> None:
    web.answers["/big"] = Answer(bytes(2000), length=length)
    with pytest.raises(RemoteError, match="limit of 1000 bytes") as failed:
        fetch(web.url("/big"), fetcher(max_size=1000))
    assert "--max-download" in failed.value.hint


@pytest.mark.parametrize("length", ["\xb2", "-5", "5, 5", "x", "9" * 5000])
def test_lengths_that_say_nothing(web: Web, length: str) -> None:
    web.answers["/f"] = Answer(b"hello", length=-1, headers={"Content-Length": length})
    assert fetch(web.url("/f"))[0] == b"hello"


def test_lengths_that_contradict_each_other(web: Web) -> None:
    web.answers["/f"] = Answer(b"hello", length=-1, headers={"Content-Length": "5, 6"})
    with pytest.raises(RemoteError, match="Content-Length"):
        fetch(web.url("/f"))


@pytest.mark.parametrize(("status", "body"), [(203, b"from a proxy"), (204, b"")])
def test_other_kinds_of_success(web: Web, status: int, body: bytes) -> None:
    web.answers["/f"] = Answer(body, status=status)
    assert fetch(web.url("/f"))[0] == body


@pytest.mark.parametrize("status", [206, 304, 301, 400, 418, 599])
def test_answers_that_bring_no_file(web: Web, status: int) -> None:
    web.answers["/f"] = Answer(b"no", status=status)
    with pytest.raises(RemoteError, match=f"the server answers {status}"):
        fetch(web.url("/f"))


def test_a_server_that_stops_talking_is_given_up(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "IDLE_SECONDS", 0.2)
    monkeypatch.setattr(http, "RETRIES", 1)
    web.answers["/slow"] = Answer(b"abcdef", stall=3)
    with pytest.raises(RemoteError, match="said nothing"):
        fetch(web.url("/slow"))


def test_a_cancelled_build_does_not_wait_for_the_server(web: Web) -> None:
    web.answers["/slow"] = Answer(b"abcdef", stall=3)
    cancel = Event()
    begun = Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            fetch(web.url("/slow"), fetcher(cancel=cancel), progress=lambda done, total: begun.set())
        except BaseException as error:
            failures.append(error)

    web.answers["/slow"] = lambda asked: (begun.set(), Answer(b"abcdef", stall=3))[1]
    thread = Thread(target=run)
    thread.start()
    assert begun.wait(10)
    cancel.set()
    thread.join(10)
    assert [type(error) for error in failures] == [CancelledError]


@given(st.text(max_size=60), st.binary(max_size=40))
def test_headers_of_any_kind_are_borne(text: str, data: bytes) -> None:
    for header in (text, f"attachment; filename={text}", f"attachment; filename*=UTF-8''{data.decode('latin-1')}"):
        name = http._disposition(" ".join(header.split()))
        assert "/" not in name
        assert name not in (".", "..")
    assert modified(text) >= 0


def test_nobody_listens(web: Web) -> None:
    with servers.serve() as gone:
        url = gone.url("/x")
    with pytest.raises(RemoteError, match="cannot connect"):
        fetch(url)
    with pytest.raises(RemoteError, match="cannot find the host"):
        fetch("http://no-such-host.invalid/x")


@pytest.mark.tls
def test_certificates(tmp_path: Path) -> None:
    pem = servers.certificate(tmp_path)
    with servers.serve(pem) as web:
        web.answers["/x"] = Answer(b"safe")
        with pytest.raises(RemoteError, match="certificate") as failed:
            fetch(web.url("/x"))
        assert "--ca-bundle" in failed.value.hint
        trusting = fetcher(ca_bundle=pem.read_text())
        assert fetch(web.url("/x"), trusting)[0] == b"safe"
        with servers.serve() as plain:
            web.answers["/down"] = Answer(status=302, headers={"Location": plain.url("/x")})
            with pytest.raises(RemoteError, match="from https to http"):
                fetch(web.url("/down"), trusting, secret="Bearer t")
            assert not plain.asked


def test_proxies_are_asked_for_hosts_that_are_not_exempt(web: Web) -> None:
    proxy = web.url("", host="me:pass@127.0.0.1")
    web.answers["http://files.example/a"] = Answer(b"by proxy")
    by = fetcher(proxies={"HTTP_PROXY": proxy}, limit=Reach.PUBLIC, follow=None)
    assert fetch("http://files.example/a", by)[0] == b"by proxy"
    assert web.asked[0].headers["Proxy-Authorization"] == "Basic bWU6cGFzcw=="
    exempt = by._replace(proxies={"HTTP_PROXY": proxy, "no_proxy": "example, other"})
    with pytest.raises(RemoteError, match="cannot find the host"):
        fetch("http://files.example/a", exempt)
    # What is named by number is judged though the proxy connects to it
    with pytest.raises(AddressError):
        fetch("http://169.254.169.254/latest", by)
    assert len(web.asked) == 1


@pytest.mark.tls
def test_tls_goes_through_a_proxy(web: Web, tmp_path: Path) -> None:
    pem = servers.certificate(tmp_path)
    proxies = {"https_proxy": web.url("", host="me:pass@127.0.0.1")}
    by = fetcher(proxies=proxies, ca_bundle=pem.read_text(), limit=Reach.PUBLIC, follow=None)
    with servers.serve(pem) as far:
        far.answers["/a"] = Answer(b"carried", authorization="Bearer for-the-server")
        web.carries["tls.example:443"] = far.port
        assert fetch("https://tls.example/a", by, secret="Bearer for-the-server")[0] == b"carried"
    assert [(asked.method, asked.headers["Proxy-Authorization"]) for asked in web.asked] == [
        ("CONNECT", "Basic bWU6cGFzcw==")
    ]
    assert "Authorization" not in web.asked[0].headers
    with pytest.raises(RemoteError, match="the proxy failed"):
        fetch("https://other.example/a", by)


def test_addresses_that_are_nearer_than_allowed_are_refused(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    web.answers["/x"] = Answer(b"secret of this machine")
    careful = fetcher(limit=Reach.PRIVATE, follow=None)
    for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433", "0x7f.1"):
        with pytest.raises(AddressError, match="this machine") as failed:
            fetch(web.url("/x", host=host), careful)
        assert "--allow network.host" in failed.value.hint
    with pytest.raises(AddressError):
        fetch("http://169.254.169.254/latest/meta-data", careful)
    assert not web.asked


def test_a_redirect_leads_no_nearer_than_the_first_host(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    from pybuild.remote import addresses

    # Nothing else than loopback is here, so one address of it is said to be public
    monkeypatch.setattr(addresses, "reach_of", lambda text: Reach.PUBLIC if text == "127.0.0.2" else Reach.LOCAL)
    web.answers["/metadata"] = Answer(b"secret")
    with servers.serve(address="127.0.0.2") as public:
        public.answers["/go"] = Answer(status=302, headers={"Location": web.url("/metadata")})
        with pytest.raises(AddressError, match="this machine"):
            fetch(public.url("/go"), fetcher(limit=Reach.LOCAL, follow=None))
        assert not web.asked
        assert fetch(public.url("/go"), fetcher(follow=Reach.LOCAL))[0] == b"secret"
    # The user's own first address may be this machine, and lead on there
    web.answers["/go"] = Answer(status=302, headers={"Location": "/metadata"})
    assert fetch(web.url("/go"), fetcher(follow=None))[0] == b"secret"
