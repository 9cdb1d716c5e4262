"""What a Dockerfile may not do unless whoever builds allows it (`--allow`), by BuildKit's names."""

HOST_NETWORK = "network.host"
INSECURE = "security.insecure"

KNOWN = (HOST_NETWORK, INSECURE)
