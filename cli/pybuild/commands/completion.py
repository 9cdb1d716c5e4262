"""`pybuild completion SHELL`: scripts that know all commands and options, so that a TAB runs no program."""

from typing import Annotated, Any

from pybuild.commands.option import Argument
from pybuild.commands.output import write_line
from pybuild.errors import UsageError

SHELLS = ("bash", "zsh", "fish")


def completion(
    shell: Annotated[str, Argument(help="bash, zsh or fish.", metavar="SHELL")],
) -> None:
    """Print a completion script: `source <(pybuild completion bash)`."""
    if shell not in SHELLS:
        raise UsageError(f"no completion for the shell: {shell}", f"known: {', '.join(SHELLS)}")
    write_line({"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](_words()))


def _words() -> dict[str, tuple[str, list[tuple[str, str]], list[tuple[str, str]]]]:
    """Return each command's help, its options and its sub-commands, the latter both as (name, help)."""
    from pybuild.commands.group import load
    from pybuild.commands.table import plugins, rows, target_of

    # A plugin is not imported to know its options
    found: dict[str, tuple[str, list[tuple[str, str]], list[tuple[str, str]]]] = {
        name: (plugin.summary, [], []) for name, plugin in plugins().items() if not plugin.problem
    }
    for name, row in rows().items():
        command = load(name, target_of(row.target))
        subcommands = [(key, str(sub.get_short_help_str(80))) for key, sub in getattr(command, "commands", {}).items()]
        found[name] = (row.help, _options(command), subcommands)
    return found


def _options(command: Any) -> list[tuple[str, str]]:
    options = [
        (option, str(parameter.help or ""))
        for parameter in command.params
        if parameter.param_type_name == "option"
        for option in (*parameter.opts, *parameter.secondary_opts)
        if option.strip()
    ]
    return [*options, ("--help", "Show help.")]


def _bash(words: dict[str, tuple[str, list[tuple[str, str]], list[tuple[str, str]]]]) -> str:
    cases = []
    for name, (_, options, subcommands) in words.items():
        listed = " ".join([*(sub for sub, _ in subcommands), *(option for option, _ in options)])
        cases.append(f'        {name}) words="{listed}" ;;')
    return "\n".join(
        [
            "# bash completion of pybuild",
            "_pybuild() {",
            '    local word="${COMP_WORDS[COMP_CWORD]}" words=""',
            '    if [ "$COMP_CWORD" -eq 1 ]; then',
            f'        words="{" ".join(words)} --help --version"',
            '    else case "${COMP_WORDS[1]}" in',
            *cases,
            "    esac; fi",
            '    COMPREPLY=($(compgen -W "$words" -- "$word"))',
            '    [ "${#COMPREPLY[@]}" -gt 0 ] || COMPREPLY=($(compgen -f -- "$word"))',
            "}",
            "complete -o filenames -F _pybuild pybuild",
        ]
    )


def _zsh(words: dict[str, tuple[str, list[tuple[str, str]], list[tuple[str, str]]]]) -> str:
    cases = []
    for name, (_, options, subcommands) in words.items():
        listed = " ".join(_quoted(f"{word}:{help_}") for word, help_ in [*subcommands, *options])
        cases.append(f"        {name}) words=({listed}) ;;")
    commands = " ".join(_quoted(f"{name}:{help_}") for name, (help_, _, _) in words.items())
    return "\n".join(
        [
            "#compdef pybuild",
            "_pybuild() {",
            "    local -a words_of",
            "    if (( CURRENT == 2 )); then",
            f"        words_of=({commands})",
            "        _describe command words_of",
            "        return",
            "    fi",
            "    case ${words[2]} in",
            *(case.replace(" words=(", " words_of=(") for case in cases),
            "    esac",
            "    [[ ${words[CURRENT]} == -* || ${words[2]} == daemon ]] && _describe option words_of || _files",
            "}",
            "compdef _pybuild pybuild",
        ]
    )


def _fish(words: dict[str, tuple[str, list[tuple[str, str]], list[tuple[str, str]]]]) -> str:
    lines = ["# fish completion of pybuild"]
    for name, (help_, options, subcommands) in words.items():
        lines.append(f"complete -c pybuild -n __fish_use_subcommand -f -a {name} -d {_quoted(help_)}")
        seen = f"-n '__fish_seen_subcommand_from {name}'"
        for sub, sub_help in subcommands:
            lines.append(f"complete -c pybuild {seen} -f -a {sub} -d {_quoted(sub_help)}")
        for option, option_help in options:
            kind = f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
            lines.append(f"complete -c pybuild {seen} {kind} -d {_quoted(option_help)}")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "’") + "'"
