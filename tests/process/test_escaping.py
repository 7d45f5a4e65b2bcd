# SPDX-License-Identifier: Apache-2.0
"""Tests the escaping of text that comes from outside the process. The escaped text keeps all information, and fits in
any output."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_epping.process.escaping import escaped, normalized, plain, printable, unescaped

pytestmark = [pytest.mark.parallel, pytest.mark.unit]


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"eth0", "eth0"),
        (b"caf\xe9", r"caf\xe9"),
        ("café".encode(), "café"),
        (rb"caf\xe9", r"caf\x5cxe9"),
        (rb"a\b", r"a\b"),
        (b"\x1b[31m", r"\x1b[31m"),
        (b"a\nb\0", r"a\x0ab\x00"),
        ("\u202e".encode(), r"\xe2\x80\xae"),
        (b"\xed\xa0\x80", r"\xed\xa0\x80"),
        (b"", ""),
    ],
)
def test_unprintable_bytes_are_written_in_hexadecimal(raw: bytes, text: str) -> None:
    assert escaped(raw) == text
    assert escaped(raw.decode("utf-8", "surrogateescape")) == text
    assert unescaped(text) == raw
    assert normalized(text) == text


@given(st.binary() | st.text("\\x019abef\xe9").map(str.encode))
def test_escaping_is_reversible(raw: bytes) -> None:
    assert unescaped(escaped(raw)) == raw
    assert escaped(raw).isprintable()
    assert plain(escaped(raw)) == raw.decode("utf-8", "surrogateescape")
    assert normalized(escaped(raw)) == escaped(raw)


@given(st.text(st.characters()))
def test_any_str_of_python_can_be_printed(text: str) -> None:
    assert printable(text).isprintable()
    printable(text).encode()
