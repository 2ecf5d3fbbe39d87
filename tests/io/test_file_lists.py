"""Which files are meant."""

import pytest

from bayes_cannon.io.file_lists import list_files


@pytest.fixture
def folder(tmp_path):
    for name in ("b.fits", "a.fits", "sub/c.fits", ".hidden", ".cache/d.fits", "s.zarr/zarr.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    return tmp_path


def test_a_folder_is_all_its_files_sorted_but_for_hidden_ones(folder):
    found = [path.relative_to(folder).as_posix() for path in list_files(folder)]
    assert found == ["a.fits", "b.fits", "s.zarr", "sub/c.fits"]


def test_files_keep_their_order_and_need_not_exist(folder):
    assert list_files([folder / "b.fits", folder / "no.fits", folder / "a.fits"]) == [
        folder / "b.fits", folder / "no.fits", folder / "a.fits",
    ]  # fmt: skip


def test_patterns_and_lists(folder):
    assert list_files(f"{folder}/*.fits") == [folder / "a.fits", folder / "b.fits"]
    assert list_files(f"{folder}/**/c.fits") == [folder / "sub/c.fits"]
    (folder / "list.txt").write_text(f"# mine\n{folder}/b.fits\n\n  {folder}/sub  \n")
    assert list_files(f"@{folder}/list.txt") == [folder / "b.fits", folder / "sub/c.fits"]


def test_a_file_whose_name_begins_like_a_list_is_a_file(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "@home.fits").write_text("")
    assert [path.name for path in list_files("@home.fits")] == ["@home.fits"]


def test_a_store_is_a_file(folder):
    assert list_files(folder / "s.zarr") == [folder / "s.zarr"]


@pytest.mark.parametrize(
    ("named", "kind", "said"),
    [
        ("*.fit", FileNotFoundError, "no file fits the pattern"),
        ("@no.txt", FileNotFoundError, "there is no list of files"),
        ("empty", FileNotFoundError, "holds no files"),
        ("@nested.txt", ValueError, "names another list"),
        ("@latin.txt", ValueError, "is no text in UTF-8"),
        ([], ValueError, "there are no files"),
        (["a.fits", "a.fits"], ValueError, "is named twice"),
    ],
)
def test_errors_name_what_is_wrong(folder, monkeypatch, named, kind, said):
    monkeypatch.chdir(folder)
    (folder / "empty").mkdir()
    (folder / "nested.txt").write_text("@latin.txt")
    (folder / "latin.txt").write_bytes(b"\xe4.fits")
    with pytest.raises(kind, match=said):
        list_files(named)
