# SPDX-License-Identifier: Apache-2.0
r"""Text from outside: names of interfaces and hosts, arguments, variables. Linux allows nearly any byte in them.

Such text is escaped where it enters: a byte that is not part of printable UTF-8 text becomes \xNN, two lower-case
hexadecimal digits. A backslash becomes \x5c where it would otherwise begin such an escape. So the escaped text is
printable, different bytes give different texts, and unescaped() gives the bytes back. Most text stays as it is.
"""

import re

_ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})")
_ESCAPED_BYTE = re.compile(_ESCAPE.pattern.encode())


def _bytes(text: str) -> bytes:
    """The bytes that Python decoded with surrogateescape (PEP 383), or any lone surrogate as three bytes."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def printable(text: str) -> str:
    r"""The text with \xNN for each byte of a character that cannot be printed, as control characters and surrogates."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else "".join(f"\\x{byte:02x}" for byte in _bytes(each)) for each in text)


def escaped(text: str | bytes) -> str:
    """The escaped form of text from outside: bytes, or a str that Python made of bytes with surrogateescape."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    return printable(_ESCAPE.sub(r"\\x5cx\1", text))


def unescaped(text: str) -> bytes:
    """The bytes that escaped() was given. Takes text that is escaped in part, too."""
    return _ESCAPED_BYTE.sub(lambda match: bytes.fromhex(match[1].decode()), _bytes(text))


def plain(text: str) -> str:
    """What Python makes of unescaped(): each character of the text, or byte that is not part of one, is a character."""
    return unescaped(text).decode("utf-8", "surrogateescape")


def normalized(text: str) -> str:
    """The escaped form of what a user typed: escapes are kept, and bytes that need one get it."""
    return escaped(unescaped(text))
