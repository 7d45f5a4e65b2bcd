# SPDX-License-Identifier: Apache-2.0
"""Tests files that are no usable databases, and databases that are replaced while they are in use.

Each such file causes one line that names the file and the cure, and look-ups continue with the old database.
"""

import gzip
import ipaddress
import logging
import os
import random
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from otel_epping.errors import EppingError
from otel_epping.networks import file_watch
from otel_epping.networks.database import Database
from otel_epping.networks.databases import Databases
from otel_epping.networks.place import NOWHERE, Place
from tests.support.databases import CLOUDFLARE, GOOGLE, write_database

pytestmark = [pytest.mark.unit, pytest.mark.parallel]

AT_GOOGLE, AT_CLOUDFLARE = Place(15169, "Google LLC"), Place(13335, "Cloudflare, Inc.")
RECORDS = {
    "8.8.8.0/24": GOOGLE,
    "1.1.1.0/24": CLOUDFLARE,
    "192.0.2.0/25": {"country": {"iso_code": "DE", "names": {"de": "Deutschland", "en": "Germany"}}, "score": 0.5},
    "2001:db8::/32": GOOGLE,
}
ASKED = ("8.8.8.0/24", "1.1.1.0/24", "192.0.2.0/25", "192.0.2.0/24", "2001:db8::/48", "0.0.0.0/0", "::/0")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "asn.mmdb"


def places(databases: Databases) -> list[Place]:
    return [databases.of([ipaddress.ip_network(each)]) for each in ASKED]


def place(databases: Databases, prefix: str) -> Place:
    return databases.of([ipaddress.ip_network(prefix)])


def opened(path: Path) -> Databases | str:
    """Opens a database. Returns the error message if the database cannot be used."""
    try:
        return Databases([str(path)])
    except EppingError as error:
        return str(error)


def error_of(path: Path | str) -> str:
    with pytest.raises(EppingError) as caught:
        Databases([str(path)])
    message = str(caught.value)
    assert "\n" not in message
    assert ": " in message
    return message


def reopen(databases: Databases, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Calls reopen() until a change of a file counts as complete: the files do not change for 1 s."""
    with monkeypatch.context() as patch:
        now_ns = time.time_ns() + 2 * 10**9
        patch.setattr(file_watch, "time", SimpleNamespace(time_ns=lambda: now_ns))
        return sum(databases.reopen() for _ in range(3)) == 1


def test_a_file_that_cannot_be_read(path: Path, tmp_path: Path) -> None:
    assert error_of(path) == (
        f"cannot read the database {path} (No such file or directory): check the path and the permissions"
    )
    assert "Is a directory" in error_of(tmp_path)
    os.mkfifo(path)
    assert error_of(path) == f"{path} is not a regular file: set the path of a database"
    assert "embedded null" in error_of("a\0b")  # byte, or since Python 3.13 character
    assert "\\xff\\x0a.mmdb (No such file" in error_of(os.fsdecode(b"/\xff\n.mmdb"))


def test_each_unusable_file_is_named(path: Path, tmp_path: Path) -> None:
    path.write_bytes(b"")
    with pytest.raises(EppingError) as caught:
        Databases([str(path), write_database(tmp_path / "good.mmdb", RECORDS), str(tmp_path / "none.mmdb")])
    assert str(caught.value) == (
        f"{path} is not in MaxMind format (.mmdb), or it is truncated: download it again; cannot read the database "
        f"{tmp_path / 'none.mmdb'} (No such file or directory): check the path and the permissions"
    )


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 5000, b"network,asn\n8.8.8.0/24,15169\n", b"\xab\xcd\xefMaxMind.com", b"\xab\xcd\xefMaxMind.com" * 9],
)
def test_a_file_in_another_format(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert error_of(path) == f"{path} is not in MaxMind format (.mmdb), or it is truncated: download it again"


def test_a_compressed_database(path: Path) -> None:
    write_database(path, RECORDS)
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert error_of(path) == f"{path} is compressed: unpack it with gunzip"


def test_a_huge_file(path: Path) -> None:
    path.touch()
    os.truncate(path, (1 << 30) + 1)
    assert error_of(path) == f"{path} has more than 1,024 MiB: use a smaller database"


@pytest.mark.parametrize(
    "record",
    [
        {"city": {"names": {"en": "Dublin"}}, "location": {"latitude": 53.3}},
        {"is_anonymous": True},
        {"carrier": "Telstra", "cc": "AU"},
        "text",
    ],
)
def test_a_database_without_useful_fields(path: Path, record: object) -> None:
    write_database(path, {"8.8.8.0/24": record, "2001:db8::/32": record}, kind="GeoIP2-Anonymous-IP")
    assert error_of(path) == (
        f"{path} (GeoIP2-Anonymous-IP) has no AS numbers, AS organisations or countries: use a database such as "
        "GeoLite2-ASN or GeoLite2-Country"
    )


@pytest.mark.parametrize("prefix", ["10.99.98.97/32", "223.255.255.0/24", "2001:db8:1:2::/64", "fd00:1:2::/48"])
def test_a_database_with_one_useful_entry_is_usable(path: Path, prefix: str) -> None:
    assert place(Databases([write_database(path, {prefix: GOOGLE})]), prefix) == AT_GOOGLE


def test_an_old_database_is_logged_once(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    databases = Databases([write_database(path, RECORDS, built_s=int(time.time()) - 364 * 86_400)])
    assert caplog.text == ""
    write_database(path, RECORDS, built_s=1_700_000_000)
    assert reopen(databases, monkeypatch)
    assert place(databases, "8.8.8.0/24") == AT_GOOGLE
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(f"{path} was built on 2023-11-14, ")
    assert record.getMessage().endswith(" days ago: AS numbers and countries may be wrong; download a newer database")


@pytest.mark.parametrize("built_s", [0, 2**33, 2**63])
def test_any_time_of_build(path: Path, built_s: int) -> None:
    assert place(Databases([write_database(path, RECORDS, built_s=built_s)]), "8.8.8.0/24") == AT_GOOGLE


def test_a_database_that_is_truncated_at_any_byte(path: Path) -> None:
    content = Path(write_database(path, RECORDS)).read_bytes()
    expected = places(Databases([str(path)]))
    refused = 0
    for length in range(len(content)):
        path.write_bytes(content[:length])
        if isinstance(found := opened(path), str):
            assert found == f"{path} is not in MaxMind format (.mmdb), or it is truncated: download it again"
            refused += 1
        else:
            assert places(found) == expected
    # If only bytes of the time of build are missing, which is the last field, the database is usable.
    assert len(content) - refused <= 8


@pytest.mark.parametrize("seed", range(8))
def test_any_bytes_cause_no_other_exception(path: Path, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    content = Path(write_database(path, RECORDS, ip_version=6, aliases=True)).read_bytes()
    metadata = content.rindex(b"\xab\xcd\xefMaxMind.com")
    choose = random.Random(seed)
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(choose.choice((1, 1, 2, 8, 64))):
            part = choose.choice((range(metadata, len(content)), range(metadata - 300, metadata), range(len(content))))
            damaged[choose.choice(part)] = choose.randrange(256)
        if choose.random() < 0.2:  # half-written: the start of one file and the end of another file
            cut = choose.randrange(len(content))
            damaged[cut:] = content[choose.randrange(cut + 1) :]
        path.write_bytes(damaged)
        caplog.clear()
        started_s = time.monotonic()
        if isinstance(found := opened(path), str):
            assert str(path) in found
            assert "\n" not in found
        else:
            places(found)
        assert len(caplog.records) <= 2  # old, and damaged
        assert time.monotonic() - started_s < 5


def test_damage_that_only_look_ups_find_is_logged_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_database(path, {"8.8.8.0/24": GOOGLE, "9.9.9.0/24": {"asn": 1, "as_name": "damaged"}})
    path.write_bytes(path.read_bytes().replace(b"damaged", b"dam\xffged"))
    databases = Databases([str(path)])
    assert place(databases, "9.9.9.0/24") == place(databases, "9.9.9.9/32") == NOWHERE
    assert place(databases, "8.8.8.0/24") == AT_GOOGLE
    assert caplog.messages == [
        f"{path} is damaged (UnicodeDecodeError), so some networks have no AS number and no country: download it again"
    ]


def test_a_file_that_is_truncated_in_place_does_not_matter(path: Path) -> None:
    databases = Databases([write_database(path, RECORDS)])
    os.truncate(path, 0)  # the kernel would send SIGBUS to a process that reads a mapping of the file
    assert place(databases, "8.8.8.0/24") == AT_GOOGLE


def test_a_database_that_is_replaced_is_read_again(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    databases = Databases([write_database(path, RECORDS)])
    assert place(databases, "8.8.8.0/24") == AT_GOOGLE
    assert not databases.reopen()
    assert databases.generation == 0
    Path(write_database(tmp_path / "new", {"8.8.8.0/24": CLOUDFLARE})).replace(path)
    assert place(databases, "8.8.8.0/24") == AT_GOOGLE
    assert reopen(databases, monkeypatch)
    assert databases.generation == 1
    with monkeypatch.context() as patch:
        patch.setattr(Database, "place", None)  # reopen() has looked up the place
        assert place(databases, "8.8.8.0/24") == AT_CLOUDFLARE
    assert not databases.reopen()


def test_a_bad_new_file_leaves_the_old_database_in_use(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    databases = Databases([write_database(path, RECORDS)])
    content = path.read_bytes()
    for bad in (b"", content[:-100], b"other format"):
        path.write_bytes(bad)
        caplog.clear()
        assert not reopen(databases, monkeypatch)
        assert not any(databases.reopen() for _ in range(3))
        assert caplog.messages == [
            f"the old database stays in use: {path} is not in MaxMind format (.mmdb), or it is truncated: download it "
            "again"
        ]
        assert place(databases, "8.8.8.0/24") == AT_GOOGLE
    assert databases.generation == 0
    write_database(path, {"8.8.8.0/24": CLOUDFLARE})
    assert reopen(databases, monkeypatch)
    assert place(databases, "8.8.8.0/24") == AT_CLOUDFLARE


def test_a_file_that_is_still_written_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    databases = Databases([write_database(path, RECORDS)])
    write_database(path, {"8.8.8.0/24": CLOUDFLARE})
    assert not any(databases.reopen() for _ in range(3))  # it changed less than a second ago
    assert reopen(databases, monkeypatch)


def test_without_the_library_the_error_names_the_extra(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_database(path, RECORDS)
    monkeypatch.setitem(sys.modules, "maxminddb", None)
    assert error_of(path) == (
        "the library maxminddb, which reads databases, is not installed: pip install 'otel-epping[databases]'"
    )
