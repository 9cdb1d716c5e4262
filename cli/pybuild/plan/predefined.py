"""Build arguments that mean something without an ARG."""

import difflib
from collections.abc import Iterable, Mapping

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
        near = (
            difflib.get_close_matches(name, _UNDERSTOOD | _WITHOUT_EFFECT.keys(), 1) if name.startswith(PREFIX) else []
        )
        meant = f" (did you mean {near[0]}?)" if near else ""
        found.append(Warned(f"build argument is not used by any ARG: {name}{meant}"))
    return found
