"""Each case built by pybuild and compared with what BuildKit made of it."""

import difflib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance import box, contexts
from conformance.cases import LANGUAGE, Case, cases, expectation, listed_differences
from conformance.outcome import describe
from pybuild.api.events import Built, Failed
from pybuild.api.request import BuildRequest, Output
from pybuild.client.inline import Inline
from support.images import Image, read_oci
from support.program import remove_tree


class Builder:
    """The engine in this process with one store for all cases."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self._engine = Inline(work / "store")
        with open(box.write(work / "box.tar"), "rb") as rootfs:
            self._engine.import_(rootfs, box.NAME)
        image, failed = self.build(BuildRequest(dockerfile_text=f"FROM {box.NAME}\n", context=str(work)))
        assert image, failed
        self.base = image

    def build(self, request: BuildRequest) -> tuple[Image | None, Failed | None]:
        """Return the image, or how the build failed."""
        out = self.work / "out.tar"
        output = Output("oci", str(out), {"compression": "uncompressed"})
        *_, last = self._engine.build(request._replace(network="none", outputs=(output,)))
        if isinstance(last, Failed):
            return None, last
        assert isinstance(last, Built)
        [image] = read_oci(out)
        out.unlink()
        return image, None


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    work = tmp_path_factory.mktemp("conformance")
    yield Builder(work)
    remove_tree(work)


def _parameters() -> list[object]:
    marks = {case.id: [getattr(pytest.mark, mark) for mark in case.marks()] for case in cases()}
    return [pytest.param(case, id=case.id, marks=marks[case.id]) for case in cases()]


def _request(case: Case, place: Path) -> BuildRequest:
    dockerfile = place.parent / case.file
    dockerfile.write_text(case.dockerfile)
    return BuildRequest(
        context=str(place), dockerfile=str(dockerfile), target=case.target, build_args=case.args, labels=case.labels
    )


@pytest.mark.parametrize("case", _parameters())
def test_case(case: Case, builder: Builder, tmp_path: Path) -> None:
    place = tmp_path / "context"
    place.mkdir()
    contexts.lay_out(case.context, place)
    for name, text in case.before.items():
        image, failed = builder.build(BuildRequest(context=str(place), dockerfile_text=text, tags=(name,)))
        assert image, failed
    image, failed = builder.build(_request(case, place))
    expected = expectation(case)
    assert expected is not None, "record it: python tests/conformance/record.py"
    if case.error:
        assert failed, "the build is meant to fail"
        assert re.search(case.error, failed.failure.message), failed.failure.message
        assert expected.error or case.differs
        return
    assert image, failed
    got = describe(image, builder.base)
    assert _difference(expected.lines, got) == case.differences()


def _difference(expected: tuple[str, ...], got: list[str]) -> list[str]:
    """Return lines that are missing, with `-`, and those that are too many, with `+`."""
    told = difflib.ndiff([*expected], [_as_known(line, {*expected}) for line in got])
    return [line for line in told if line[0] in "-+"]


def _as_known(line: str, known: set[str]) -> str:
    """Return a directory without its time if BuildKit gave it that of the build."""
    untimed = re.sub(r"^(  dir .*) @\d+$", r"\1", line)
    return untimed if line not in known and untimed in known else line


def test_every_difference_is_in_the_table_and_has_a_case() -> None:
    named = {case.differs for case in cases() if case.differs}
    assert named == listed_differences()


def test_cases_that_differ_say_why_and_the_others_say_nothing() -> None:
    for case in cases():
        expected = expectation(case)
        assert expected, case.id
        fails = bool(expected.error) != bool(case.error)
        assert bool(case.differs) == bool(case.differences() or fails), case.id


def test_nothing_is_expected_that_was_not_checked() -> None:
    checked = {case.id: found.checked for case in cases() if (found := expectation(case))}
    assert checked.keys() == {case.id for case in cases()}
    assert [name for name, how in checked.items() if how == LANGUAGE] == [case.id for case in cases() if case.expect]
