# SPDX-License-Identifier: Apache-2.0
"""The AS number, the AS organisation and the country in a record of a database.

The layout of a record is recognized by its fields. The sources are the vendors' documentation and their samples:

    MaxMind, DB-IP   autonomous_system_number, autonomous_system_organization (in Enterprise databases inside traits);
                     country.iso_code
    IPinfo           asn ("AS15169"), as_name, country_code. Older databases: name instead of as_name, and the code in
                     country. Lite has the name of the country in country
    IPLocate         ip-to-asn: asn, org, name (a short code such as GOOGLE), country_code (of the holder of the AS);
                     ip-to-country: country_code
"""

import re
from typing import Any, NamedTuple

from otel_epping.process.escaping import printable

# AS numbers have 32 bits (RFC 6793). 0 and the greatest number are reserved (RFC 7607, RFC 7300).
_AS_NUMBERS = range(1, 2**32 - 1)
_AS_NUMBER = re.compile(r"\s*(?:AS)?([0-9]{1,10})\s*", re.IGNORECASE | re.ASCII)
_COUNTRY = re.compile(r"[A-Za-z]{2}")
# Codes that databases use although ISO 3166-1 assigns them to no country: the regions Asia/Pacific and Europe, and
# unknown countries. XK (Kosovo) is kept.
_NO_COUNTRIES = {"AP", "EU", "XX", "ZZ"}


class Place(NamedTuple):
    """Where a network belongs, according to databases. A value that is unknown or ambiguous is None.

    as_number        AS number
    as_organization  name of the organisation that holds the AS
    country          ISO 3166-1 alpha-2 code in upper case
    """

    as_number: int | None = None
    as_organization: str | None = None
    country: str | None = None

    def shared_with(self, other: "Place") -> "Place":
        """Returns the values that both places have in common."""
        return Place(
            self.as_number if self.as_number == other.as_number else None,
            self.as_organization if self.as_organization == other.as_organization else None,
            self.country if self.country == other.country else None,
        )


NOWHERE = Place()


def place_of(record: object) -> Place:
    """Returns the values of a record. Fields of an unexpected type or value are ignored."""
    if not isinstance(record, dict):
        return NOWHERE
    return Place(_as_number(record), _as_organization(record), _country(record))


def _map(record: dict[Any, Any], name: str) -> dict[Any, Any]:
    field = record.get(name)
    return field if isinstance(field, dict) else {}


def _as_number(record: dict[Any, Any]) -> int | None:
    for fields, name in ((record, "autonomous_system_number"), (record, "asn")):
        if name in fields:
            return _number(fields[name])
    return _number(_map(record, "traits").get("autonomous_system_number"))


def _number(value: object) -> int | None:
    if isinstance(value, str) and (match := _AS_NUMBER.fullmatch(value)):
        value = int(match[1])
    return value if isinstance(value, int) and not isinstance(value, bool) and value in _AS_NUMBERS else None


def _as_organization(record: dict[Any, Any]) -> str | None:
    for name in ("autonomous_system_organization", "as_name"):
        if name in record:
            return _text(record[name])
    if "asn" in record:  # without an AS number, `name` may be the name of anything
        return _text(record.get("org", record.get("name")))
    return _text(_map(record, "traits").get("autonomous_system_organization"))


def _text(value: object) -> str | None:
    return (printable(value.strip()) or None) if isinstance(value, str) else None


def _country(record: dict[Any, Any]) -> str | None:
    country = record.get("country")
    if isinstance(country, dict):
        return _code(country.get("iso_code"))
    if "country_code" in record:
        # In IPLocate's ip-to-asn, the code belongs to the holder of the AS, not to the addresses.
        is_of_holder = "asn" in record and "org" in record
        return None if is_of_holder else _code(record["country_code"])
    return _code(country)


def _code(value: object) -> str | None:
    if not isinstance(value, str) or not _COUNTRY.fullmatch(value):
        return None
    code = value.upper()
    return None if code in _NO_COUNTRIES else code
