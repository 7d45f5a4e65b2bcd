# SPDX-License-Identifier: Apache-2.0
r"""Escapes text from outside: names of interfaces and hosts, arguments, variables. Linux allows nearly any byte there.

Text is escaped on entry: a byte that is not part of printable UTF-8 text becomes \xNN, with two lower-case hexadecimal
digits. A backslash that would otherwise start such an escape becomes \x5c. So escaped text is printable, different
bytes give different texts, and unescaped() restores the bytes. Most text does not change.
"""

import re

_ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})")
_ESCAPED_BYTE = re.compile(_ESCAPE.pattern.encode())


def _bytes(text: str) -> bytes:
    """The bytes that Python decoded with surrogateescape (PEP 383). Any other lone surrogate becomes three bytes."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def printable(text: str) -> str:
    r"""The text with \xNN for each byte of a character that is not printable, such as a control character."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else "".join(f"\\x{byte:02x}" for byte in _bytes(each)) for each in text)


def escaped(text: str | bytes) -> str:
    """The escaped form of text from outside: bytes, or a str that Python decoded from bytes with surrogateescape."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    return printable(_ESCAPE.sub(r"\\x5cx\1", text))


def unescaped(text: str) -> bytes:
    """The bytes from which escaped() made the text. The text may be escaped in part only."""
    return _ESCAPED_BYTE.sub(lambda match: bytes.fromhex(match[1].decode()), _bytes(text))


def plain(text: str) -> str:
    """unescaped() decoded with surrogateescape: each byte that is not part of UTF-8 text is one character."""
    return unescaped(text).decode("utf-8", "surrogateescape")


def normalized(text: str) -> str:
    """The escaped form of text that a user typed: escapes are kept, and bytes that need an escape get one."""
    return escaped(unescaped(text))
