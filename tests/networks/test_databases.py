# SPDX-License-Identifier: Apache-2.0
"""Tests look-ups of AS numbers, AS organisations and countries in databases in MaxMind format.

The tests write their databases. test_databases_damaged.py tests files that cannot be used.
"""

import ipaddress
import random
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from otel_epping.networks.database import MAX_ENTRIES, Database, prefix
from otel_epping.networks.databases import Databases
from otel_epping.networks.place import NOWHERE, Place, place_of
from tests.support.databases import CLOUDFLARE, GOOGLE, write_database

pytestmark = [pytest.mark.unit, pytest.mark.parallel]

AT_GOOGLE, AT_CLOUDFLARE = Place(15169, "Google LLC"), Place(13335, "Cloudflare, Inc.")
NAMES = {"de": "Irland", "en": "Ireland", "zh-CN": "爱尔兰"}
IRELAND = {"geoname_id": 2963597, "iso_code": "IE", "names": NAMES, "is_in_european_union": True}

Write = Callable[..., Databases]


@pytest.fixture
def databases(tmp_path: Path) -> Write:
    """Writes one database for each mapping from prefixes to records, and opens all of them."""

    def write(*all_records: Mapping[str, Any], **options: Any) -> Databases:
        paths = [tmp_path / f"{number}.mmdb" for number in range(len(all_records))]
        return Databases([write_database(*each, **options) for each in zip(paths, all_records, strict=True)])

    return write


def place(databases: Databases, *prefixes: str) -> Place:
    return databases.of(map(ipaddress.ip_network, prefixes))


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        pytest.param(GOOGLE, AT_GOOGLE, id="GeoLite2-ASN, dbip-asn-lite"),
        pytest.param(
            {"autonomous_system_number": 15169, "isp": "Google", "organization": "Google"},
            Place(15169),
            id="GeoIP2-ISP",
        ),
        pytest.param(
            {
                "continent": {"code": "EU", "names": NAMES},
                "country": IRELAND,
                "registered_country": {"iso_code": "US"},
            },
            Place(country="IE"),
            id="GeoLite2-Country",
        ),
        pytest.param(
            {"city": {"names": NAMES}, "country": IRELAND, "location": {"latitude": 53.3}, "postal": {"code": "D02"}},
            Place(country="IE"),
            id="GeoLite2-City, dbip-city-lite",
        ),
        pytest.param({"registered_country": {"iso_code": "AU"}}, NOWHERE, id="GeoLite2-Country, anycast"),
        pytest.param({"country": IRELAND, "traits": GOOGLE}, Place(15169, "Google LLC", "IE"), id="GeoIP2-Enterprise"),
        pytest.param(
            {
                "asn": "AS15169",
                "as_name": "Google LLC",
                "as_domain": "google.com",
                "continent": "Europe",
                "continent_code": "EU",
                "country": "Ireland",
                "country_code": "IE",
            },
            Place(15169, "Google LLC", "IE"),
            id="IPinfo Lite",
        ),
        pytest.param(
            {"continent": "Asia", "continent_code": "AS", "country": "China", "country_code": "CN"},
            Place(country="CN"),
            id="IPinfo Lite, no AS",
        ),
        pytest.param(
            {"asn": "AS15169", "as_name": "Google LLC", "country": "IE", "country_name": "Ireland"},
            Place(15169, "Google LLC", "IE"),
            id="IPinfo country_asn",
        ),
        pytest.param({"asn": "", "as_name": "", "country": ""}, NOWHERE, id="IPinfo country_asn, empty"),
        pytest.param(
            {"asn": "AS15169", "domain": "google.com", "name": "Google LLC"}, AT_GOOGLE, id="IPinfo IP to ASN"
        ),
        pytest.param(
            {
                "asn": 15169,
                "country_code": "US",
                "domain": "google.com",
                "name": "GOOGLE",
                "network": "8.8.8.0/24",
                "org": "Google LLC",
            },
            AT_GOOGLE,
            id="IPLocate ip-to-asn",
        ),
        pytest.param(
            {"continent_code": "EU", "country_code": "IE", "country_name": "Ireland"},
            Place(country="IE"),
            id="IPLocate ip-to-country",
        ),
    ],
)
def test_the_layout_of_each_vendor_is_known(databases: Write, record: dict[str, Any], expected: Place) -> None:
    found = databases({"8.8.8.0/24": record, "10.0.0.0/8": GOOGLE})
    assert place(found, "8.8.8.0/24") == place_of(record) == expected


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"asn": "as15169"}, Place(15169)),
        ({"asn": "15169"}, Place(15169)),
        ({"asn": " AS15169 "}, Place(15169)),
        ({"asn": 4294967294}, Place(4294967294)),
        ({"asn": 0}, NOWHERE),
        ({"asn": 4294967295}, NOWHERE),
        ({"asn": "4294967296"}, NOWHERE),
        ({"asn": "AS9999999999999"}, NOWHERE),
        ({"asn": "AS15169 AS13335"}, NOWHERE),
        ({"asn": "AS1.10"}, NOWHERE),
        ({"asn": "AS٣"}, NOWHERE),
        ({"asn": True}, NOWHERE),
        ({"asn": -1}, NOWHERE),
        ({"asn": 15169.0}, NOWHERE),
        ({"asn": ["AS15169"]}, NOWHERE),
        ({"asn": None, "as_name": None, "country": None}, NOWHERE),
        ({"name": "Google LLC"}, NOWHERE),
        ({"asn": 1, "name": "  "}, Place(1)),
        ({"asn": 1, "name": "red \x1b[31m"}, Place(1, "red \\x1b[31m")),
        ({"country": "ie"}, Place(country="IE")),
        ({"country": "XK"}, Place(country="XK")),
        ({"country": "ZZ"}, NOWHERE),
        ({"country": "EU"}, NOWHERE),
        ({"country": "IRL"}, NOWHERE),
        ({"country": "Ireland"}, NOWHERE),
        ({"country": "\u017ft"}, NOWHERE),
        ({"country": {"iso_code": 7}}, NOWHERE),
        ({"country": ["IE"]}, NOWHERE),
        ({"traits": "AS15169"}, NOWHERE),
        ("AS15169", NOWHERE),
        (["AS15169"], NOWHERE),
        (15169, NOWHERE),
        (None, NOWHERE),
    ],
)
def test_values_are_normalized_and_odd_values_are_ignored(record: object, expected: Place) -> None:
    assert place_of(record) == expected


def test_a_value_is_given_only_if_all_addresses_have_it(databases: Write) -> None:
    google_in = {"asn": 15169, "as_name": "Google LLC"}
    found = databases(
        {
            "192.0.2.0/25": google_in | {"country": "DE"},
            "192.0.2.128/25": google_in | {"country": "FR"},
            "198.51.100.0/25": GOOGLE,
            "203.0.113.0/24": GOOGLE,
            "203.0.113.77/32": CLOUDFLARE,
            "2001:db8::/48": GOOGLE,
            "2001:db8:0:8000::/49": {"asn": 36040, "as_name": "Google LLC"},
        }
    )
    assert place(found, "192.0.2.0/25") == Place(15169, "Google LLC", "DE")
    assert place(found, "192.0.2.0/24") == Place(15169, "Google LLC")  # two countries
    assert place(found, "198.51.100.0/25") == AT_GOOGLE
    assert place(found, "198.51.100.0/24") == NOWHERE  # the second half is not in the database
    assert place(found, "203.0.113.0/24") == NOWHERE
    assert place(found, "203.0.113.0/26") == AT_GOOGLE
    assert place(found, "203.0.113.77/32") == AT_CLOUDFLARE
    assert place(found, "2001:db8::/48") == Place(None, "Google LLC")  # two AS numbers of the same organisation
    # A named network has several prefixes.
    assert place(found, "203.0.113.0/26", "198.51.100.0/25") == AT_GOOGLE
    assert place(found, "203.0.113.0/26", "2001:db8::/49") == AT_GOOGLE
    assert place(found, "203.0.113.0/26", "203.0.113.77/32") == NOWHERE
    assert place(found, "203.0.113.0/26", "192.0.2.0/24") == AT_GOOGLE
    assert place(found, "203.0.113.0/26", "9.9.9.9/32") == NOWHERE
    assert place(found) == NOWHERE


@pytest.mark.parametrize("seed", range(20))
def test_look_ups_agree_with_a_look_up_of_each_address(databases: Write, seed: int) -> None:
    choose = random.Random(seed)

    def any_prefix(shortest: int) -> str:
        length = choose.randint(shortest, 32)
        address = int(ipaddress.IPv4Address("192.0.2.0")) + choose.randrange(256)
        return f"{ipaddress.ip_network((address >> 32 - length << 32 - length, length))}"

    records = {
        any_prefix(24): {
            "asn": choose.randint(1, 3),
            "as_name": choose.choice("AB"),
            "country": choose.choice("DF") * 2,
        }
        for _ in range(choose.randint(1, 12))
    }
    sorted_prefixes = sorted(map(ipaddress.ip_network, records), key=lambda each: -each.prefixlen)

    def place_at(address: Any) -> Place:
        containing = next((each for each in sorted_prefixes if address in each), None)
        return place_of(records[str(containing)]) if containing else NOWHERE

    found = databases(records, ip_version=choose.choice((4, 6)))
    for _ in range(100):
        asked = ipaddress.ip_network(any_prefix(23 + choose.randint(1, 9)))
        places = [place_at(address) for address in asked]
        values = (values.pop() if len(values := set(column)) == 1 else None for column in zip(*places, strict=True))
        assert tuple(found.of([asked])) == tuple(values), asked


def test_ipv6_addresses_have_no_place_in_a_database_of_ipv4_addresses(databases: Write) -> None:
    found = databases({"192.0.2.0/24": GOOGLE}, ip_version=4)
    assert place(found, "192.0.2.0/24") == AT_GOOGLE
    assert place(found, "2001:db8::/48") == place(found, "::/0") == NOWHERE
    assert place(found, "192.0.2.0/24", "2001:db8::/48") == NOWHERE


def test_ipv4_addresses_have_no_place_in_a_database_of_ipv6_addresses(databases: Write) -> None:
    assert place(databases({"2001:db8::/32": GOOGLE}), "192.0.2.0/24") == NOWHERE
    # The IPv4 addresses are in ::/96.
    everywhere = databases({"::/1": GOOGLE, "8000::/1": GOOGLE})
    assert place(everywhere, "2001:db8::/48") == place(everywhere, "::/0") == AT_GOOGLE
    assert place(everywhere, "192.0.2.0/24") == place(everywhere, "0.0.0.0/0") == NOWHERE


def test_all_addresses(databases: Write) -> None:
    found = databases({"0.0.0.0/1": GOOGLE, "128.0.0.0/1": GOOGLE, "2001:db8::/32": CLOUDFLARE})
    assert place(found, "0.0.0.0/0") == AT_GOOGLE
    assert place(found, "::/0") == NOWHERE


def test_prefixes_that_contain_ipv4_addresses(databases: Write) -> None:
    found = databases({"8.8.8.0/24": GOOGLE, "2001:db8::/32": CLOUDFLARE}, aliases=True)
    assert place(found, "8.8.8.0/24") == AT_GOOGLE
    assert place(found, "2002:808:800::/40") == AT_GOOGLE  # 6to4: the address of the host's router
    assert place(found, "2002:808:808::/48") == AT_GOOGLE
    assert place(found, "2002:808::/32") == NOWHERE
    assert place(found, "::ffff:8.8.8.0/120") == AT_GOOGLE
    assert place(found, "2001:0:808:808::/64") == NOWHERE  # Teredo: the address of the Teredo server
    assert place(found, "2001::/32") == place(found, "2001::/16") == NOWHERE
    assert place(found, "2001:db8:7::/48") == AT_CLOUDFLARE


def test_prefixes_of_named_networks() -> None:
    mapped = ipaddress.IPv6Address("::ffff:192.0.2.0").packed
    assert prefix(mapped, 96 + 24) == ipaddress.ip_network("192.0.2.0/24")
    assert prefix(mapped[:12] + bytes(4), 96) == ipaddress.ip_network("0.0.0.0/0")
    assert prefix(bytes(16), 0) == ipaddress.ip_network("::/0")
    assert prefix(ipaddress.IPv6Address("2001:db8::").packed, 32) == ipaddress.ip_network("2001:db8::/32")


def test_a_network_with_too_many_entries_has_no_place(databases: Write) -> None:
    first = int(ipaddress.IPv4Address("10.0.0.0"))
    records = {f"{ipaddress.IPv4Address(first + each)}/32": {"asn": 1, "number": each} for each in range(MAX_ENTRIES)}
    found = databases(records | {"10.0.4.0/31": {"asn": 1}, "10.0.4.2/31": {"asn": 1}, "10.0.4.4/30": {"asn": 2}})
    assert place(found, "10.0.0.0/22") == Place(1)  # 1,024 entries
    assert place(found, "10.0.0.0/22", "10.0.4.0/31") == Place(1)
    assert place(found, "10.0.0.0/22", "10.0.4.0/30") == Place(1)  # 1,026 entries, 2 prefixes
    assert place(found, "10.0.0.0/22", "10.0.0.0/30") == NOWHERE
    assert place(found, *(f"10.0.{each >> 8}.{each & 255}/32" for each in range(1024))) == Place(1)


def test_the_first_database_with_a_value_decides(databases: Write) -> None:
    country = {"192.0.2.0/24": {"country": "DE"}, "198.51.100.0/24": {"country": "DE"}}
    both = {
        "192.0.2.0/24": {"asn": 2, "as_name": "Two", "country": "FR"},
        "203.0.113.0/24": {"asn": 2, "as_name": "Two", "country": "FR"},
    }
    found = databases(country, both)
    assert place(found, "192.0.2.0/24") == Place(2, "Two", "DE")
    assert place(found, "198.51.100.0/24") == Place(country="DE")
    assert place(found, "203.0.113.0/24") == Place(2, "Two", "FR")
    assert place(databases(both, country), "192.0.2.0/24") == Place(2, "Two", "FR")


def test_the_organization_belongs_to_the_as_number(databases: Write) -> None:
    found = databases(
        {"192.0.2.0/24": {"asn": 1}, "198.51.100.0/24": {"asn": 1}},
        {"192.0.2.0/24": {"asn": 2, "as_name": "Two"}, "198.51.100.0/24": {"asn": 1, "as_name": "One"}},
    )
    assert place(found, "192.0.2.0/24") == Place(1)
    assert place(found, "198.51.100.0/24") == Place(1, "One")


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The prefixes of each look-up in a database."""
    looked_up = []
    place_in_database = Database.place

    def counted(database: Database, prefixes: Any) -> Place:
        looked_up.append(prefixes)
        return place_in_database(database, prefixes)

    monkeypatch.setattr(Database, "place", counted)
    return looked_up


def test_a_network_is_looked_up_once(databases: Write, looked_up: list[Any]) -> None:
    found = databases({"192.0.2.0/24": GOOGLE})
    for _ in range(3):
        assert place(found, "192.0.2.0/24") == AT_GOOGLE
        assert place(found, "198.51.100.0/24") == NOWHERE
    assert len(looked_up) == 2


def test_the_number_of_stored_places_is_limited(databases: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otel_epping.networks.databases._MAX_PLACES", 10)
    found = databases({"192.0.2.0/24": GOOGLE})
    for _ in range(2):
        assert {place(found, f"192.0.2.{host}/32") for host in range(25)} == {AT_GOOGLE}


def test_without_databases_nothing_has_a_place_and_no_library_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "maxminddb", None)
    found = Databases([])
    assert place(found, "192.0.2.0/24") == NOWHERE
    assert not found.reopen()
