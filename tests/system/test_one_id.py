"""A user with one id gets the same layers as one with many: owners, modes, devices, capabilities."""

from pathlib import Path

import pytest

from support.program import Pybuild

pytestmark = [pytest.mark.userns, pytest.mark.multiid, pytest.mark.network, pytest.mark.slow]

# Packages that make users, groups, directories of theirs, set-id programs and capabilities
TEXT = """\
FROM debian
RUN apt-get update && DEBIAN_FRONTEND=noninteractive \\
    apt-get install -y man-db openssh-client dbus iputils-ping libcap2-bin adduser chrony
RUN cp /bin/true /bin/able && setcap cap_net_raw+ep /bin/able
RUN useradd -m app && adduser --disabled-password --gecos x other
USER app
WORKDIR /home/app
RUN mkdir d && echo x > d/f && ln -s f d/l && id
"""
ONE = {"PYBUILD_ID_MODE": "single"}


@pytest.mark.timeout(900)
def test_packages_are_installed_alike(inline: Pybuild, context: Path, debian_tar: Path) -> None:
    inline("import", debian_tar, "debian")
    trees = []
    for env in ({}, ONE):
        out = inline.base / f"out{len(trees)}.tar"
        inline.build(context, "--network=host", "-o", f"type=tar,dest={out}", dockerfile=TEXT, timeout=400, env=env)
        trees.append(read(out))
    many, one = trees
    # What is compared is there
    assert {path for path in many if many[path][2:4] != (0, 0)}
    assert many["bin/able" if "bin/able" in many else "usr/bin/able"][-1]
    assert many["home/app/d/f"][2] != many["home/other"][2] > 0
    assert sorted(many.keys() ^ one.keys()) == []
    assert {path: (many[path], one[path]) for path in many if many[path] != one[path]} == {}


def read(path: Path) -> dict[str, tuple[object, ...]]:
    """Return what each member of a tar is, less what changes by the hour."""
    import tarfile

    with tarfile.open(path) as archive:
        return {
            member.name: (
                member.type,
                oct(member.mode),
                member.uid,
                member.gid,
                member.linkname,
                (member.devmajor, member.devminor),
                sorted(item for item in member.pax_headers.items() if item[0].startswith("SCHILY.xattr")),
            )
            for member in archive
        }
