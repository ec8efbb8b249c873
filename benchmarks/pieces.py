"""A large file in pieces and back, checked by SHA-256: for machines that take little at a time.

    python benchmarks/pieces.py split FILE --size 60MB DIR     FILE.000, FILE.001, ... and FILE.json into DIR
    python benchmarks/pieces.py join DIR FILE                  the file again, refused if a byte differs

Needs Python alone. A folder is packed into one file first: `tar -cf model.tar -C folder .`
"""

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def main(arguments: list[str] | None = None) -> None:
    """Split or join."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = made.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("split")
    one.add_argument("file", type=Path)
    one.add_argument("folder", type=Path)
    one.add_argument("--size", type=size_in_bytes, default="60MB", help="of a piece: 60MB, 64MiB, ...")
    other = verbs.add_parser("join")
    other.add_argument("folder", type=Path)
    other.add_argument("file", type=Path)
    options = made.parse_args(arguments)
    try:
        if options.verb == "split":
            count = split(options.file, options.folder, options.size)
            print(f"{options.file.name}: {count} pieces in {options.folder}")
        else:
            join(options.folder, options.file)
            print(f"{options.file}: whole, as its SHA-256 says")
    except (OSError, ValueError) as error:
        sys.exit(str(error))


def size_in_bytes(text: str) -> int:
    """`60MB` is 60,000,000 bytes, `64MiB` 67,108,864."""
    digits = text.rstrip("BbKkMmGgIi")
    unit = text[len(digits) :].upper()
    if not digits.isdecimal() or int(digits) == 0 or unit not in UNITS:
        raise argparse.ArgumentTypeError(f"'{text}' is no size; write for instance 60MB or 64MiB")
    return int(digits) * UNITS[unit]


def split(file: Path, folder: Path, size: int) -> int:
    """Write the pieces of a file, and what is needed to check them; the number of pieces.

    Args:
        file: Any file.
        folder: Where the pieces go; made if absent.
        size: Most bytes of a piece, at least 1.
    """
    folder.mkdir(parents=True, exist_ok=True)
    whole, pieces, total = hashlib.sha256(), [], 0
    with file.open("rb") as source:
        while content := source.read(size):
            name = f"{file.name}.{len(pieces):03d}"
            (folder / name).write_bytes(content)
            pieces.append({"file": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()})
            whole.update(content)
            total += len(content)
    manifest = {"file": file.name, "size": total, "sha256": whole.hexdigest(), "pieces": pieces}
    # the manifest last: a folder without one is not whole
    (folder / f"{file.name}.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return len(pieces)


def join(folder: Path, file: Path) -> None:
    """Put a file together again.

    Args:
        folder: The pieces of one file, with its manifest.
        file: What to write; it appears only once all of it is right.

    Raises:
        ValueError: Not one manifest, a piece that is missing or differs, or a whole that differs.
    """
    manifests = sorted(folder.glob("*.json"))
    if len(manifests) != 1:
        raise ValueError(
            f"{folder} holds {len(manifests)} manifests (*.json) instead of one: give each file its folder"
        )
    manifest = json.loads(manifests[0].read_text())
    if any(Path(piece["file"]).name != piece["file"] for piece in manifest["pieces"]):
        raise ValueError(f"{manifests[0]} names a piece outside its folder: split the file again")
    missing = [piece["file"] for piece in manifest["pieces"] if not (folder / piece["file"]).exists()]
    if missing:
        raise ValueError(
            f"{folder}: {len(missing)} of {len(manifest['pieces'])} pieces are missing: {', '.join(missing)}"
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    whole = hashlib.sha256()
    try:
        with partial.open("wb") as target:
            for piece in manifest["pieces"]:
                content = (folder / piece["file"]).read_bytes()
                if hashlib.sha256(content).hexdigest() != piece["sha256"]:
                    raise ValueError(f"{folder / piece['file']} differs from what was split: bring it over again")
                whole.update(content)
                target.write(content)
        if whole.hexdigest() != manifest["sha256"]:
            raise ValueError(f"the pieces in {folder} do not make {manifest['file']}: split it again")
        os.replace(partial, file)  # noqa: PTH105  (the name says what it is for)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
