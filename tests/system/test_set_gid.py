"""Set-gid directories over several steps: with one id their group is kept as with many."""

from pathlib import Path

import pytest

from support.program import Pybuild

from .test_one_id import ONE, read

pytestmark = [pytest.mark.userns, pytest.mark.multiid]

SHARED = """\
FROM base
COPY --chown=0:50 --chmod=2775 tree /srv/copied
RUN mkdir -p /srv/a/b && chgrp 50 /srv/a && chmod 2775 /srv/a
RUN echo > /srv/a/f && mkdir /srv/a/d && echo > /srv/a/d/f && mv /srv/a/f /srv/moved && echo > /srv/copied/sub/f
RUN --mount=type=cache,target=/cache echo > /srv/a/d/g && ln -s g /srv/a/d/l
"""


def test_groups_of_set_gid_directories_are_alike(inline_base: Pybuild, context: Path) -> None:
    (context / "tree" / "sub").mkdir(parents=True)
    (context / "tree" / "sub" / "file").touch()
    trees = []
    for env in ({}, ONE):
        out = inline_base.base / f"shared{len(trees)}.tar"
        inline_base.build(context, "-o", f"type=tar,dest={out}", dockerfile=SHARED, env=env)
        trees.append(read(out))
    many, one = trees
    assert many["srv/a/d/g"][3] == many["srv/moved"][3] == many["srv/copied/sub/f"][3] == 50
    assert {path: (many[path], one.get(path)) for path in many if many[path] != one.get(path)} == {}
