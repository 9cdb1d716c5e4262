"""Logging in: what a registry says of credentials before they are kept."""

from pybuild.registry.authorization import Credentials
from pybuild.registry.client import Client
from pybuild.registry.errors import AuthError, MissingError


def check(client: Client, credentials: Credentials) -> None:
    """Ask a registry whether it takes the credentials that its client has; raise AuthError, RegistryError."""
    host = client.host.name
    try:
        with client.send("GET", "", (), accept=(200,)):
            pass
    except AuthError as error:
        # What a refused request has to try is for those who are logged in
        hint = "check user and password; some registries want a token in place of it" if error.status else error.hint
        raise AuthError(
            f"the registry does not take the password of {credentials.username}: {error.message}",
            hint,
            status=error.status,
        ) from error
    except MissingError as error:
        raise AuthError(f"there is no registry at {host}: {error.message}", "check the host") from error
