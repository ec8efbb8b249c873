import shutil
import subprocess
from pathlib import Path

MAKEFILE = Path(__file__).parents[1] / "Makefile"


def test_clean_leaves_what_cannot_be_made_again(tmp_path: Path) -> None:
    shutil.copy(MAKEFILE, tmp_path)
    kept = [
        "data/01_raw/.gitkeep",
        "data/01_raw/own/ratings.csv",
        "data/06_models/chat_cache.sqlite",
        "data/03_primary/.gitkeep",
        "data/08_reporting/.gitkeep",
        "mlflow.db",
    ]
    made = [
        "data/03_primary/ml-100k/interactions.parquet/2026-11-20T00.00.00.000Z/interactions.parquet",
        "data/06_models/ml-100k/policy/model.safetensors",
        "data/08_reporting/a file's name.html",
    ]
    for name in [*kept, *made]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)

    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)

    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"Makefile", *kept}
    assert not (tmp_path / "data/03_primary/ml-100k").exists()
