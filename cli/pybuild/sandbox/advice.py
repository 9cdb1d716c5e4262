"""What to do about abilities this system refuses: the one place these words come from.

Only asked after something has failed: settings explain an error, they never foretell one.
"""

import errno
import os

INSTALL_HELPERS = "install the package `uidmap` (on Fedora `shadow-utils`), such as by `apt install uidmap`"
EMULATOR = (
    "an administrator can install one that registers itself with binfmt_misc, such as by "
    "`apt install qemu-user-static` (on Debian 13 and later `qemu-user-binfmt`)"
)
OTHER_STORE = "name another place with PYBUILD_STORE"


def add_ranges(user: str) -> str:
    """Return how a user gets subordinate ids."""
    return f"ask an administrator for `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}`"


def failed_helper(path: str, said: str) -> str:
    """Return what to do about newuidmap or newgidmap (its `path`), which ended with an error and `said` this."""
    if "owned by a different user" in said:
        # Their check of the caller takes the group in
        return "this process has another group than the user's own, as after `newgrp`; start it from a new login"
    if "not allowed" in said:
        return "the ranges in /etc/subuid and /etc/subgid must be this user's: " + add_ranges("USER")
    if os.strerror(errno.EPERM) in said or os.strerror(errno.EINVAL) in said:
        return (
            f"the kernel refused it: `{path}` needs the set-uid bit or the capability to map ids; in a container, the "
            "container must have the capabilities SETUID and SETGID, and the ranges must be among its own ids"
        )
    return (
        f"`{path}` must be set-uid root (or have the capability to map ids), and the ranges in /etc/subuid and "
        "/etc/subgid must be this user's"
    )


def user_namespaces(number: int, *, after_unshare: bool) -> str:
    """Return what to do about user namespaces refused with errno `number`, from the signs this system shows."""
    nested = "user namespaces are nested too deeply here; run pybuild in fewer containers inside each other"
    if number == errno.ENOSPC:
        setting = "the sysctl `user.max_user_namespaces`"
        raising = "an administrator can raise it: `sysctl -w user.max_user_namespaces=15000`"
        if sysctl("user/max_user_namespaces") == "0":
            return f"{setting} is 0; {raising}"
        # Kernels since 4.9 say the same of both
        return f"{setting} is used up; {raising}; or {nested}"
    if number == errno.EUSERS:
        return nested
    if number in (errno.ENOSYS, errno.EINVAL):
        return "the kernel is built without user namespaces; it needs CONFIG_USER_NS"
    if number not in (errno.EPERM, errno.EACCES):
        return ""
    if apparmor_restricts():
        return (
            "AppArmor restricts user namespaces here (`kernel.apparmor_restrict_unprivileged_userns` is 1); an "
            "administrator can allow them for this program with the profile that `pybuild doctor` prints"
        )
    if sysctl("kernel/unprivileged_userns_clone") == "0" and os.geteuid() != 0:
        return (
            "the sysctl `kernel.unprivileged_userns_clone` is 0; an administrator can set it: "
            "`sysctl -w kernel.unprivileged_userns_clone=1`"
        )
    if status("Seccomp") == "2":
        return f"a seccomp filter forbids it, as in a container: {_without_filter()}"
    if not after_unshare and in_chroot():
        return "this process runs in a chroot, where the kernel allows no user namespaces; run it outside of that"
    return "a security module, a chroot or the kernel's settings forbid user namespaces to this user"


def listener(number: int) -> str:
    """Return what to do where a filter that asks another process is refused with errno `number`."""
    without = "`--root-emulation=fake` builds without it, and loses other owners of files"
    if number == errno.EBUSY:
        return f"the container's own filter has a listener, beside which there can be no other; {without}"
    return f"it needs Linux 5.0 or later; {without}"


def masked_proc() -> str:
    """Return how a container can show all of its /proc, without which no new one can be mounted."""
    ways = {
        "docker": "run the container with `docker run --security-opt systempaths=unconfined`",
        "podman": "run the container with `podman run --security-opt unmask=ALL`",
        "kubernetes": "set `procMount: Unmasked` in the container's securityContext and `hostUsers: false` in the pod",
    }
    return ways.get(container(), "mount a whole /proc: parts of this one are covered by other mounts")


def overlay(number: int) -> str:
    """Return what to do about an overlay that cannot be mounted."""
    hints = {
        errno.EINVAL: "the store may lie on a file system that overlayfs cannot write to, such as another overlay "
        f"or NFS; {OTHER_STORE}",
        errno.EOPNOTSUPP: f"the store's file system lacks extended attributes; {OTHER_STORE}",
        errno.ENODEV: "the kernel has no overlayfs; load the module: `modprobe overlay`",
        errno.EPERM: "overlayfs in user namespaces needs Linux 5.11 or later",
    }
    return hints.get(number, "")


def networked_store(kind: str) -> str:
    """Return what to do about a store on a file system of that kind, which another machine serves."""
    return f"the store lies on {kind}, over the network, where layers cannot be stacked; {OTHER_STORE}, on a local disk"


def _without_filter() -> str:
    ways = {
        "docker": "run that with `docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined`",
        "podman": "run that with `podman run --security-opt seccomp=unconfined`",
        "kubernetes": "set `seccompProfile: {type: Unconfined}` in the container's securityContext, "
        "and `hostUsers: false` in the pod",
    }
    general = "run that with `--security-opt seccomp=unconfined`, or a profile that allows user namespaces"
    return ways.get(container(), general)


def joined(message: str, hint: str) -> str:
    """Return an error and its hint in one line."""
    return f"{message} ({hint})" if hint else message


def apparmor_restricts() -> bool:
    """Does AppArmor take the power of user namespaces from programs it has no profile of? Root is exempt."""
    return sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1" and os.geteuid() != 0


def apparmor_profile(program: str) -> str:
    """Return a profile under which `program` may use user namespaces and is not restricted otherwise."""
    return (
        "abi <abi/4.0>,\n"
        "include <tunables/global>\n"
        f'profile pybuild "{program}" flags=(unconfined) {{\n'
        "  userns,\n"
        "  include if exists <local/pybuild>\n"
        "}\n"
    )


def container() -> str:
    """Return what kind of container this is, as far as it shows: kubernetes, docker, podman, other, or ""."""
    if os.environ.get("KUBERNETES_SERVICE_HOST") or os.path.exists("/var/run/secrets/kubernetes.io"):
        return "kubernetes"
    if os.path.exists("/run/.containerenv"):
        return "podman"
    if os.path.exists("/.dockerenv"):
        return "docker"
    # systemd's convention, in small letters
    return "other" if "container" in os.environ else ""


def sysctl(name: str) -> str:
    """Return a setting of the kernel, "" when there is none of that name."""
    try:
        with open(f"/proc/sys/{name}", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def status(field: str) -> str:
    """Return a field of this process's status, "" when it is not told."""
    try:
        with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name == field:
                    return value.strip()
    except OSError:
        return ""
    return ""


def in_chroot() -> bool:
    """A process whose root is not the root of a mount was moved there by chroot."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            return not any(line.split()[4] == "/" for line in file)
    except OSError:
        return False
