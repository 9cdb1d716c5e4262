"""Where pybuild keeps its things, by the XDG rules and their overrides in the environment."""

import os
import stat
from pathlib import Path
from typing import Any

from pybuild.errors import PybuildError, UsageError


def store_root() -> Path:
    """Return the store's directory: `$PYBUILD_STORE`, else below the user's data directory."""
    override = os.environ.get("PYBUILD_STORE")
    if override:
        return Path(override).absolute()
    return _data_home() / "pybuild"


def runtime_dir() -> Path:
    """Return the directory of the socket, made with mode 0700 when absent.

    `$PYBUILD_RUNTIME_DIR`, else `$XDG_RUNTIME_DIR/pybuild`, else `pybuild-UID` in the temporary directory.
    Raises PybuildError when it belongs to somebody else or others can enter it.
    """
    override = os.environ.get("PYBUILD_RUNTIME_DIR")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if override:
        path = Path(override).absolute()
    elif runtime and _is_ours(Path(runtime)):
        path = Path(runtime) / "pybuild"
    else:
        import tempfile

        path = Path(tempfile.gettempdir()) / f"pybuild-{os.getuid()}"
    try:
        path.mkdir(mode=0o700, exist_ok=True, parents=bool(override))
        state = path.lstat()
    except OSError as error:
        raise PybuildError(
            f"cannot make the runtime directory: {path}: {error.strerror}",
            "set PYBUILD_RUNTIME_DIR to a directory of your own",
        ) from error
    # Another user may have made the directory in a shared place first
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o077:
        raise PybuildError(
            f"the runtime directory is not private: {path}",
            "it must be a directory of your own with mode 0700; or set PYBUILD_RUNTIME_DIR",
        )
    return path


def config() -> dict[str, Any]:
    """Return the user's settings (`config.toml`), empty when there are none; raise UsageError for a broken file."""
    override = os.environ.get("PYBUILD_CONFIG")
    if override:
        path = Path(override)
    elif directory := config_directory():
        path = directory / "config.toml"
    else:
        return {}
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"cannot read the configuration: {path}: {error.strerror}") from error
    import tomllib

    try:
        return tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the configuration: {path}: {error}") from error


def _is_ours(path: Path) -> bool:
    try:
        return path.lstat().st_uid == os.getuid()
    except OSError:
        return False


def _data_home() -> Path:
    import platformdirs

    try:
        return platformdirs.user_data_path()
    except RuntimeError as error:
        raise PybuildError(
            f"no home directory is known: HOME is not set, and user {os.getuid()} has no entry in /etc/passwd",
            "set HOME, or PYBUILD_STORE to a directory of your own",
        ) from error


def config_directory() -> Path | None:
    """Return the directory of the user's settings; None where no home is known, and so no settings."""
    import platformdirs

    try:
        return platformdirs.user_config_path() / "pybuild"
    except RuntimeError:
        return None
