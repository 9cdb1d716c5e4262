"""The certificates of this system, wherever it keeps them."""

import os
import ssl
from collections.abc import Mapping

BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Where distributions have them: Debian, Fedora, openSUSE, RHEL, Alpine."""


def system_context(environment: Mapping[str, str]) -> ssl.SSLContext:
    """Return a context for clients that trusts what this system does.

    `environment` is of whoever asks, which another process may serve. Raises OSError for a file that it names wrongly.
    """
    context = ssl.create_default_context()
    file, directory = environment.get("SSL_CERT_FILE"), environment.get("SSL_CERT_DIR")
    if file or directory:
        context.load_verify_locations(file or None, directory or None)
        return context
    paths = ssl.get_default_verify_paths()
    if not any(path and os.path.exists(path) for path in (paths.cafile, paths.capath)):
        # An OpenSSL that was built elsewhere looks where its builder had them
        found = next((path for path in BUNDLES if os.path.exists(path)), None)
        if found is not None:
            context.load_verify_locations(found)
    return context
