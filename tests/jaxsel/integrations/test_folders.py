"""Linked folders: each is searched once, under its own path if it has one, and loops end."""

from jaxsel.integrations.folders import everything_below
from jaxsel.integrations.trainer_logs import read_logs


def test_links_are_followed_and_every_folder_is_searched_once(tmp_path):
    inside, outside = tmp_path / "data", tmp_path / "outside"
    (inside / "train" / "own").mkdir(parents=True)
    (outside / "deep").mkdir(parents=True)
    for folder in (inside, inside / "train" / "own", outside / "deep"):
        (folder / "a.txt").touch()
    links = {"again": inside / "train", "far": outside, "farther": outside, "gone": tmp_path / "gone", "up": inside}
    for name, target in links.items():
        (inside / name).symlink_to(target)
    (outside / "back").symlink_to(inside)
    (inside / "b.txt").symlink_to(outside / "deep" / "a.txt")
    found = [str(path.relative_to(inside)) for path in everything_below(inside) if path.is_file()]
    assert found == ["a.txt", "b.txt", "far/deep/a.txt", "train/own/a.txt"]
    assert {str(path.relative_to(inside)) for path in everything_below(inside)} >= {*links, "train/own", "far/back"}
    assert everything_below(tmp_path / "gone") == []


def test_logs_in_linked_folders_are_read(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "step_0.jsonl").write_text('{"prompt": "a", "reward": 1.0, "step": 0}\n' * 2)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "rank").symlink_to(tmp_path / "far")
    found = read_logs(tmp_path / "logs", prompt="prompt", reward="reward", step="step")
    assert found.history.successes.tolist() == [2]
