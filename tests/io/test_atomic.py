"""A write is whole or not there: full disks, killed writers, links, permissions, long names."""

import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bayes_cannon.io import atomic
from bayes_cannon.io.atomic import atomic_path, check_output_path, recover


def write(path: Path, text: str = "new") -> None:
    with atomic_path(path, overwrite=True) as temporary:
        temporary.write_text(text)


def write_store(path: Path, text: str = "new") -> None:
    with atomic_path(path, overwrite=True) as temporary:
        temporary.mkdir()
        (temporary / "zarr.json").write_text(text)


def killed(path: Path, function: str, code: str = "", kind: str = "write") -> None:
    """A process that writes dies by force when it calls a function."""
    script = (
        f"import os, signal, sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"from pathlib import Path; from bayes_cannon.io import atomic; from test_atomic import write, write_store\n"
        f"{code}\n{function} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n{kind}(Path(sys.argv[1]))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=False, env=environment)
    assert done.returncode == -9


def test_what_a_killed_writer_leaves_is_removed_by_the_next_write_into_the_folder(tmp_path):
    write(tmp_path / "a.txt", "old")
    for _ in range(2):
        killed(tmp_path / "a.txt", "atomic._replace")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    write(tmp_path / "b.txt")
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", "b.txt"}


def test_the_folder_of_a_writer_that_lives_stays(tmp_path):
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
        write(tmp_path / "b.txt")
        assert temporary.exists()
    assert (tmp_path / "a.txt").read_text() == "new"
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", "b.txt"}


@pytest.mark.parametrize("exchange", [True, False])
def test_a_store_that_is_replaced_is_never_gone(exchange, tmp_path):
    path = tmp_path / "s.zarr"
    write_store(path, "old")
    if exchange:
        killed(path, "atomic._sync_folder", "atomic._sync = lambda path: None", "write_store")
        assert (path / "zarr.json").read_text() in ("old", "new")
    else:  # A disk on which two names cannot be exchanged in one step.
        code = (
            "atomic._exchange = lambda *_: False; rename = Path.rename\n"
            "def once(self, target):\n    rename(self, target); os.kill(os.getpid(), 9)\n"
            "Path.rename = once"
        )
        killed(path, "atomic.nothing", code, "write_store")
        assert not path.exists()
        assert recover(path) == path
        assert (path / "zarr.json").read_text() == "old"
    write_store(path, "newest")
    assert (path / "zarr.json").read_text() == "newest"
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.zarr"]


def test_a_store_stays_where_it_cannot_be_replaced(tmp_path, monkeypatch):
    path = tmp_path / "s.zarr"
    write_store(path, "old")
    monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda self, to: rename(self, to if self.parent.name[0] != "." else "/no/x"))
    with pytest.raises(OSError, match="No such file"):
        write_store(path)
    monkeypatch.undo()
    write(tmp_path / "b")
    assert (path / "zarr.json").exists()


def test_a_limit_on_the_file_size_is_an_error_that_names_the_file(tmp_path):
    write(tmp_path / "a.txt", "old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"cannot write it: File too large: .*a\.txt"):
            write(tmp_path / "a.txt", "new" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "a").symlink_to(tmp_path / "far" / "b")
    write(tmp_path / "a", "one")
    assert (tmp_path / "far" / "b").read_text() == "one"
    write(tmp_path / "a", "two")
    assert (tmp_path / "a").is_symlink()
    assert (tmp_path / "far" / "b").read_text() == "two"
    (tmp_path / "c").symlink_to(tmp_path / "none" / "b")
    with pytest.raises(FileNotFoundError, match="does not exist; create it"):
        check_output_path(tmp_path / "c", overwrite=True)


def test_permissions_are_those_of_the_file_that_was_there_or_usual_ones(tmp_path):
    write(tmp_path / "a")
    (tmp_path / "usual").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "usual").stat().st_mode
    (tmp_path / "a").chmod(0o640)
    write(tmp_path / "a")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_the_longest_names_can_be_written(tmp_path):
    for name in ("n" * 255, "n" * 250 + ".fits", "." + "n" * 254):
        write(tmp_path / name)
        assert (tmp_path / name).read_text() == "new"


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def refused(self, **_):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(PermissionError, match=r"Permission denied: '.*a\.txt'"):
        write(tmp_path / "a.txt")


def test_errors_of_other_files_stay_as_they_are(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No such file or directory: '.*other'"), atomic_path(tmp_path / "a"):
        (tmp_path / "other").read_text()
