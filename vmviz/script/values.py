"""Numbers, sizes, addresses and well-known words, as the language reads and writes them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from vmviz.script.errors import ScriptError

UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
"""Suffixes of sizes, in bytes; the small letters mean the same."""

MAX_VALUE = (1 << 64) - 1
"""The largest number of the language; the smallest is ``-(1 << 63)``."""

_ERRNO_NAMES = """
    E2BIG EACCES EADDRINUSE EADDRNOTAVAIL EADV EAFNOSUPPORT EAGAIN EALREADY EBADE EBADF EBADFD EBADMSG
    EBADR EBADRQC EBADSLT EBFONT EBUSY ECANCELED ECHILD ECHRNG ECOMM ECONNABORTED ECONNREFUSED ECONNRESET
    EDEADLK EDEADLOCK EDESTADDRREQ EDOM EDOTDOT EDQUOT EEXIST EFAULT EFBIG EHOSTDOWN EHOSTUNREACH
    EHWPOISON EIDRM EILSEQ EINPROGRESS EINTR EINVAL EIO EISCONN EISDIR EISNAM EKEYEXPIRED EKEYREJECTED
    EKEYREVOKED EL2HLT EL2NSYNC EL3HLT EL3RST ELIBACC ELIBBAD ELIBEXEC ELIBMAX ELIBSCN ELNRNG ELOOP
    EMEDIUMTYPE EMFILE EMLINK EMSGSIZE EMULTIHOP ENAMETOOLONG ENAVAIL ENETDOWN ENETRESET ENETUNREACH
    ENFILE ENOANO ENOBUFS ENOCSI ENODATA ENODEV ENOENT ENOEXEC ENOKEY ENOLCK ENOLINK ENOMEDIUM ENOMEM
    ENOMSG ENONET ENOPKG ENOPROTOOPT ENOSPC ENOSR ENOSTR ENOSYS ENOTBLK ENOTCONN ENOTDIR ENOTEMPTY ENOTNAM
    ENOTRECOVERABLE ENOTSOCK ENOTSUP ENOTTY ENOTUNIQ ENXIO EOPNOTSUPP EOVERFLOW EOWNERDEAD EPERM
    EPFNOSUPPORT EPIPE EPROTO EPROTONOSUPPORT EPROTOTYPE ERANGE EREMCHG EREMOTE EREMOTEIO ERESTART ERFKILL
    EROFS ESHUTDOWN ESOCKTNOSUPPORT ESPIPE ESRCH ESRMNT ESTALE ESTRPIPE ETIME ETIMEDOUT ETOOMANYREFS
    ETXTBSY EUCLEAN EUNATCH EUSERS EWOULDBLOCK EXDEV EXFULL ERESTARTSYS ERESTARTNOINTR ERESTARTNOHAND
    ERESTART_RESTARTBLOCK ENOIOCTLCMD
"""
ERRNO_NAMES = frozenset(_ERRNO_NAMES.split())
"""The errno names of Linux, with those of the kernel's own that strace shows."""

_SIGNAL_NAMES = """
    SIGHUP SIGINT SIGQUIT SIGILL SIGTRAP SIGABRT SIGBUS SIGFPE SIGKILL SIGUSR1 SIGSEGV SIGUSR2 SIGPIPE
    SIGALRM SIGTERM SIGSTKFLT SIGCHLD SIGCONT SIGSTOP SIGTSTP SIGTTIN SIGTTOU SIGURG SIGXCPU SIGXFSZ
    SIGVTALRM SIGPROF SIGWINCH SIGIO SIGPWR SIGSYS
"""
SIGNAL_NAMES = frozenset(_SIGNAL_NAMES.split())

_SIGNAL_CODES = """
    SEGV_MAPERR SEGV_ACCERR SEGV_BNDERR SEGV_PKUERR SEGV_ACCADI SEGV_ADIDERR SEGV_ADIPERR SEGV_MTEAERR
    SEGV_MTESERR SEGV_CPERR BUS_ADRALN BUS_ADRERR BUS_OBJERR BUS_MCEERR_AR BUS_MCEERR_AO SI_USER SI_KERNEL
    SI_QUEUE SI_TKILL
"""
SIGNAL_CODES = frozenset(_SIGNAL_CODES.split())

_NUMBER = re.compile(r"(?P<digits>0[xX][0-9A-Fa-f]*|[0-9]+)(?P<suffix>[0-9A-Za-z_]*)")
_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|x([0-9A-Fa-f]{1,2})|(.))", re.DOTALL)
_LETTERS = dict(zip("ntrabfve\"'\\?", (10, 9, 13, 7, 8, 12, 11, 27, 34, 39, 92, 63), strict=True))
_SUFFIXES = ("K", "M", "G", "T", "p (pages)")
_LONGEST_GUESS = 64


class LiteralError(ValueError):
    """A text that is no number or string of the language: what is wrong, from which offset on."""

    def __init__(self, message: str, offset: int, expected: tuple[str, ...] = ("a number",)) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset
        self.expected = expected


def read_number(text: str) -> tuple[int, bool]:
    """The value of an unsigned number, and whether it counts pages.

    Decimal, C octal (``0644``), ``0x`` hexadecimal; the suffixes K, M, G and T (small ones too) are powers
    of 1024, ``p`` means pages and is left to whoever knows the page size.  Raises `LiteralError`.

    >>> read_number("8M"), read_number("0x10k"), read_number("3p"), read_number("0644")
    ((8388608, False), (16384, False), (3, True), (420, False))
    """
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise LiteralError(f"{text[:40]!r} is not a number", 0)
    digits, suffix = match["digits"], match["suffix"]
    unit = 1
    if suffix and suffix not in ("p", "P"):
        if suffix.upper() not in UNITS:
            message = f"unknown unit {suffix[:40]!r} of a number"
            raise LiteralError(message, match.start("suffix"), _SUFFIXES)
        unit = UNITS[suffix.upper()]
    value = _read_digits(digits, bool(suffix)) * unit
    if value > MAX_VALUE:
        raise LiteralError("the number does not fit into 64 bits", 0, (f"a number up to {MAX_VALUE:#x}",))
    return value, suffix in ("p", "P")


def _read_digits(digits: str, has_suffix: bool) -> int:
    if digits[:2] in ("0x", "0X"):
        if len(digits) == 2:
            raise LiteralError("no digits after 0x", 2, ("a hexadecimal digit",))
        significant, base = digits[2:].lstrip("0"), 16
    elif digits.startswith("0") and len(digits) > 1:
        if has_suffix:
            raise LiteralError("a leading 0 means octal, which takes no unit", 0, ("a decimal number",))
        wrong = re.search("[89]", digits)
        if wrong:
            message = f"a leading 0 means octal, which has no digit {wrong[0]}"
            raise LiteralError(message, wrong.start(), ("a digit from 0 to 7",))
        significant, base = digits.lstrip("0"), 8
    else:
        significant, base = digits, 10
    if len(significant) > 22:  # 2**64 has 22 octal digits; longer texts would only cost time to convert
        raise LiteralError("the number does not fit into 64 bits", 0, (f"a number up to {MAX_VALUE:#x}",))
    return int(significant or "0", base)


def read_string(text: str) -> str:
    r"""The value of a string literal, quotes included, with C's escapes.

    Escapes are bytes; bytes that are not UTF-8 become lone surrogates, as in a path from `os.fsdecode`.
    Raises `LiteralError`.

    >>> read_string(r'"a\tb\303\274\x41"')
    'a\tbüA'
    """
    parts: list[bytes] = []
    position, end = 1, len(text) - 1
    while position < end:
        match = _ESCAPE.match(text, position, end)
        if match is None:
            cut = text.find("\\", position, end)
            stop = end if cut < 0 else max(cut, position + 1)
            try:
                parts.append(text[position:stop].encode("utf-8"))
            except UnicodeEncodeError as error:
                raise LiteralError(
                    "half a surrogate pair", position + error.start, ("a character",)
                ) from None
            position = stop
            continue
        octal, hexadecimal, letter = match.groups()
        code = int(octal, 8) if octal else int(hexadecimal, 16) if hexadecimal else _LETTERS.get(letter, 256)
        if code > 255:
            expected = ('one of \\n \\t \\r \\" \\\\', "up to \\377", "\\xHH")
            raise LiteralError(f"unknown escape {match[0]!r} in a string", position, expected)
        parts.append(bytes((code,)))
        position = match.end()
    return b"".join(parts).decode("utf-8", "surrogateescape")


def parse_size(text: str, *, page_size: int = 4096) -> int:
    """The bytes that a text such as ``8M``, ``0x1000`` or ``3p`` means; `ScriptError` if it means nothing.

    >>> parse_size("8M"), parse_size("132k"), parse_size("3p"), parse_size("4096")
    (8388608, 135168, 12288, 4096)
    """
    stripped = text.strip()
    lead = len(text) - len(text.lstrip()) if stripped else 0
    try:
        value, pages = read_number(stripped)
        value *= page_size if pages else 1
        if value > MAX_VALUE:
            raise LiteralError("the size does not fit into 64 bits", 0, (f"a size up to {MAX_VALUE:#x}",))
    except LiteralError as error:
        expected = (
            ("a size such as 4096, 0x1000, 8M or 3p",) if error.expected == ("a number",) else error.expected
        )
        raise ScriptError(
            error.message,
            filename="<size>",
            column=lead + error.offset + 1,
            end_column=lead + max(len(stripped), error.offset + 1) + 1,
            expected=expected,
            found=repr(stripped[error.offset :][:40]) if stripped else "nothing",
            source_line=text,
        ) from None
    return value


def format_size(size: int, *, exact: bool = False) -> str:
    """A size in bytes for people: the largest unit that fits, one digit after the point unless it is round.

    The digit is cut, not rounded, so that a size never looks larger than it is.  ``exact`` takes the largest
    unit that divides the size instead, which `parse_size` reads back to the same number.

    >>> [format_size(n) for n in (0, 100, 4096, 8 << 20, 132 << 10, (64 << 20) - 4096)]
    ['0', '100', '4K', '8M', '132K', '63.9M']
    >>> format_size((2 << 20) + 4096), format_size((2 << 20) + 4096, exact=True)
    ('2.0M', '2052K')
    """
    if size < 0:
        return f"-{format_size(-size, exact=exact)}"
    for suffix, unit in reversed(UNITS.items()):
        if size < unit:
            continue
        if size % unit == 0:
            return f"{size // unit}{suffix}"
        if not exact:
            return f"{size // unit}.{size % unit * 10 // unit}{suffix}"
    return str(size)


def format_addr(address: int) -> str:
    """An address as C prints it with ``%#lx``; ValueError for a negative one.

    >>> format_addr(0x7ffff7000000)
    '0x7ffff7000000'
    """
    if address < 0:
        raise ValueError(f"an address is not negative: {address}")
    return f"{address:#x}"


def nearest(word: str, candidates: Iterable[str], n: int = 3) -> tuple[str, ...]:
    """Up to ``n`` candidates that look like ``word``, the best first; upper and lower case count as the same.

    >>> nearest("zap_vma_pte", ["munmap", "zap_vma_ptes", "mmap"])
    ('zap_vma_ptes',)
    """
    if not word or len(word) > _LONGEST_GUESS or n < 1:
        return ()
    folded: dict[str, str] = {}
    for candidate in sorted(candidates):
        folded.setdefault(candidate.casefold(), candidate)
    return tuple(folded[key] for key in difflib.get_close_matches(word.casefold(), list(folded), n=n))
