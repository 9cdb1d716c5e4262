"""All trials in turn, and what follows from them."""

import errno
import os
import shutil
import sys
import tempfile
from functools import partial

import msgspec

from pybuild.sandbox import advice, footings, ground, idmap, syscalls
from pybuild.sandbox.errors import IdMapError
from pybuild.sandbox.idmap import IdMap
from pybuild.sandbox.probe import limits, namespaces, store
from pybuild.sandbox.probe.report import SCHEMA, Ability, Mode, Need, Report, level_of
from pybuild.sandbox.probe.trial import Body, Outcome, Steps, attempt, inside

_INSIDE: dict[str, tuple[Need, str]] = {
    "mount-namespace": ("required", "the files of RUN"),
    "pid-namespace": ("required", "ending all that RUN started"),
    "ipc-namespace": ("required", "no shared memory with this system"),
    "uts-namespace": ("required", "a host name for RUN"),
    "cgroup-namespace": ("required", "hiding control groups"),
    "net-namespace": ("wanted", "`--network=none`"),
    "proc": ("required", "a /proc for RUN"),
    "mounts": ("required", "/dev, /sys and the files that are mounted"),
    "seccomp": ("required", "keeping RUN from dangerous system calls"),
    "store-xattrs": ("required", "layers, and owners when there is one id only"),
    "overlay": ("wanted", "stacking layers without copying them"),
}

_ENTERED = ("user-namespace", "mount-namespace", "root-ids", "single-id")
"""What a worker needs to begin with; where it is refused another footing is looked for."""
_APART = "keeping RUN apart"
_STOOD_ON = "what RUN stands on"


def probe(store_root: str) -> Report:
    """Try everything that builds with the store at `store_root` need. To be called in a process with one thread.

    Nothing is left behind, the store is not made.
    """
    place = store.existing(store_root)
    found = [
        _ability("user-namespace", "required", "everything", attempt(_user_namespace), after_unshare=False),
        _ability("store", "required", "images and layers", attempt(partial(store.writable, place=place))),
    ]
    if found[1].state != "ok" and not found[1].fix:
        found[1] = _with_fix(found[1], advice.OTHER_STORE)
    ids: IdMap | None = None
    if found[0].state == "ok":
        ids, maps = _id_maps()
        found += maps
    if ids is not None:
        found += _inside(ids, place if found[1].state == "ok" else tempfile.gettempdir())
    isolation = _isolation(found, ids)
    found.append(isolation)
    if isolation.state == "degraded":
        found = [_less_needed(item) for item in found]
    if isolation.state != "missing" and all(item.state != "missing" for item in found if item.need == "required"):
        found.append(_snapshotter(found, by_chroot=isolation.state == "degraded"))
    stacked = found[-1].detail == "overlay"
    mode = _mode(ids)
    found += [_seccomp_notify(mode), _network(by_chroot=isolation.state == "degraded"), _control_groups()]
    works = all(item.state != "missing" for item in found if item.need == "required")
    if not works:
        mode = "none"
    abilities = tuple(found)
    return Report(
        schema=SCHEMA,
        mode=mode,
        level=level_of(mode, abilities),
        store=store_root,
        abilities=abilities,
        profile=advice.apparmor_profile(program()) if _blames_apparmor(abilities) else "",
        isolation=("chroot" if isolation.state == "degraded" else "namespaces") if works else "none",
        snapshotter=("overlay" if stacked else "copy") if works else "none",
    )


def _mode(ids: IdMap | None) -> Mode:
    """Return how a build that works would map ids: none are mapped without a user namespace."""
    if ids is not None:
        return ids.mode
    return "root" if idmap.may_map_all() else "single"


def _isolation(found: list[Ability], ids: IdMap | None) -> Ability:
    """Tell how a build would keep RUN apart from this system, the best first."""
    tried = footings.wanted("")
    refused = next((item for item in found if item.name in _ENTERED and item.state == "missing"), None)
    outcome = Outcome("keep RUN apart", 0, refused.problem if refused else "a namespace is missing")
    for footing in tried:
        if footing == "namespaces" and refused is None and ids is not None:
            return Ability("isolation", "ok", "required", _APART, detail="namespaces")
        if footing == "ids" and ids is not None:
            made, bodies = inside(ids, {"chroot": _change_root})
            outcome = bodies.get("chroot", made)
        elif footing == "bare":
            outcome = attempt(_change_root)
        else:
            continue
        if outcome.ok:
            why = f": {refused.problem}" if refused else ""
            return Ability(
                *("isolation", "degraded", "required", _APART),
                error=refused.error if refused else "",
                problem=f"by chroot, less isolated{why}",
                fix=refused.fix if refused else "",
            )
    found_none = _ability("isolation", "required", _APART, outcome)
    return _with_fix(found_none, refused.fix if refused else "")


def _change_root(steps: Steps) -> None:
    steps("change the root directory")
    os.chroot("/")


def _less_needed(ability: Ability) -> Ability:
    """What a build does without is wanted all the same."""
    if ability.need != "required" or ability.name in ("isolation", "store"):
        return ability
    return msgspec.structs.replace(ability, need="wanted")


def _snapshotter(found: list[Ability], *, by_chroot: bool) -> Ability:
    """Tell what RUN would stand on."""
    ability = Ability("snapshotter", "ok", "required", _STOOD_ON)
    wanted = os.environ.get(ground.VARIABLE) or "auto"
    overlay = next((item for item in found if item.name == "overlay"), None)
    problem, fix = "nothing can be mounted", ""
    if overlay is not None and not by_chroot:
        problem, fix = overlay.problem, overlay.fix
        if overlay.state == "ok":
            if wanted != "copy":
                return msgspec.structs.replace(ability, detail="overlay")
            problem = f"{ground.VARIABLE} says so"
    if wanted == "overlay":
        return msgspec.structs.replace(ability, state="missing", step="stack layers", problem=problem, fix=fix)
    return msgspec.structs.replace(ability, state="degraded", problem=f"copies of layers: {problem}", fix=fix)


def program() -> str:
    """Return the file that the kernel and AppArmor know this program by."""
    return os.path.realpath(sys.executable)


def _blames_apparmor(abilities: tuple[Ability, ...]) -> bool:
    denied = (errno.errorcode[errno.EPERM], errno.errorcode[errno.EACCES])
    return advice.apparmor_restricts() and any(
        item.error in denied for item in abilities if item.need != "optional" and item.state == "missing"
    )


def _user_namespace(steps: Steps) -> None:
    steps("make a user namespace")
    syscalls.unshare(syscalls.CLONE_NEWUSER)


def _id_maps() -> tuple[IdMap | None, list[Ability]]:
    """Return the map a build would choose, if it works, and the abilities that concern maps."""
    chosen = idmap.choose()
    single, _ = inside(idmap.choose("single"), {})
    wanted = "root" if idmap.may_map_all() else "multi"
    try:
        full, _ = inside(idmap.choose(wanted), {})
    except IdMapError as error:
        full = Outcome("find ids to map", 0, error.message, error.hint)
    if chosen.mode == "multi" and not full.ok and single.ok and not os.environ.get(idmap.OVERRIDE):
        # The helpers do not keep what they promise; a build goes on as this does
        chosen = idmap.choose("single")
    by_one = chosen.mode == "single"
    name = "root-ids" if wanted == "root" else "subordinate-ids"
    several = _ability(name, "wanted" if by_one else "required", "files of other users than root in images", full)
    one = _ability("single-id", "required" if by_one else "optional", "builds without subordinate ids", single)
    works = single.ok if by_one else full.ok
    return chosen if works else None, [several, one]


def _inside(ids: IdMap, place: str) -> list[Ability]:
    bodies: dict[str, Body] = {
        f"{kind}-namespace": partial(namespaces.namespace, kind=kind)
        for kind in ("mount", "pid", "ipc", "uts", "cgroup", "net")
    }
    directory = tempfile.mkdtemp(prefix=".pybuild-probe-", dir=place)
    try:
        bodies |= {
            "proc": namespaces.proc,
            "mounts": namespaces.mounts,
            "seccomp": namespaces.seccomp,
            "store-xattrs": partial(store.attributes, directory=directory),
            "overlay": partial(store.layers, directory=directory),
        }
        made, found = inside(ids, bodies)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    abilities = [_ability(name, *_INSIDE[name], found.get(name, made)) for name in bodies]
    lies_on = store.mounted(place)
    if lies_on.networked:
        advised = advice.networked_store(lies_on.kind)
        about_store = [item.name.startswith(("store", "overlay")) and item.state == "missing" for item in abilities]
        abilities = [
            _with_fix(item, advised) if bad else item for item, bad in zip(abilities, about_store, strict=True)
        ]
    hints = {
        "store-xattrs": f"the store's file system lacks extended attributes; {advice.OTHER_STORE}",
        "overlay": advice.OTHER_STORE,
    }
    return [
        _with_fix(item, hints[item.name]) if item.state == "missing" and not item.fix and item.name in hints else item
        for item in abilities
    ]


def _seccomp_notify(mode: Mode) -> Ability:
    outcome = attempt(namespaces.seccomp_notify)
    need: Need = "required" if mode == "single" else "optional"
    ability = _ability("seccomp-notify", need, "imitating owners with one id", outcome)
    return ability if outcome.ok else _with_fix(ability, advice.listener(outcome.number))


def _network(*, by_chroot: bool) -> Ability:
    name, purpose = "private-network", "a network of its own for RUN"
    if by_chroot:
        problem = "it needs the namespaces that are refused"
        return Ability(name, "missing", "optional", purpose, step="separate the net namespace", problem=problem)
    outcome = attempt(limits.tunnel)
    helper = limits.network_helper()
    if not outcome.ok:
        fix = "load the module and open the device to users: `modprobe tun && chmod 0666 /dev/net/tun`"
        if advice.container():
            fix = "give the container the device, as by `docker run --device /dev/net/tun`"
        return _with_fix(_ability(name, "optional", purpose, outcome), fix)
    if not helper:
        problem = "neither `pasta` nor `slirp4netns` is on PATH"
        fix = "install the package `passt`, such as by `apt install passt`"
        return Ability(name, "missing", "optional", purpose, step="find a helper", problem=problem, fix=fix)
    return Ability(name, "ok", "optional", purpose, detail=helper)


def _control_groups() -> Ability:
    ability = _ability("cgroups", "optional", "limits of memory and processes", attempt(limits.control_groups))
    fix = "run pybuild in a delegated group: `systemd-run --user --scope -p Delegate=yes pybuild build --inline ...`"
    return ability if ability.state == "ok" else _with_fix(ability, fix)


def _ability(name: str, need: Need, purpose: str, outcome: Outcome, *, after_unshare: bool = True) -> Ability:
    if outcome.ok:
        return Ability(name, "ok", need, purpose, detail=outcome.detail)
    degraded = outcome.step == namespaces.FALLBACK
    fix = outcome.hint
    if not fix and need != "optional" and name != "store":
        fix = advice.user_namespaces(outcome.number, after_unshare=after_unshare)
    return Ability(
        name,
        "degraded" if degraded else "missing",
        need,
        purpose,
        step="" if degraded else outcome.step,
        error=errno.errorcode.get(outcome.number, ""),
        problem=outcome.problem,
        fix=fix,
    )


def _with_fix(ability: Ability, fix: str) -> Ability:
    return msgspec.structs.replace(ability, fix=fix)
