"""Files and folders that are replaced only when they are complete, and what a user put beside or into them."""

import contextlib
import errno
import os

import pytest

from jaxsel.integrations.atomic_files import replaced_folder, replaced_when_complete


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    folder = tmp_path / "policy"
    for text in ("one", "two"):
        with replaced_folder(folder) as new:
            (new / "file").write_text(text)
    with pytest.raises(OSError, match=r"cannot write .*policy: No space"), replaced_folder(folder) as new:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert (folder / "file").read_text() == "two"


def test_files_and_folders_of_the_user_beside_a_replaced_one_stay(tmp_path):
    folder, own = tmp_path / "policy", [tmp_path / name for name in ("policy.old", "policy.partial", "state.partial")]
    for path in own[:2]:
        path.mkdir()
        (path / "file").write_text("mine")
    own[2].write_text("mine")
    for text in ("one", "two"):
        with replaced_folder(folder) as new:
            (new / "file").write_text(text)
        with replaced_when_complete(tmp_path / "state.npz") as file:
            file.write(text.encode())
    assert [(path / "file").read_text() for path in own[:2]] == ["mine"] * 2
    assert own[2].read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["policy", "state.npz", *(path.name for path in own)]
    )


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_no_crash_loses_what_the_user_added_to_a_replaced_folder(tmp_path, monkeypatch, kind):
    """Every rename of one call fails in turn, and the next call moves what is left."""
    renames, rename, fails = [], os.replace, 0

    def failing(*paths):
        renames.append(paths)
        if len(renames) == fails:
            raise KeyboardInterrupt  # as a process that ends here
        rename(*paths)

    monkeypatch.setattr(os, "replace", failing)
    for fails in range(1, 7):
        folder = tmp_path / str(fails) / "policy"
        folder.parent.mkdir()
        if kind == "link":
            folder.symlink_to(tmp_path / f"disk-{fails}")
        renames.clear()
        for text in ("one", "two", "three"):
            with contextlib.suppress(KeyboardInterrupt), replaced_folder(folder, own=["part-*"]) as new:
                (new / "sub").mkdir()
                for path in (new / "file", new / f"part-{text}", new / "sub" / "file"):
                    path.write_text(text)
            if text == "one":
                with contextlib.suppress(FileNotFoundError):  # the first call was the one that failed
                    (folder / "sub" / "mine").write_text("mine")
                    (folder / "mine").write_text("mine")
        with replaced_folder(folder, own=["part-*"]) as new:
            (new / "file").write_text("four")
        kept = {"file": "four"} | ({} if fails == 1 else {"mine": "mine"})
        assert {path.name: path.read_text() for path in folder.iterdir() if path.is_file()} == kept
        assert fails == 1 or (folder / "sub" / "mine").read_text() == "mine"
        assert folder.is_symlink() == (kind == "link")
        assert [path.name for path in folder.resolve().parent.glob(".*")] == []
    assert len(renames) > fails  # the failures of all renames of one call were tried
