"""The key of an endpoint, through a whole session: it is nowhere in what a run leaves behind."""

import click
import pytest

from embeddings_endpoint import KEY, running_endpoint
from whole_project import WholeProject


@pytest.fixture
def project(fork_server, tmp_path) -> WholeProject:
    return WholeProject(tmp_path / "project", fork_server, tracked=True)


def test_the_key_of_an_endpoint_is_in_no_file_and_no_log(project) -> None:
    with running_endpoint() as endpoint:
        entry = {"kind": "api", "base_url": endpoint.address, "model": "tiny-embedding", "retries": 0}
        project.set("base/parameters_retrieve.yml", embedders={"mine": entry | {"key_variable": "FLEXREC_TEST_KEY"}})
        project.set("test/globals.yml", embedder="mine")
        credentials = project.path / "conf" / "local" / "credentials.yml"
        # refused first: the endpoint answers with the header that it got
        credentials.write_text(f"FLEXREC_TEST_KEY: {KEY[::-1]}\n", encoding="utf-8")
        with pytest.raises(click.ClickException) as refused:
            project.run(to_nodes=["embed_items"])
        assert "the header Bearer [key] is wrong; look at the key in FLEXREC_TEST_KEY" in refused.value.message
        told = [*project.last.lines, refused.value.message]
        credentials.write_text(f"FLEXREC_TEST_KEY: {KEY}\n", encoding="utf-8")
        told += project.run(to_nodes=["embed_items"]).lines
        assert len(endpoint.texts) == len(set(endpoint.texts)) > 0
    credentials.unlink()
    left = [file for file in project.path.rglob("*") if file.is_file() and not file.is_symlink()]
    assert {"item_embeddings.parquet", "mlflow.db", "embedding_cache.sqlite"} <= {file.name for file in left}
    for key in (KEY, KEY[::-1]):
        assert [file for file in left if key.encode() in file.read_bytes()] == []
        assert key not in "\n".join(told)
