# SPDX-License-Identifier: Apache-2.0
r"""Escapes text from outside of the process: interface names, host names, arguments and environment variables.

Linux allows nearly any byte in names, arguments and environment variables. The process escapes each text when it reads
the text: a byte that is not part of printable UTF-8 text becomes \xNN, with two lower-case hexadecimal digits. A
backslash that looks like the start of an \xNN escape becomes \x5c. So escaped text is printable, different bytes result
in different texts, and unescaped() restores the bytes. Most texts need no escape, and do not change.
"""

import os
import re

_ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})")
_ESCAPED_BYTE = re.compile(_ESCAPE.pattern.encode())


def _bytes(text: str) -> bytes:
    """Returns the bytes from which Python decoded the text with surrogateescape (PEP 383).

    A lone surrogate that does not stand for a byte becomes three bytes.
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def printable(text: str) -> str:
    r"""Returns the text with each byte of an unprintable character, such as a control character, replaced by \xNN."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else "".join(f"\\x{byte:02x}" for byte in _bytes(each)) for each in text)


def escaped(text: str | bytes) -> str:
    """Returns the escaped form of a text: bytes, or a str that Python decoded from bytes with surrogateescape."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    return printable(_ESCAPE.sub(r"\\x5cx\1", text))


def escaped_path(path: str) -> str:
    """Returns the escaped form of a path, whatever the encoding of the locale is."""
    return escaped(os.fsencode(path))


def unescaped(text: str) -> bytes:
    """Returns the bytes from which escaped() made the text. Characters outside of escapes are encoded as UTF-8."""
    return _ESCAPED_BYTE.sub(lambda match: bytes.fromhex(match[1].decode()), _bytes(text))


def plain(text: str) -> str:
    """Returns the result of unescaped() as a str that is decoded with surrogateescape.

    A byte that is not part of UTF-8 text becomes one character.
    """
    return unescaped(text).decode("utf-8", "surrogateescape")


def normalized(text: str) -> str:
    """Returns the escaped form of a text that a user typed and that may already contain escapes.

    Existing escapes are kept. All other bytes that need an escape are escaped.
    """
    return escaped(unescaped(text))
