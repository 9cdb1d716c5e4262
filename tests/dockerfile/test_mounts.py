"""RUN --mount."""

import pytest

from pybuild.dockerfile.errors import InvalidValueError
from pybuild.dockerfile.mounts import Mount, MountType, Sharing, parse_mount, split_csv


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("target=/a", Mount(target="/a")),
        ("type=bind,SRC=x,dst=/a,from=base,rw", Mount(target="/a", source="x", from_="base", read_only=False)),
        ("destination=a,readwrite=false", Mount(target="a")),
        ("type=CACHE,target=/a", Mount(MountType.CACHE, "/a", read_only=False)),
        (
            "type=cache,id=i,target=/a,ro,sharing=locked,from=b,source=/c,mode=0700,uid=1,gid=2",
            Mount(MountType.CACHE, "/a", "/c", "b", True, "i", Sharing.LOCKED, mode=0o700, uid=1, gid=2),
        ),
        ("type=tmpfs,target=/a", Mount(MountType.TMPFS, "/a", read_only=False)),
        ("type=tmpfs,target=/a,size=1.5k", Mount(MountType.TMPFS, "/a", read_only=False, size=1536)),
        ("type=tmpfs,target=/a,size=2GiB", Mount(MountType.TMPFS, "/a", read_only=False, size=2 << 30)),
        ("type=secret,id=key", Mount(MountType.SECRET, "/run/secrets/key", id="key", mode=0o400)),
        ("type=secret,target=/x/key", Mount(MountType.SECRET, "/x/key", id="key", mode=0o400)),
        (
            "type=secret,id=key,env=KEY,required",
            Mount(MountType.SECRET, id="key", env="KEY", required=True, mode=0o400),
        ),
        ("type=secret,id=a/b", Mount(MountType.SECRET, "/run/secrets/b", id="a/b", mode=0o400)),
        ("type=ssh", Mount(MountType.SSH, mode=0o600)),
        ("type=ssh,id=x,required=true,mode=0444,uid=7", Mount(MountType.SSH, id="x", required=True, mode=0o444, uid=7)),
        ('type=bind,"target=/a,b","source=""q"""', Mount(target="/a,b", source='"q"')),
    ],
)
def test_reads_mounts(text: str, mount: Mount) -> None:
    assert parse_mount(text) == mount


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unexpected key in mount: <empty>"),
        ("type=bnd,target=/a", "unsupported mount type: bnd (did you mean bind?)"),
        ("trget=/a", "unexpected key in mount: trget (did you mean target?)"),
        ("target", "mount field must be a key=value pair: target"),
        ("type=bind", "mount needs a target"),
        ("type=cache,target=", "mount needs a target"),
        ("type=tmpfs", "mount needs a target"),
        ("target=/", "invalid mount target: /"),
        ("target=//a/..", "invalid mount target: //a/.."),
        ("type=bind,target=/a,mode=0755", "unexpected key for mount type bind: mode"),
        ("type=bind,target=/a,uid=1", "unexpected key for mount type bind: uid"),
        ("type=tmpfs,target=/a,gid=1", "unexpected key for mount type tmpfs: gid"),
        ("type=bind,target=/a,size=1", "unexpected key for mount type bind: size"),
        ("sharing=locked,target=/a", "unexpected key for mount type bind: sharing"),
        ("type=cache,target=/a,required", "unexpected key for mount type cache: required"),
        ("type=cache,target=/a,sharing=lock", "unsupported sharing value: lock (did you mean locked?)"),
        ("type=cache,target=/a,mode=9", "invalid value for mode of a mount: 9"),
        ("type=cache,target=/a,mode=17777", "invalid value for mode of a mount: 17777"),
        ("type=cache,target=/a,uid=4294967295", "invalid value for uid of a mount: 4294967295"),
        ("type=cache,target=/a,uid=-1", "invalid value for uid of a mount: -1"),
        ("type=tmpfs,target=/a,size=lots", "invalid size of a mount: lots"),
        ("type=tmpfs,target=/a,size=99999999999t", "invalid size of a mount: 99999999999t"),
        ("type=secret", "mount of a secret needs an id or a target"),
        ("type=ssh,required=maybe", "mount field required must be true or false, not: maybe"),
        ("from=$x,target=/a", "variables are not expanded in `from` of a mount: $x"),
        ('target="/a"', 'bare quote in mount: target="/a"'),
        ('"target=/a', 'open quote in mount: "target=/a'),
        ('"target=/a"b', 'text after a quote in mount: "target=/a"b'),
    ],
)
def test_refuses_mounts(text: str, message: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        parse_mount(text)
    assert caught.value.message == message


def test_values_are_expanded_after_they_are_split() -> None:
    mount = parse_mount("target=$x,from=base", lambda value: value.replace("$x", "/a,size=1"))
    assert mount == Mount(target="/a,size=1", from_="base")


def test_splits_fields() -> None:
    assert split_csv('a,,"b,""c""",') == ["a", "", 'b,"c"', ""]
