# SPDX-License-Identifier: Apache-2.0
"""`make distrotest` (tests/distro): its arguments, and what it says where no installation can be made."""

import pytest
from distro import command, trees


def test_an_unknown_release_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        command.main(["buster"])
    assert "invalid choice: 'buster' (choose from bookworm, trixie, sid)" in capsys.readouterr().err


def test_an_unknown_step_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        command.main(["trixie", "--steps", "bench"])
    error = capsys.readouterr().err
    assert "invalid choice: 'bench'" in error
    assert all(step in error for step in command.STEPS)


def test_a_tree_of_an_unknown_release_is_an_error() -> None:
    with pytest.raises(trees.DistroError, match="unknown release 'buster': use one of bookworm, trixie, sid"):
        trees.tree("buster")
