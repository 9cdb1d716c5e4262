"""A real distribution: packages installed, a program compiled, the result on its own and running."""

import subprocess
from pathlib import Path

import pytest

from support.program import Pybuild

pytestmark = [pytest.mark.userns, pytest.mark.multiid, pytest.mark.network, pytest.mark.slow]

PROGRAM = r"""
#include <stdio.h>
int main(int argc, char **argv) {
    printf("hello from %s, %d\n", VERSION, argc);
    return 0;
}
"""

TEXT = """\
FROM debian AS compiler
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update && apt-get install -y gcc libc6-dev && rm -rf /var/lib/apt/lists/*
ARG VERSION=scratch
WORKDIR /src
COPY hello.c .
RUN mkdir /out && gcc -static -O2 -DVERSION="\\"$VERSION\\"" -o /out/hello hello.c

FROM scratch
COPY --from=compiler /out/hello /hello
ENTRYPOINT ["/hello"]
"""


@pytest.mark.timeout(600)
def test_a_program_compiled_in_debian_runs_from_scratch(
    daemon: Pybuild, context: Path, debian_tar: Path, tmp_path: Path
) -> None:
    daemon("import", debian_tar, "debian")
    (context / "hello.c").write_text(PROGRAM)
    out = tmp_path / "out"
    result = daemon.build(
        context, "--network=host", "-t", "hello", "-o", f"type=local,dest={out}", dockerfile=TEXT, timeout=550
    )
    assert result.events[-1]["event"] == "Built"
    assert sorted(path.name for path in out.iterdir()) == ["hello"]
    ran = subprocess.run([out / "hello"], capture_output=True, text=True, check=True)
    assert ran.stdout == "hello from scratch, 1\n"

    (context / "hello.c").write_text(PROGRAM.replace("hello from", "changed in"))
    changed = daemon.build(context, "--network=host", "-o", f"type=local,dest={out}", dockerfile=TEXT)
    assert [step for step in changed.redone() if "apt-get" in step] == []
    ran = subprocess.run([out / "hello"], capture_output=True, text=True, check=True)
    assert ran.stdout == "changed in scratch, 1\n"

    # Owners, set-id bits and capabilities that the distribution's packages rely on are in the exported layers.
    image = daemon.image(context, "--network=host", "--target=compiler", dockerfile=TEXT)
    tree = image.tree()
    assert tree["usr/bin/passwd"].mode & 0o4000
    assert (tree["usr/bin/chage"].gid, bool(tree["usr/bin/chage"].mode & 0o2000)) == (42, True)
    assert tree["etc/shadow"].gid == 42
    assert tree["usr/bin/gcc"].type in ("symlink", "file")
    assert not [path for path in image.added(1) if path.startswith(("proc/", "sys/", "dev/"))]
