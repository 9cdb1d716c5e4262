"""USER: who a name or number is in an image, hostile images included."""

import os
from pathlib import Path

import pytest

from pybuild.sandbox.errors import ImageUserError
from pybuild.sandbox.users import READ_LIMIT, Identity, resolve_user

from .conftest import GROUP, PASSWD, Box


@pytest.fixture
def image(tmp_path: Path) -> Path:
    root = tmp_path / "image"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text(PASSWD)
    (root / "etc/group").write_text(GROUP)
    return root


def resolve(root: Path, user: str) -> Identity:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return resolve_user(fd, user)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", (0, 0, (0,), "/root")),
        ("root", (0, 0, (0,), "/root")),
        ("0", (0, 0, (0,), "/root")),
        ("www", (33, 33, (33, 50, 60), "/srv")),
        ("33", (33, 33, (33, 50, 60), "/srv")),
        ("www:staff", (33, 50, (50,), "/srv")),
        ("www:", (33, 33, (33, 50, 60), "/srv")),
        ("www:7", (33, 7, (7,), "/srv")),
        (":staff", (0, 50, (50,), "/root")),
        ("odd", (40, 41, (41,), "/home/odd")),
        ("1234", (1234, 0, (0,), "/")),
        ("1234:5678", (1234, 5678, (5678,), "/")),
    ],
)
def test_users_of_an_image(image: Path, user: str, expected: tuple[object, ...]) -> None:
    assert resolve(image, user) == Identity(*expected)  # type: ignore[arg-type]


def test_name_that_looks_like_a_number_comes_first(image: Path) -> None:
    (image / "etc/passwd").write_text("1234:x:77:78::/seven:/bin/sh\n")
    assert resolve(image, "1234").uid == 77


@pytest.mark.parametrize("user", ["nobody-here", "www:nobody-here", "../../etc", "-1", "4294967295", "0:99999999999"])
def test_unknown_or_impossible_users_are_errors(image: Path, user: str) -> None:
    with pytest.raises(ImageUserError, match=r"no such|out of range"):
        resolve(image, user)


def test_image_without_user_files_has_numbers_only(tmp_path: Path) -> None:
    assert resolve(tmp_path, "").home == "/root"
    assert resolve(tmp_path, "5:6") == Identity(5, 6, (6,), "/")
    with pytest.raises(ImageUserError):
        resolve(tmp_path, "www")


def test_lines_that_make_no_sense_are_passed_over(image: Path) -> None:
    (image / "etc/passwd").write_bytes(b"\n\xff:\n#root:x:1:1::/:\nbad:x:-1:z::/:\nwww:x:5:6\n" + b":" * 5000 + b"\n")
    assert resolve(image, "www")[:2] == (5, 6)


@pytest.mark.parametrize("name", ["passwd", "group"])
def test_link_out_of_the_image_leads_nowhere(image: Path, tmp_path: Path, name: str) -> None:
    canary = tmp_path / "canary"
    canary.write_text("canary:x:6666:6666::/:/bin/sh\n")
    (image / "etc" / name).unlink()
    for target in (str(canary), "../../canary", "/proc/self/root" + str(canary)):
        (image / "etc" / name).symlink_to(target)
        with pytest.raises(ImageUserError, match="no such"):
            resolve(image, "canary" if name == "passwd" else "0:canary")
        (image / "etc" / name).unlink()


def test_link_inside_of_the_image_is_followed(image: Path) -> None:
    (image / "etc/passwd").rename(image / "etc/passwd.real")
    (image / "etc/passwd").symlink_to("/etc/passwd.real")
    assert resolve(image, "www").uid == 33


def test_user_file_that_is_no_file_or_too_large_is_an_error(image: Path) -> None:
    passwd = image / "etc/passwd"
    passwd.unlink()
    os.mkfifo(passwd)
    with pytest.raises(ImageUserError, match="not a regular file"):
        resolve(image, "www")
    passwd.unlink()
    with passwd.open("wb") as file:
        file.truncate(READ_LIMIT + 1)
    with pytest.raises(ImageUserError, match="is over"):
        resolve(image, "www")


@pytest.mark.userns
@pytest.mark.multiid
def test_process_has_the_ids_of_its_user(full_box: Box) -> None:
    ran = full_box.sh("id -u; id -g; id -G; echo $HOME", user="www")
    assert ran.out.split("\n")[:4] == ["33", "33", "33 50 60", "/srv"]
    assert full_box.sh("id -u; id -G", user="odd:games").out.split() == ["40", "60"]
    assert full_box.sh("grep CapEff /proc/self/status", user="www").out.split()[1] == "0" * 16


@pytest.mark.userns
@pytest.mark.multiid
def test_user_may_not_write_what_is_roots(full_box: Box) -> None:
    assert full_box.sh("touch /etc/new", user="www").status != 0
    assert full_box.sh("touch /tmp/new", user="www").status == 0


@pytest.mark.userns
def test_unknown_user_keeps_the_run_from_starting(box: Box) -> None:
    assert "no such user" in box.sh("echo started", user="ghost").result.end.problem


@pytest.mark.userns
def test_other_users_need_subordinate_ids(box: Box) -> None:
    ran = box.sh("id -u", user="www")
    if box.worker.mode == "single":
        assert "subordinate ids" in ran.result.end.problem
        assert "--add-subuids" in ran.result.end.hint
    else:
        assert ran.out == "33\n"


@pytest.mark.userns
@pytest.mark.multiid
@pytest.mark.skipif(os.geteuid() == 0, reason="root maps all ids")
def test_user_beyond_the_mapped_ids_is_an_error(full_box: Box) -> None:
    assert "beyond the ids" in full_box.sh("id -u", user="4000000000").result.end.problem
