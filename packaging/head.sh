#!/bin/sh
# pybuild @VERSION@ for Linux on @MACHINE@: this text, and behind it a .tar.gz with the program.
#
# It is unpacked when it is first called and runs from there ever after: in PYBUILD_UNPACK_DIR if that is set, else
# below the user's cache directory, else below /var/tmp or /tmp. A copy is only ever run by its owner.

build=@BUILD@
payload=@OFFSET@

# run DIRECTORY NAME [ARGUMENTS...]: become the copy NAME in there, if it is there and ours.
run() {
    copy=$1/$2
    shift 2
    if [ -O "$copy" ] && [ ! -L "$copy" ] && [ -x "$copy/pybuild" ]; then
        exec "$copy/pybuild" "$@"
    fi
}

# reason: of what a program said, the part that tells why, such as "No space left on device". Tar has words of its own.
reason() {
    sed -n '/Broken pipe/d; /Exiting with/d; /not recoverable/d; /^$/d; s/.*: //; s/^Wrote only .*/No space left on device/; p' |
        head -n 1
}

# unpack DIRECTORY NAME: make the copy NAME in there, which only a complete one ever is called; print why it cannot be.
unpack() {
    LC_ALL=C
    export LC_ALL
    umask 077
    told=$(mkdir -p "$1" 2>&1) || { printf '%s\n' "$told" | reason; return 1; }
    [ -O "$1" ] && [ ! -L "$1" ] || { echo "it belongs to another user"; return 1; }
    new=$(mktemp -d "$1/.new.XXXXXX" 2>&1) || { printf '%s\n' "$new" | reason; return 1; }
    trap 'rm -rf "$new"' EXIT
    trap 'exit 130' HUP INT TERM
    # Where nothing may be run there is no need to try with all of it
    told=$({ printf '#!/bin/sh\n' > "$new/try" && chmod 700 "$new/try"; } 2>&1) || { printf '%s\n' "$told" | reason; return 1; }
    "$new/try" 2> /dev/null || { echo "no program may run there (noexec)"; return 1; }
    told=$({ tail -c "+$payload" "$0" | gzip -dc | tar -xmof - -C "$new"; } 2>&1) && [ -z "$told" ] ||
        { printf '%s\n' "$told" | reason; return 1; }
    told=$("$new/pybuild/pybuild" --version 2>&1) || { printf '%s\n' "${told:-it does not start}" | reason; return 1; }
    told=$({ : > "$new/pybuild/started"; } 2>&1) || { printf '%s\n' "$told" | reason; return 1; }
    # Whoever was faster has made the same
    [ -e "$1/$2" ] || mv "$new/pybuild" "$1/$2" 2> /dev/null
    sweep "$1"
    return 0
}

# sweep DIRECTORY: remove copies that were not started for a month, and what was never finished.
sweep() {
    for found in "$1"/*/started; do
        [ -z "$(find "$found" -prune -mtime +30 2> /dev/null)" ] || rm -rf "${found%/started}"
    done
    for found in "$1"/.new.*; do
        [ -z "$(find "$found" -prune -mtime +0 2> /dev/null)" ] || rm -rf "$found"
    done
}

# try DIRECTORY NAME [ARGUMENTS...]: run from there, or come back with one more of the `reasons` why not.
try() {
    run "$@"
    if why=$(unpack "$1" "$2"); then
        run "$@"
    fi
    reasons="$reasons${reasons:+; }$1: ${why:-it cannot be run there}"
}

if [ -n "${PYBUILD_UNPACK_DIR-}" ]; then
    try "$PYBUILD_UNPACK_DIR" "$build" "$@"
else
    case ${XDG_CACHE_HOME-} in
        /*) home=$XDG_CACHE_HOME cache=$XDG_CACHE_HOME ;;
        *) home=${HOME-} cache=${HOME-}/.cache ;;
    esac
    # Root with the home of somebody else leaves nothing of its own in there
    if [ -z "$home" ]; then
        reasons="HOME is not set"
    elif [ ! -d "$home" ] && [ "$home" != "$cache" ]; then
        reasons="$home: there is no such directory"
    elif [ -e "$home" ] && [ ! -O "$home" ]; then
        reasons="$home: it belongs to another user"
    else
        try "$cache/pybuild/program" "$build" "$@"
    fi
    # What lies there for more than ten days is removed file by file on many systems, so each week has a copy
    week=$(date +%G-%V)
    user=$(id -u)
    try "/var/tmp/pybuild-$user" "$build.$week" "$@"
    try "/tmp/pybuild-$user" "$build.$week" "$@"
fi
case $reasons in
    *GLIBC_*) hint="this program is made for systems with a newer C library; take one that was built on an older system" ;;
    *) hint="name a directory of your own with 50 MB in PYBUILD_UNPACK_DIR, on a file system that programs may run from" ;;
esac
printf '%s\n' "error: pybuild cannot unpack itself: $reasons" "hint: $hint" >&2
exit 1
