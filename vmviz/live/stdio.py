"""fread of the C library: many read calls, with nobody's thread held up in between.

seq_file hands out a page a call.  Python's own calls take the GIL again after each, for which two threads that work
would wait some ten thousand times over the smaps of a large process.
"""

from __future__ import annotations

import ctypes
import functools
import os

_IONBF = 2  # what is read goes to where it is wanted, and nothing has to be given back by lseek


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fdopen.argtypes, libc.fdopen.restype = [ctypes.c_int, ctypes.c_char_p], ctypes.c_void_p
    libc.setvbuf.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    libc.fread.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p]
    libc.fread.restype = ctypes.c_size_t
    libc.ferror.argtypes = libc.fclose.argtypes = [ctypes.c_void_p]
    return libc


def read_fully(fd: int, room: bytearray) -> int:
    """Read from where the file stands until ``room`` is full or the file ends; return how many bytes came.

    >>> with open(__file__, "rb") as file:
    ...     text = file.read()
    ...     _, room = file.seek(9), bytearray(len(text))
    ...     read_fully(file.fileno(), room) == len(text) - 9, room.startswith(text[9:])
    (True, True)
    """
    libc = _libc()
    own = os.dup(fd)
    stream = libc.fdopen(own, b"r")
    if not stream:
        os.close(own)
        raise _error()
    try:
        libc.setvbuf(stream, None, _IONBF, 0)
        ctypes.set_errno(0)
        got: int = libc.fread((ctypes.c_char * len(room)).from_buffer(room), 1, len(room), stream)
        if got < len(room) and libc.ferror(stream):
            raise _error()
    finally:
        libc.fclose(stream)
    return got


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
