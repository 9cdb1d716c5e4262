"""Which proxy is taken, and which addresses are near."""

import pytest

from pybuild.remote.addresses import Reach, reach_of
from pybuild.remote.proxies import proxy_for

PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("host", "port", "rules", "taken"),
    [
        ("files.example", 80, "", True),
        ("files.example", 80, "*", False),
        ("files.example", 80, "files.example", False),
        ("FILES.example.", 80, "files.example", False),
        ("a.files.example", 80, "files.example", False),
        ("a.files.example", 80, ".files.example", False),
        ("files.example", 80, ".files.example", True),
        ("files.example", 80, "*.example", False),
        ("notfiles.example", 80, "files.example", True),
        ("files.example", 80, "files.example:8080, other", True),
        ("files.example", 8080, "other, files.example:8080", False),
        ("10.1.2.3", 80, "10.0.0.0/8", False),
        ("11.1.2.3", 80, "10.0.0.0/8", True),
        ("10.1.2.3", 80, "10.1.2.3", False),
        ("fd00::5", 80, "fd00::/8", False),
        ("fd00::5", 81, "[fd00::5]:80", True),
        ("fd00::5", 80, "[fd00::5]:80", False),
        ("localhost", 80, "", False),
        ("127.9.9.9", 80, "", False),
        ("::1", 80, "", False),
    ],
)
def test_exemptions(host: str, port: int, rules: str, taken: bool) -> None:
    assert bool(proxy_for("http", host, port, {"HTTP_PROXY": PROXY, "NO_PROXY": rules})) is taken


def test_the_variable_goes_by_the_scheme() -> None:
    variables = {"HTTPS_PROXY": "https://tls.example", "all_proxy": "rest.example:1"}
    assert proxy_for("https", "x.example", 443, variables) == "https://tls.example"
    assert proxy_for("http", "x.example", 80, variables) == "http://rest.example:1"
    assert proxy_for("http", "x.example", 80, {"https_proxy": PROXY}) == ""
    # Lower case wins, as with curl
    assert proxy_for("http", "x.example", 80, {"http_proxy": PROXY, "HTTP_PROXY": "other"}) == PROXY


@pytest.mark.parametrize(
    ("address", "reach"),
    [
        ("8.8.8.8", Reach.PUBLIC),
        ("2001:4860:4860::8888", Reach.PUBLIC),
        ("64:ff9b::808:808", Reach.PUBLIC),
        ("10.0.0.1", Reach.PRIVATE),
        ("192.168.1.1", Reach.PRIVATE),
        ("172.16.0.1", Reach.PRIVATE),
        ("100.64.0.1", Reach.PRIVATE),
        ("fd12::1", Reach.PRIVATE),
        ("::ffff:10.0.0.1", Reach.PRIVATE),
        ("127.0.0.1", Reach.LOCAL),
        ("0.0.0.0", Reach.LOCAL),
        ("0.1.2.3", Reach.LOCAL),
        ("169.254.169.254", Reach.LOCAL),
        ("::", Reach.LOCAL),
        ("::1", Reach.LOCAL),
        ("fe80::1%eth0", Reach.LOCAL),
        ("::ffff:127.0.0.1", Reach.LOCAL),
        ("64:ff9b::7f00:1", Reach.LOCAL),
        ("2002:7f00:1::", Reach.LOCAL),
        ("::127.0.0.1", Reach.LOCAL),
        ("224.0.0.1", Reach.LOCAL),
    ],
)
def test_reach(address: str, reach: Reach) -> None:
    assert reach_of(address) is reach
