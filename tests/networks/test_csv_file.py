# SPDX-License-Identifier: Apache-2.0
"""Tests of files of names in CSV."""

import time
from pathlib import Path

import pytest

from otel_epping.networks import files
from otel_epping.networks.network import MAX_PREFIXES, Network, Networks
from tests.networks.support import error_of, names_by_prefix, tags_by_name

pytestmark = [pytest.mark.parallel, pytest.mark.unit]


def read(folder: Path, text: str | bytes, name: str = "names.csv") -> Networks:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return files.read(str(path))


def error(folder: Path, text: str | bytes) -> str:
    path = folder / "names.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return error_of(path)


def test_a_network_has_a_name_tags_and_prefixes_of_both_families(tmp_path: Path) -> None:
    text = (
        "# customers\n"
        "cidr,name,site,Service Plan\n"
        '198.51.100.0/24,"Miller, Inc.",North,100/20\n'
        '2001:db8:1::/48,"Miller, Inc.",North,100/20\n'
        "\n"
        "203.0.113.7, Office ,,\n"
        "2001:DB8::0:1,Office\n"
    )
    networks = read(tmp_path, text)
    assert names_by_prefix(networks) == {
        "198.51.100.0/24": "Miller, Inc.",
        "2001:db8:1::/48": "Miller, Inc.",
        "203.0.113.7/32": "Office",
        "2001:db8::1/128": "Office",
    }
    assert networks.tags == ("site", "service_plan")
    assert networks.networks[0] == Network("Miller, Inc.", (("site", "North"), ("service_plan", "100/20")))
    assert networks.networks[1] == Network("Office")


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_and_ends_of_lines_of_spreadsheet_programs_are_read(
    tmp_path: Path, newline: str, encoding: str
) -> None:
    lines = ["CIDR,Name,", "10.0.0.0/8,Größe 5,", " 10.1.0.0/16 ,\u00a0東京 \u00a0Büro\t,", ",,"]
    networks = read(tmp_path, newline.join(lines).encode(encoding))
    assert names_by_prefix(networks) == {"10.0.0.0/8": "Größe 5", "10.1.0.0/16": "東京 Büro"}


def test_columns_may_be_in_any_order(tmp_path: Path) -> None:
    networks = read(tmp_path, "site,name,cidr\nNorth,Office,10.0.0.0/8\n")
    assert names_by_prefix(networks) == {"10.0.0.0/8": "Office"}
    assert tags_by_name(networks) == {"Office": {"site": "North"}}


def test_repeated_lines_are_read_once(tmp_path: Path) -> None:
    networks = read(tmp_path, "cidr,name\n" + "10.0.0.0/8,A\n" * 3 + "10.0.0.0/8, A\n")
    assert names_by_prefix(networks) == {"10.0.0.0/8": "A"}


def test_a_prefix_may_contain_all_addresses(tmp_path: Path) -> None:
    networks = read(tmp_path, "cidr,name\n0.0.0.0/0,all\n::/0,all\n")
    assert names_by_prefix(networks) == {"0.0.0.0/0": "all", "::/0": "all"}
    assert sorted(networks.prefixes["length"]) == [0, 96]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("10.0.0.1/8,A", "bits after the prefix are set in '10.0.0.1/8': did you mean 10.0.0.0/8?"),
        ("2001:db8::1/32,A", "bits after the prefix are set in '2001:db8::1/32': did you mean 2001:db8::/32?"),
        ("10.0.0.0/255.0.0.0,A", "'10.0.0.0/255.0.0.0' is not a prefix: did you mean 10.0.0.0/8?"),
        ("10.0.0.0/08,A", "'10.0.0.0/08' is not a prefix: did you mean 10.0.0.0/8?"),
        (
            "10.0.0.0/33,A",
            "'10.0.0.0/33' is not a prefix: write a prefix, such as 198.51.100.0/24 or 2001:db8::/32",
        ),
        ("10.0.0/8,A", "'10.0.0/8' is not a prefix: write a prefix, such as 198.51.100.0/24 or 2001:db8::/32"),
        ("fe80::1%eth0,A", "'fe80::1%eth0' is not a prefix: remove the zone after %"),
        (
            "::ffff:10.0.0.0/104,A",
            "'::ffff:10.0.0.0/104' is an IPv4 prefix in IPv6 notation: write 10.0.0.0/8",
        ),
        (",A", "the prefix (cidr) is missing: write a prefix, such as 198.51.100.0/24 or 2001:db8::/32"),
        ("10.0.0.0/8,", "the name is missing: add a name after the prefix"),
        ("10.0.0.0/8", "the name is missing: add a name after the prefix"),
        ("10.0.0.0/8,a\x1b[2Jb", r"the name 'a\x1b[2Jb' contains control characters: remove them"),
        ("10.0.0.0/8,a\u200bb", r"the name 'a\xe2\x80\x8bb' contains control characters: remove them"),
        ("10.0.0.0/8,A,\u202ex", r"site '\xe2\x80\xaex' contains control characters: remove them"),
        ("10.0.0.0/8," + "a" * 256, f"the name '{'a' * 60}...' has 256 characters: shorten it to at most 255"),
        (
            "10.0.0.0/8,Miller, Inc.,North",
            "the line has 4 columns, and the header has 3: put quotes around a text that contains a comma",
        ),
        ('10.0.0.0/8,"A', "the file ends inside a quoted text: add the closing quote, or the missing lines"),
        ('10.0.0.0/8,"A"B"', "text follows a closing quote: write a quote inside a quoted text twice"),
        ('10.0.0.0/8,"A\n10.1.0.0/16,"B"', "the quoted text does not end in this line: add the closing quote"),
        (
            f'10.0.0.0/8,"{"a" * 140_000}',
            "a text has more than 131,072 characters: add the closing quote, or shorten it",
        ),
        ("198.51.100.0/24,A", "198.51.100.0/24 is 'A' here, and 'first' in line 2: keep one of the two lines"),
        (
            "10.0.0.0/8,first,South",
            "'first' has site='South' here, and site='' in line 2: use the same value in all lines of a name, or "
            "another name",
        ),
    ],
)
def test_the_error_of_a_line_has_the_file_the_line_the_cause_and_the_cure(
    tmp_path: Path, line: str, message: str
) -> None:
    assert error(tmp_path, f"cidr,name,site\n198.51.100.0/24,first,\n{line}\n") == f"names.csv:3: {message}"


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("10.0.0.0/8,A", "the file has no header: start the file with a header, such as cidr,name,site"),
        (
            "prefix,name",
            "the header 'prefix,name' has no column cidr: start the file with a header, such as cidr,name,site",
        ),
        ("cidr,site", "the header has no column name: start the file with a header, such as cidr,name,site"),
        ("cidr;name", "semicolons separate the columns: save the file with commas"),
        ("cidr\tname", "tabs separate the columns: save the file with commas"),
        ("cidr,name,site,Site", "the column site occurs twice: remove or rename one of the two columns"),
        ("cidr,name,name", "the column name occurs twice: remove or rename one of the two columns"),
        *(
            (
                f"cidr,name,{word.title()}",
                f"{word} cannot be a tag, because --group-by {word} has another meaning: rename it, for example to "
                f"own_{word}",
            )
            for word in ("subnet", "asn", "country")
        ),
        *(
            (
                f"cidr,name,{word}",
                f"'{word}' cannot be a tag: rename it with up to 63 letters a-z, digits and _, and a letter "
                "at the start",
            )
            for word in ("größe", "2nd", "a.b", "")
        ),
    ],
)
def test_the_error_of_a_header_has_the_cure(tmp_path: Path, header: str, message: str) -> None:
    header = f"{header},site" if header == "cidr,name," else header
    assert error(tmp_path, f"# names\n{header}\n10.0.0.0/8,A\n") == f"names.csv:2: {message}"


def test_five_lines_with_errors_are_listed_and_the_others_are_counted(tmp_path: Path) -> None:
    lines = ["cidr,name", *(f"{number},A" for number in range(7)), "10.0.0.0/8,A"]
    found = error(tmp_path, "\n".join(lines)).splitlines()
    assert [line.partition(" ")[0] for line in found] == [f"names.csv:{line}:" for line in range(2, 7)] + ["names.csv:"]
    assert found[-1] == "names.csv: 2 more lines have errors"
    found = error(tmp_path, "\n".join(lines[:7])).splitlines()
    assert found[-1] == "names.csv: 1 more line has an error"


def test_a_line_that_was_written_only_in_part_is_an_error(tmp_path: Path) -> None:
    text = "cidr,name,site\n10.0.0.0/8,A,North\n10.1.0.0/16,B"
    message = "names.csv:3: the file ends in the middle of this line: write the file completely"
    assert error(tmp_path, text) == message
    assert error(tmp_path, text.removesuffix(",B")) == message
    assert len(read(tmp_path, text + "\n").prefixes) == 2
    assert len(read(tmp_path, text + ",South").prefixes) == 2


@pytest.mark.parametrize("text", ["cidr,name\n", "cidr,name\n# nothing\n,\n"])
def test_a_file_without_networks_is_an_error(tmp_path: Path, text: str) -> None:
    assert error(tmp_path, text) == "names.csv names no network: add a line with a prefix and a name"


def test_a_file_of_comments_is_an_error(tmp_path: Path) -> None:
    message = "names.csv contains only comments: start the file with a header, such as cidr,name,site"
    assert error(tmp_path, "# a\n\n # b") == message


def test_the_largest_number_of_prefixes_is_read_in_time(tmp_path: Path) -> None:
    lines = [
        f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}/32,Customer {i >> 1},Site {i % 50 >> 1}" for i in range(MAX_PREFIXES)
    ]
    text = "\n".join(["cidr,name,site", *lines, *lines[:10], ""])
    start = time.process_time()
    networks = read(tmp_path, text)
    assert time.process_time() - start < 5  # 0.6 s on a machine that does nothing else
    assert len(networks.prefixes) == MAX_PREFIXES
    assert len(networks.networks) == MAX_PREFIXES / 2
    assert (
        error(tmp_path, text + "11.0.0.0/8,one,\n")
        == "names.csv: there are 100,001 prefixes: at most 100,000 are possible"
    )
