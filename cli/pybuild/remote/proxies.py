"""Which proxy a request takes: the variables that programs agree on, in both cases, lower case first."""

import ipaddress
from collections.abc import Mapping


def proxy_for(scheme: str, host: str, port: int, variables: Mapping[str, str]) -> str:
    """Return the URL of the proxy for a host, "" for none. `variables` are HTTP_PROXY and its like."""
    proxy = _variable(variables, f"{scheme}_proxy") or _variable(variables, "all_proxy")
    if not proxy or _is_exempt(host.lower().rstrip("."), port, _variable(variables, "no_proxy")):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def _variable(variables: Mapping[str, str], name: str) -> str:
    return variables.get(name) or variables.get(name.upper()) or ""


def _is_exempt(host: str, port: int, rules: str) -> bool:
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        # A proxy would reach its own
        return True
    return any(_matches(host, address, port, rule.strip().lower()) for rule in rules.split(",") if rule.strip())


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None


def _matches(host: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None, port: int, rule: str) -> bool:
    """Does an entry of no_proxy hold: `*`, an address, a network, a domain and its hosts, each with a port or not?"""
    if rule == "*":
        return True
    if rule.count(":") == 1 or "]:" in rule:
        rule, _, digits = rule.rpartition(":")
        if digits != str(port):
            return False
    if address is not None:
        try:
            return address in ipaddress.ip_network(rule.strip("[]"), strict=False)
        except ValueError:
            return False
    domain = rule.removeprefix("*").removeprefix(".")
    return host.endswith("." + domain) or (host == domain and not rule.startswith((".", "*.")))
