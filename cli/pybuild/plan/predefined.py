"""Build arguments that mean something without an ARG."""

from collections.abc import Iterable, Mapping

from pybuild.dockerfile.errors import near
from pybuild.plan.ops import Warned
from pybuild.plan.scope import PROXY_NAMES

PREFIX = "BUILDKIT_"

_UNDERSTOOD = frozenset(
    {
        "BUILDKIT_BUILD_NAME",
        "BUILDKIT_CACHE_MOUNT_NS",
        "BUILDKIT_CONTEXT_KEEP_GIT_DIR",
        "BUILDKIT_INLINE_CACHE",
        "BUILDKIT_MULTI_PLATFORM",
        "BUILDKIT_DOCKERFILE_CHECK",
        "BUILDKIT_SANDBOX_HOSTNAME",
        "BUILDKIT_SYNTAX",
    }
)
_WITHOUT_EFFECT = {
    "BUILDKIT_SBOM_SCAN_CONTEXT": "there are no bills of materials",
    "BUILDKIT_SBOM_SCAN_STAGE": "there are no bills of materials",
}


def warnings(given: Mapping[str, str | None], used: Iterable[str]) -> list[Warned]:
    """Return what is to be told of build arguments that nothing took."""
    found: list[Warned] = []
    for name, value in given.items():
        if name in used or name in PROXY_NAMES or name in _UNDERSTOOD or name == "SOURCE_DATE_EPOCH":
            continue
        if name in _WITHOUT_EFFECT:
            if (value or "").lower() not in ("", "0", "false"):
                found.append(Warned(f"build argument has no effect yet, {_WITHOUT_EFFECT[name]}: {name}"))
            continue
        meant = near(name, _UNDERSTOOD | _WITHOUT_EFFECT.keys()) if name.startswith(PREFIX) else None
        hint = f" (did you mean {meant}?)" if meant else ""
        found.append(Warned(f"build argument is not used by any ARG: {name}{hint}"))
    return found
