"""Certificates of the builder's that RUN steps trust, without a trace in the image."""

from pybuild.sandbox.spec import FileMount

BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
OTHERS = ("/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem")
"""Where other systems keep theirs; taken over where the image has them."""

VARIABLES = ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
"""For programs that come with certificates of their own and ignore the system's."""


def mounts(pem: str) -> tuple[FileMount, ...]:
    """Return the mounts that put `pem` in the places programs look in; none when it is empty."""
    if not pem:
        return ()
    content = pem.encode()
    return FileMount(BUNDLE, content), *(FileMount(path, content, optional=True) for path in OTHERS)


def variables(pem: str, taken: set[str]) -> tuple[tuple[str, str], ...]:
    """Return environment variables that lead to the bundle, but for names that are `taken`."""
    return tuple((name, BUNDLE) for name in VARIABLES if name not in taken) if pem else ()
