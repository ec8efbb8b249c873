import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from kedro.io import DatasetError, Version
from plotly import graph_objects as go

from flexrec.datasets import FolderDataset, JSONDataset, ParquetDataset, PlotlyDataset, TextDataset, WorkFolder
from flexrec.errors import InputError
from flexrec.files import replacing

TABLE = pd.DataFrame({"a": [1, 2], "b": [[1, 2], [3]]})
FIGURE = go.Figure(go.Bar(x=["a"], y=[1]))


def killed_while(action: Callable[[], None]) -> None:
    """Run `action` in a copy of this process, and see it killed there."""
    if (child := os.fork()) == 0:
        try:
            action()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


def kill_me(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("kind", "value"), [(ParquetDataset, TABLE), (JSONDataset, {"é": [1, None]}), (TextDataset, "é\n")]
)
def test_a_value_comes_back(tmp_path: Path, kind: type, value: Any) -> None:
    dataset = kind(filepath=str(tmp_path / "new" / "folder" / "file"))
    assert not dataset.exists()
    dataset.save(value)
    assert dataset.exists()
    loaded = dataset.load()
    if isinstance(value, pd.DataFrame):
        assert loaded["a"].tolist() == [1, 2]
        assert [np.asarray(item).tolist() for item in loaded["b"]] == [[1, 2], [3]]
    else:
        assert loaded == value
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["file"]


def test_a_figure_comes_back_and_kedro_viz_can_show_it(tmp_path: Path) -> None:
    dataset = PlotlyDataset(filepath=str(tmp_path / "figure.json"))
    dataset.save(FIGURE)
    assert dataset.load() == FIGURE
    assert dataset.preview()["data"][0]["type"] == "bar"
    assert dataset.preview.__annotations__["return"] == "PlotlyPreview"


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    dataset = JSONDataset(filepath=str(tmp_path / "a.json"))
    dataset.save([1])
    with pytest.raises(DatasetError, match="not JSON serializable"):
        dataset.save([2, object()])
    with pytest.raises(DatasetError, match="not JSON compliant"):
        dataset.save([float("nan")])
    assert dataset.load() == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_kill_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    with replacing(file) as out:
        out.write("old")

    def write() -> None:
        with replacing(file) as out:
            out.write("new")
            out.flush()
            kill_me()

    killed_while(write)
    assert file.read_text() == "old"


def test_a_written_file_obeys_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        with replacing(tmp_path / "a", "wb") as out:
            out.write(b"1")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_versions_are_kept_and_the_newest_is_loaded(tmp_path: Path) -> None:
    for version in ("2026-01-01", "2026-01-02"):
        JSONDataset(filepath=str(tmp_path / "a.json"), version=Version(None, version)).save(version)
    dataset = JSONDataset(filepath=str(tmp_path / "a.json"), version=Version(None, "2026-01-03"))
    assert dataset.load() == "2026-01-02"
    dataset.save("2026-01-03")
    assert dataset.load() == "2026-01-03"
    with pytest.raises(DatasetError, match="must not exist"):
        dataset.save("again")
    pinned = JSONDataset(filepath=str(tmp_path / "a.json"), version=Version("2026-01-01", None))
    assert pinned.load() == "2026-01-01"


def test_only_local_files(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="not memory://"):
        JSONDataset(filepath="memory://a.json").save([1])


# --- Folders ---


def write_weights(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "deep").mkdir()
        (folder / "deep" / "weights").write_text(text)

    return write


def test_a_folder_is_made_by_a_function_or_copied(tmp_path: Path) -> None:
    dataset = FolderDataset(filepath=str(tmp_path / "models" / "policy"))
    assert not dataset.exists()
    with pytest.raises(DatasetError, match="does not exist"):
        dataset.load()
    dataset.save(write_weights("1"))
    assert dataset.exists()
    assert dataset.load() == tmp_path / "models" / "policy"
    assert (dataset.load() / "deep" / "weights").read_text() == "1"

    finished = tmp_path / "finished"
    finished.mkdir()
    (finished / "other").write_text("2")
    dataset.save(finished)
    assert [path.name for path in dataset.load().iterdir()] == ["other"]
    assert (finished / "other").exists()
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["policy"]


@pytest.mark.parametrize(
    ("value", "words"),
    [(7, "not from int"), (lambda folder: None, "nothing was written"), (lambda folder: 1 / 0, "division by zero")],
)
def test_a_folder_that_cannot_be_made_leaves_the_old_one(tmp_path: Path, value: Any, words: str) -> None:
    dataset = FolderDataset(filepath=str(tmp_path / "policy"))
    dataset.save(write_weights("1"))
    with pytest.raises(DatasetError, match=words):
        dataset.save(value)
    assert (dataset.load() / "deep" / "weights").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def test_a_kill_leaves_the_old_folder(tmp_path: Path) -> None:
    dataset = FolderDataset(filepath=str(tmp_path / "policy"))
    dataset.save(write_weights("1"))

    def half(folder: Path) -> None:
        (folder / "weights").write_text("half")
        kill_me()

    killed_while(lambda: dataset.save(half))
    assert (dataset.load() / "deep" / "weights").read_text() == "1"


def test_a_kill_leaves_no_new_version(tmp_path: Path) -> None:
    FolderDataset(filepath=str(tmp_path / "policy"), version=Version(None, "1")).save(write_weights("1"))

    def half(folder: Path) -> None:
        (folder / "weights").write_text("half")
        kill_me()

    killed_while(lambda: FolderDataset(filepath=str(tmp_path / "policy"), version=Version(None, "2")).save(half))
    dataset = FolderDataset(filepath=str(tmp_path / "policy"), version=Version(None, "3"))
    assert dataset.load() == tmp_path / "policy" / "1" / "policy"
    dataset.save(write_weights("3"))
    assert dataset.load() == tmp_path / "policy" / "3" / "policy"
    assert "policy" in repr(dataset)


# --- Work folder ---


def test_a_work_folder_is_kept_for_one_fingerprint(tmp_path: Path) -> None:
    def bound(fingerprint: str, wipe: bool = False) -> tuple[WorkFolder, bool]:
        work = WorkFolder(filepath=str(tmp_path / "work"))
        resumes = work.bind(fingerprint, wipe=wipe)
        work.release()
        return work, resumes

    work, resumes = bound("1")
    assert not resumes
    (work.load() / "step_1").write_text("")
    work, resumes = bound("1")
    assert resumes
    assert (work.load() / "step_1").exists()
    work, resumes = bound("1", wipe=True)
    assert not resumes
    (work.load() / "step_1").write_text("")
    work, resumes = bound("2")
    assert not resumes
    assert not (work.load() / "step_1").exists()
    work.clear()
    assert not (tmp_path / "work").exists()


def test_a_work_folder_knows_what_earlier_attempts_took(tmp_path: Path) -> None:
    def attempt() -> WorkFolder:
        work = WorkFolder(filepath=str(tmp_path / "work"))
        work.bind("1")
        work.release()
        return work

    def touched(file: Path, time: float) -> None:
        file.write_text(file.read_text() if file.exists() else "")
        os.utime(file, (time, time))

    folder = attempt().load()
    touched(folder / ".seconds", 1000.0)
    (folder / "checkpoint-5").mkdir()
    touched(folder / "checkpoint-5" / "weights", 1060.0)
    # nothing is written between its last checkpoint and the kill
    assert attempt().seconds == 60.0
    touched(folder / ".seconds", 2000.0)
    touched(folder / "checkpoint-5" / "weights", 2007.5)
    assert attempt().seconds == 67.5
    # an attempt that wrote nothing
    touched(folder / ".seconds", 3000.0)
    last = attempt()
    assert last.seconds == 67.5
    last.bind("2")
    assert last.seconds == 0.0


def test_two_runs_do_not_work_in_one_folder(tmp_path: Path) -> None:
    first, second = (WorkFolder(filepath=str(tmp_path / "work")) for _ in range(2))
    first.bind("1")
    (first.load() / "step_1").write_text("")
    with pytest.raises(InputError, match=r"another run is at work in .*work; wait for it"):
        second.bind("2")
    assert (first.load() / "step_1").exists()
    first.release()
    second.bind("2")
    assert not (second.load() / "step_1").exists()
    # whatever ends a process lets go
    second.release()
    killed_while(lambda: kill_me(first.bind("2")))
    assert not second.bind("2")
    # nothing is left of it
    second.clear()
    second.release()
    assert not list(tmp_path.iterdir())


def test_a_work_folder_without_its_marker_is_emptied(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "step_1").write_text("")
    work = WorkFolder(filepath=str(tmp_path / "work"))
    assert not work.bind("1")
    assert not (work.load() / "step_1").exists()


def test_a_work_folder_belongs_to_the_runner(tmp_path: Path) -> None:
    work = WorkFolder(filepath=str(tmp_path / "work"))
    assert work.exists()
    assert "work" in repr(work)
    with pytest.raises(DatasetError, match="only be used by a node that FingerprintRunner runs"):
        work.load()
    with pytest.raises(DatasetError, match="never an output"):
        work.save(1)  # type: ignore[arg-type]


def test_a_text_is_utf_8_with_plain_line_ends(tmp_path: Path) -> None:
    JSONDataset(filepath=str(tmp_path / "a.json"), save_args={"indent": None}).save({"é": 1})
    assert (tmp_path / "a.json").read_bytes() == '{"é": 1}'.encode()
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"é": 1}
