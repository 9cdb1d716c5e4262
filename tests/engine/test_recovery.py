"""Which shell is opened where a step failed."""

import pytest

from pybuild.engine.recovery import shell_of


@pytest.mark.parametrize(
    ("argv", "shell"),
    [
        (("/bin/sh", "-c", "make"), ("/bin/sh",)),
        (("/bin/bash", "-o", "pipefail", "-c", "make"), ("/bin/bash",)),
        (("/bin/bash", "-euxc", "make"), ("/bin/bash",)),
        (("/usr/bin/env", "bash", "-c", "make"), ("/usr/bin/env", "bash")),
        (("make", "-j2", "all"), ("/bin/sh",)),
        (("pwsh", "-Command", "make"), ("/bin/sh",)),
        (("/dev/pipes/EOF",), ("/bin/sh",)),
        (("-", "-c", "make"), ("/bin/sh",)),
    ],
)
def test_the_shell_of_a_command(argv: tuple[str, ...], shell: tuple[str, ...]) -> None:
    assert shell_of(argv) == shell
