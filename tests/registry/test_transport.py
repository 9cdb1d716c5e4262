"""Requests go through proxies, and no nearer than they may."""

from threading import Event

import pytest

from pybuild.oci.platform import Platform
from pybuild.oci.reference import parse_reference
from pybuild.registry.authorization import Authorization
from pybuild.registry.blobs import Source
from pybuild.registry.client import Client
from pybuild.registry.errors import RegistryError
from pybuild.registry.hosts import PLAIN, Host
from pybuild.registry.images import fetch_image
from pybuild.registry.transport import Transport
from pybuild.remote.addresses import Reach
from support.registry import LAYER, Registry, digest


def test_a_registry_elsewhere_is_asked_through_the_proxy(fake: Registry) -> None:
    fake.contents.image("app", "1", [(LAYER, b"", digest(b""))])
    proxies = {"http_proxy": fake.web.url("").replace("//", "//user:p%40ss@")}
    host = Host("r.example", "r.example", PLAIN)
    with Transport(proxies, "", Event()) as transport:
        client = Client(host, transport, Authorization(host, transport, lambda _: None, {}))
        assert fetch_image(Source(client, "app"), parse_reference("r.example/app:1"), Platform("linux", "amd64"))
    assert all(request.path.startswith("http://r.example/v2/app/") for request in fake.web.asked)
    assert fake.web.asked[0].headers["Proxy-Authorization"] == "Basic dXNlcjpwQHNz"


def test_a_proxy_is_not_led_to_this_machine_either(fake: Registry) -> None:
    with Transport({"http_proxy": fake.web.url("")}, "", Event()) as transport:
        with pytest.raises(RegistryError, match="may not be reached"):
            transport.send("GET", "http://169.254.169.254/latest", {}, limit=Reach.PUBLIC)
        assert not fake.web.asked


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "http://[::ffff:127.0.0.1]:1/x", "http://169.254.169.254/"])
def test_a_redirect_or_realm_leads_no_nearer(transport: Transport, url: str) -> None:
    with pytest.raises(RegistryError, match="may not be reached"):
        transport.send("GET", url, {}, limit=Reach.PRIVATE)


def test_nobody_listening_is_told_at_once(transport: Transport) -> None:
    with pytest.raises(RegistryError, match=r"cannot connect to 127\.0\.0\.1:1: Connection refused"):
        transport.send("GET", "http://127.0.0.1:1/x?secret=1", {})
