# SPDX-License-Identifier: Apache-2.0
"""Tests `make distrotest` (tests/distro): its arguments, and a command in an overlay of this machine's root folder."""

import subprocess
from pathlib import Path

import pytest

from tests.distro import command, trees

pytestmark = pytest.mark.parallel


ENTER = Path(trees.__file__).with_name("enter.sh")


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


def test_a_command_in_a_tree_writes_only_to_the_overlay(tmp_path: Path) -> None:
    for name in ("upper", "work", "root"):
        (tmp_path / name).mkdir()
    handed = tmp_path / "handed"
    handed.write_text("handed in\n")
    script = "cat /host/handed; echo written > /written; echo spoiled > /host/handed; ip netns add inside; exit 3"
    done = subprocess.run(
        [*trees.NAMESPACE, ENTER, "/", tmp_path, "ro", handed, "/host/handed", "--", "sh", "-c", script],
        capture_output=True,
        text=True,
    )
    assert done.stdout == "handed in\n"
    assert "Read-only file system" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.returncode == 3
    assert (tmp_path / "upper/written").read_text() == "written\n"
    assert handed.read_text() == "handed in\n"
    assert not Path("/written").exists()
    assert not Path("/run/netns/inside").exists()
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


def test_a_tree_is_the_root_of_its_mount_namespace(tmp_path: Path) -> None:
    for name in ("upper", "work", "root"):
        (tmp_path / name).mkdir()
    script = "unshare --user pwd; mountpoint /mnt"  # in a chroot, the kernel refuses to create user namespaces
    done = subprocess.run(
        [*trees.NAMESPACE, ENTER, "/", tmp_path, "--", "sh", "-c", script], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("/\n/mnt is not a mountpoint\n", "")
