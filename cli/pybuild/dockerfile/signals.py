"""The signals that STOPSIGNAL may name: Linux's, as signal(7) lists them for x86 and ARM."""

from pybuild.dockerfile.errors import InvalidValueError, did_you_mean, shown

_NAMES = (
    "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP "
    "TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"
)

SIGNALS = {name: number for number, name in enumerate(_NAMES.split(), 1)} | {
    "IOT": 6,
    "CLD": 17,
    "POLL": 29,
    "RTMIN": 34,
    "RTMAX": 64,
}

REALTIME = (34, 64)
"""First and last real-time signal; the C library keeps 32 and 33 for itself."""


def check_signal(text: str) -> int:
    """Return the number of a signal given as `SIGTERM`, `term`, `15` or `RTMIN+3`; raise InvalidValueError."""
    if text.isascii() and text.isdigit() and len(text) <= 2 and 1 <= int(text) <= REALTIME[1]:
        return int(text)
    name = text.upper().removeprefix("SIG")
    if name in SIGNALS:
        return SIGNALS[name]
    number = _realtime(name)
    if number is None:
        raise InvalidValueError(f"invalid signal: {shown(text)}{did_you_mean(name, SIGNALS, 'SIG')}")
    return number


def _realtime(name: str) -> int | None:
    base, sign, offset = name[:5], name[5:6], name[6:]
    if (base, sign) not in (("RTMIN", "+"), ("RTMAX", "-")) or not (offset.isascii() and offset.isdigit()):
        return None
    if len(offset) > 2:
        return None
    number = SIGNALS[base] + (int(offset) if sign == "+" else -int(offset))
    return number if REALTIME[0] <= number <= REALTIME[1] else None
