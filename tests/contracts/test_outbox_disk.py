"""What every OutboxDisk does: the one that tests crash, and the real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentledger.producers.outbox.disk import OutboxDisk, RealDisk
from tests.crashing_disk import CrashingDisk


@pytest.fixture(params=["crashing", "real"])
def disk(request: pytest.FixtureRequest) -> OutboxDisk:
    return CrashingDisk() if request.param == "crashing" else RealDisk()


def test_a_file_grows_is_written_over_and_is_read_again(disk: OutboxDisk, tmp_path: Path) -> None:
    disk.make_folder(tmp_path / "a" / "b")
    file = disk.open(tmp_path / "a" / "b" / "f")
    assert file.size == 0
    file.append(b"hello ")
    file.append(b"world")
    file.write_at(0, b"H")
    file.sync()
    assert (file.size, file.read(0, 100), file.read(6, 3), file.read(11, 5)) == (11, b"Hello world", b"wor", b"")
    file.close()
    again = disk.open(tmp_path / "a" / "b" / "f")
    assert again.size == 11
    again.append(b"!")
    assert again.read(0, 100) == b"Hello world!"
    again.close()


def test_folders_list_rename_and_go(disk: OutboxDisk, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    assert disk.names(folder) == []
    disk.make_folder(folder)
    disk.make_folder(folder)
    disk.open(folder / "y").close()
    disk.open(folder / "x").close()
    assert disk.names(folder) == ["x", "y"]
    disk.rename(folder, tmp_path / "b")
    disk.sync_folder(tmp_path / "b")
    assert (disk.names(folder), disk.names(tmp_path / "b")) == ([], ["x", "y"])
    with pytest.raises(OSError, match="not empty"):
        disk.remove_folder(tmp_path / "b")
    disk.remove(tmp_path / "b" / "x")
    disk.remove(tmp_path / "b" / "x")
    disk.remove(tmp_path / "b" / "y")
    disk.remove_folder(tmp_path / "b")
    assert "b" not in disk.names(tmp_path)
    with pytest.raises(FileNotFoundError):
        disk.open(tmp_path / "b" / "x")


def test_one_at_a_time_has_the_lock(disk: OutboxDisk, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    disk.make_folder(folder)
    assert disk.lock(folder) is None  # there is none to take
    lock = disk.lock(folder, make=True)
    assert lock is not None
    assert disk.lock(folder) is None
    assert disk.lock(folder, make=True) is None
    disk.rename(folder, tmp_path / "b")
    assert disk.lock(tmp_path / "b") is None  # it goes with the folder
    lock.release()
    again = disk.lock(tmp_path / "b")
    assert again is not None
    again.release()
    assert disk.boot_id() == disk.boot_id()
