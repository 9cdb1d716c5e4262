"""The instructions of a Dockerfile as values. Their words are unexpanded: quotes, escapes and variables are in them.

`Instruction` is closed: a `match` over it that ends in `assert_never` is told by the type checker of a new one.
"""

import msgspec

from pybuild.dockerfile.errors import Span
from pybuild.dockerfile.heredocs import Heredoc


class Located(msgspec.Struct, frozen=True, kw_only=True):
    """Where an instruction stands, and as what.

    `span` covers all its lines, heredoc bodies too. `original` is its text with continuations joined and
    without bodies. `comments` are the comment lines right above it.
    """

    span: Span
    original: str
    comments: tuple[str, ...] = ()

    @property
    def keyword(self) -> str:
        """Return the instruction's name in the case it was written in."""
        return self.original.split(None, 1)[0]


class ShellForm(msgspec.Struct, frozen=True):
    """A command for a shell to read."""

    text: str


class ExecForm(msgspec.Struct, frozen=True):
    """A command as arguments, none of them for a shell; may be empty."""

    argv: tuple[str, ...]


Command = ShellForm | ExecForm


class From(Located, frozen=True):
    """Begins a stage. `name` is as written, though names ignore case."""

    reference: str
    name: str | None = None
    platform: str | None = None


class Run(Located, frozen=True):
    """Runs a command. Its text is never expanded; the values of `mounts` are, by `mounts.parse_mount`.

    The text of a shell form holds the heredocs' bodies, unless a heredoc is all there is: then it is the
    bare word, and `lone_heredoc` the script.
    """

    command: Command
    heredocs: tuple[Heredoc, ...] = ()
    is_lone_heredoc: bool = False
    mounts: tuple[str, ...] = ()
    network: str | None = None
    security: str | None = None
    devices: tuple[str, ...] = ()

    @property
    def lone_heredoc(self) -> Heredoc | None:
        """Return the heredoc that is the whole command, if that is so."""
        return self.heredocs[0] if self.is_lone_heredoc else None

    @property
    def script_text(self) -> str | None:
        """Return the text exactly as a shell is handed it; None in the JSON form."""
        if isinstance(self.command, ExecForm):
            return None
        return self.heredocs[0].body if self.is_lone_heredoc else self.command.text


class Copy(Located, frozen=True):
    """Copies files of the context, a stage or an image; sources keep their order. `from_` is not expanded."""

    sources: tuple[str | Heredoc, ...]
    dest: str
    from_: str | None = None
    chown: str | None = None
    chmod: str | None = None
    link: bool = False
    parents: bool = False
    excludes: tuple[str, ...] = ()


class Add(Located, frozen=True):
    """Copies files, unpacks archives, fetches URLs. None for a flag that was not given."""

    sources: tuple[str | Heredoc, ...]
    dest: str
    chown: str | None = None
    chmod: str | None = None
    link: bool = False
    keep_git_dir: bool | None = None
    checksum: str | None = None
    unpack: bool | None = None
    excludes: tuple[str, ...] = ()


class Env(Located, frozen=True):
    """Sets variables; `legacy` is the form without `=`."""

    pairs: tuple[tuple[str, str], ...]
    legacy: bool = False


class Arg(Located, frozen=True):
    """Declares build arguments, each with its default or None."""

    args: tuple[tuple[str, str | None], ...]


class Label(Located, frozen=True):
    """Sets labels; `legacy` is the form without `=`."""

    pairs: tuple[tuple[str, str], ...]
    legacy: bool = False


class Expose(Located, frozen=True):
    """Names ports; each falls into words after expansion, for `ports.parse_port_spec`."""

    ports: tuple[str, ...]


class Volume(Located, frozen=True):
    """Names directories that hold data of containers."""

    paths: tuple[str, ...]


class User(Located, frozen=True):
    """Sets the user of later commands."""

    user: str


class Workdir(Located, frozen=True):
    """Sets the working directory, and makes it."""

    path: str


class Entrypoint(Located, frozen=True):
    """Sets the entry point; an empty ExecForm takes it away."""

    command: Command


class Cmd(Located, frozen=True):
    """Sets the default command."""

    command: Command


class Shell(Located, frozen=True):
    """Sets the shell of later shell forms; never empty."""

    argv: tuple[str, ...]


class Stopsignal(Located, frozen=True):
    """Sets the signal that stops a container, for `signals.check_signal` after expansion."""

    signal: str


class Healthcheck(Located, frozen=True):
    """Sets the health check; `test` is as in an image's config, nothing of it expands.

    Durations are nanoseconds; they and `retries` are 0 when not given.
    """

    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class Onbuild(Located, frozen=True):
    """Keeps a trigger for builds on top; `text` is what the image stores, `instruction` the same parsed."""

    text: str
    instruction: "Instruction"


class Maintainer(Located, frozen=True):
    """Sets the author (deprecated)."""

    name: str


Instruction = (
    From
    | Run
    | Copy
    | Add
    | Env
    | Arg
    | Label
    | Expose
    | Volume
    | User
    | Workdir
    | Entrypoint
    | Cmd
    | Shell
    | Stopsignal
    | Healthcheck
    | Onbuild
    | Maintainer
)
