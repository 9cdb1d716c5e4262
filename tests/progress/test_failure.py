from pybuild.api.events import Failure
from pybuild.progress.failure import failure_lines


def test_a_dockerfile_error_points_at_the_column() -> None:
    failure = Failure(
        "DockerfileError",
        "unknown flag `--frm`",
        "did you mean `--from`?",
        file="Dockerfile",
        line=7,
        column=6,
        length=5,
        source="COPY --frm=builder /out /bin",
    )
    assert failure_lines(failure) == [
        "Dockerfile:7:6: unknown flag `--frm`",
        "  COPY --frm=builder /out /bin",
        "       ^^^^^",
        "hint: did you mean `--from`?",
    ]


def test_the_caret_stays_below_its_word_after_tabs_and_escapes() -> None:
    failure = Failure("E", "m", file="D", line=1, column=4, length=2, source="\t\x01 ab c")
    assert failure_lines(failure)[1:] == ["  \t\\x01 ab c", "  \t     ^^"]


def test_only_the_first_of_several_lines_gets_the_caret() -> None:
    failure = Failure("E", "m", file="D", line=3, column=1, length=3, source="RUN a \\\n  && b")
    assert failure_lines(failure) == ["D:3:1: m", "  RUN a \\", "  ^^^", "    && b"]


def test_a_failed_run_shows_output_place_and_status() -> None:
    failure = Failure(
        "RunFailedError",
        "the command failed",
        file="Dockerfile",
        line=2,
        source="RUN make",
        log=("a", "b\x1b[2J"),
        status=7,
    )
    assert failure_lines(failure) == [
        "last 2 lines of output:",
        "  | a",
        "  | b\\x1b[2J",
        "Dockerfile:2: the command failed: exit code 7",
        "  RUN make",
    ]


def test_the_status_is_not_told_twice() -> None:
    failure = Failure("E", "exit code 7", file="D", line=2, status=7)
    assert failure_lines(failure) == ["D:2: exit code 7"]


def test_an_error_without_a_place_is_one_line() -> None:
    assert failure_lines(Failure("E", "no\nway")) == ["error: no\\nway"]


def test_commands_in_messages_are_broken_up_for_ci() -> None:
    failure = Failure("E", "x ##[error]", log=("::warning::a",))
    assert failure_lines(failure, ci=True) == ["output:", "  | ::warning::a", "error: x # #[error]"]


def test_the_traceback_is_for_those_who_debug() -> None:
    failure = Failure("E", "m", traceback="Traceback\n  x\n")
    assert failure_lines(failure) == ["error: m"]
    assert failure_lines(failure, debug=True) == ["Traceback", "  x", "error: m"]


def test_a_kept_tree_is_told_last_with_the_way_in() -> None:
    failure = Failure("E", "it broke", "mend it", kept="failed-0123abcd")
    assert failure_lines(failure)[-1] == "its tree is kept: `pybuild shell failed-0123abcd` enters it"
