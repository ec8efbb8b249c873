import hashlib
import io
import subprocess
import tarfile
import zipfile

import pytest

from flexrec.errors import InputError
from flexrec.sources import fetch
from flexrec.sources.fetch import extract_member, fetch_from_index, read_member, sha256_of

ZEROS = "0" * 64


def write_wheel(folder, name="carrier", version="1.0", content="payload"):
    """A wheel that pip accepts for download, with one file in it."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}/data.txt", content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that serves as the only package index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def test_index_file_is_fetched_once(index, tmp_path, monkeypatch):
    wheel = write_wheel(index)
    raw = tmp_path / "raw"
    path = fetch_from_index("carrier==1.0", sha256_of(wheel), raw)
    assert path == raw / wheel.name
    assert path.read_bytes() == wheel.read_bytes()
    assert list(raw.iterdir()) == [path]  # no scratch folder is left

    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a present file was fetched again"))
    assert fetch_from_index("carrier==1.0", sha256_of(wheel), raw) == path


def test_index_file_with_a_wrong_digest_is_refused(index, tmp_path):
    wheel = write_wheel(index)
    with pytest.raises(InputError) as caught:
        fetch_from_index("carrier==1.0", ZEROS, tmp_path / "raw")
    assert sha256_of(wheel) in str(caught.value)
    assert ZEROS in str(caught.value)
    assert list((tmp_path / "raw").iterdir()) == []


def test_nothing_of_a_wrong_source_distribution_runs(index, tmp_path):
    marker = tmp_path / "it-ran"
    content = f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n".encode()
    with tarfile.open(index / "carrier-1.0.tar.gz", "w:gz") as sdist:
        for name, data in {"setup.py": content, "PKG-INFO": b"Name: carrier\nVersion: 1.0\n"}.items():
            member = tarfile.TarInfo(f"carrier-1.0/{name}")
            member.size = len(data)
            sdist.addfile(member, io.BytesIO(data))
    with pytest.raises(InputError, match="expected " + ZEROS):
        fetch_from_index("carrier==1.0", ZEROS, tmp_path / "raw", source=True)
    assert not marker.exists()


def test_present_file_with_a_wrong_digest_is_refused_and_kept(tmp_path):
    wheel = write_wheel(tmp_path / "raw")
    with pytest.raises(InputError) as caught:
        fetch_from_index("carrier==1.0", ZEROS, tmp_path / "raw")
    assert str(wheel) in str(caught.value)
    assert sha256_of(wheel) in str(caught.value)
    assert ZEROS in str(caught.value)
    assert wheel.exists()


def test_another_version_or_package_is_not_taken_for_the_file(index, tmp_path):
    raw = tmp_path / "raw"
    write_wheel(raw, version="1.0.1")
    write_wheel(raw, name="carrier_two")
    wheel = write_wheel(index)
    assert fetch_from_index("carrier==1.0", sha256_of(wheel), raw).name == "carrier-1.0-py3-none-any.whl"


def test_present_source_distribution_is_used(tmp_path):
    sdist = tmp_path / "some_carrier-1.0.tar.gz"
    sdist.write_bytes(b"an archive")
    assert fetch_from_index("some-carrier==1.0", sha256_of(sdist), tmp_path, source=True) == sdist


def test_missing_package_says_where_to_put_the_file(index, tmp_path):
    with pytest.raises(InputError) as caught:
        fetch_from_index("absent==2.0", ZEROS, tmp_path / "raw")
    for part in ("absent==2.0", ZEROS, str(tmp_path / "raw")):
        assert part in str(caught.value)


@pytest.mark.parametrize("requirement", ["carrier", "carrier>=1.0", "carrier==1.0 --index-url x", "-r==1", ""])
def test_requirement_must_be_exact(requirement, tmp_path):
    with pytest.raises(InputError, match="name==version"):
        fetch_from_index(requirement, ZEROS, tmp_path)


@pytest.fixture(params=["zip", "tar.gz"])
def archive(request, tmp_path):
    path = tmp_path / f"archive.{request.param}"
    content = bytes(range(256)) * 4000
    if request.param == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
            zipped.writestr("inner/file.bin", content)
    else:
        with tarfile.open(path, "w:gz") as tarred:
            member = tarfile.TarInfo("inner/file.bin")
            member.size = len(content)
            tarred.addfile(member, io.BytesIO(content))
    return path, content


def test_member_is_extracted(archive, tmp_path):
    path, content = archive
    target = tmp_path / "out" / "file.bin"
    digest = hashlib.sha256(content).hexdigest()
    assert extract_member(path, "inner/file.bin", target, digest) == target
    assert target.read_bytes() == content
    assert read_member(path, "inner/file.bin") == content
    path.unlink()
    assert extract_member(path, "inner/file.bin", target, digest) == target  # the present file is enough


def test_member_without_a_digest_is_written_again(archive, tmp_path):
    path, content = archive
    target = tmp_path / "out.bin"
    target.write_bytes(b"stale")
    assert extract_member(path, "inner/file.bin", target, None).read_bytes() == content


def test_member_with_a_wrong_digest_is_not_written(archive, tmp_path):
    path, content = archive
    with pytest.raises(InputError) as caught:
        extract_member(path, "inner/file.bin", tmp_path / "out" / "file.bin", ZEROS)
    assert hashlib.sha256(content).hexdigest() in str(caught.value)
    assert ZEROS in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_missing_member_lists_what_there_is(archive):
    with pytest.raises(InputError, match=r"has no member other\.bin; it holds inner/file\.bin"):
        read_member(archive[0], "other.bin")


def test_truncated_archive(archive):
    path, _ = archive
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="truncated, damaged or not an archive"):
        read_member(path, "inner/file.bin")


def test_damaged_member(archive):
    path, _ = archive
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 20] = bytes(20)
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match="truncated, damaged or not an archive"):
        read_member(path, "inner/file.bin")


def test_no_archive_at_all(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_member(tmp_path / "absent.zip", "x")
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(InputError, match="not an archive"):
        read_member(tmp_path / "text.zip", "x")


def test_pip_that_says_nothing_still_gives_a_message():
    assert fetch._pip_reason("") == "pip said nothing."
