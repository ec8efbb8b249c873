from pathlib import Path

import pytest
from click.testing import CliRunner

from flexrec.export import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "nope"], "check `--env`"),
        (["--params", "dataset=x"], "unknown dataset 'x'. Allowed: ml-100k"),
        (["--params", "rl.stepz=2"], "unknown parameter `rl.stepz`. Did you mean `rl.steps`?"),
    ],
)
def test_a_mistake_is_told_once(project_root: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(main, [str(tmp_path / "out"), "--project", str(project_root), *arguments])
    assert done.exit_code == 1
    assert done.output.startswith("Error: ")
    assert message in done.output
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_project(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, [str(tmp_path / "out"), "--project", str(tmp_path)])
    assert done.exit_code == 1
    assert done.output.startswith(f"Error: {tmp_path} is no project; start the command in its folder, or name it with")
