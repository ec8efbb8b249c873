"""A thousand seeded mutations of raw files: the right tables, or one clear refusal, and nothing else.

What is right is told by an independent reading of the same files (Python's csv module and float, pyarrow for Parquet).
Whatever a source returns must keep the common tables' rules, every interaction must be a row of the file, rows that are
not there must be counted in `dropped`, and every item, query and daily count must say what its file says.
"""

import collections
import csv

import ibis
import numpy as np
import pytest

from flexrec.errors import InputError
from flexrec.sources import source_of
from raw_readings import check, check_daily, check_items, clear, interactions_of
from raw_worlds import COUNTS, PAIRS, WORLDS, fresh, zipped

VALUES = (
    "", " ", "nan", "NaN", "inf", "-inf", "-1", "-0.0", "0", "1e308", "1e999", "9" * 25, "1.5", "0x10", "1_0", "true",
    "NULL", "x", "é", '"', "'", "\x00", "\x07", "<|im_end|>", "[INST] A B [/INST]", "\u202e", "978300760000",
    "t" * 100_000,
)  # fmt: skip


def mutate_text(data: bytes, separator: bytes, rng: np.random.Generator) -> bytes:
    """One mutation of a delimited file."""
    lines = data.split(b"\n")
    place = int(rng.integers(0, max(1, len(lines) - 1)))
    other = int(rng.integers(0, max(1, len(lines) - 1)))
    at = int(rng.integers(0, len(data) + 1))
    match int(rng.integers(0, 15)):
        case 0:
            return data[:at]
        case 1:
            return b"\n".join(lines[:place] + lines[place + 1 :])
        case 2:
            return b"\n".join([*lines[:place], lines[place], *lines[place:]])
        case 3:
            lines[place], lines[other] = lines[other], lines[place]
            return b"\n".join(lines)
        case 4 | 5 | 6 | 7:
            fields = lines[place].split(separator)
            fields[int(rng.integers(0, len(fields)))] = str(rng.choice(VALUES)).encode("utf-8", "replace")
            lines[place] = separator.join(fields)
            return b"\n".join(lines)
        case 8:
            names = lines[0].split(separator)
            names[int(rng.integers(0, len(names)))] = str(rng.choice(["renamed", "", "user_id", "ITEM_ID"])).encode()
            return b"\n".join([separator.join(names), *lines[1:]])
        case 9:
            fields = lines[place].split(separator)
            del fields[int(rng.integers(0, len(fields)))]
            return b"\n".join([*lines[:place], separator.join(fields), *lines[place + 1 :]])
        case 10:
            flipped = bytearray(data)
            flipped[at % len(data)] ^= 1 << int(rng.integers(0, 8))
            return bytes(flipped)
        case 11:
            piece = rng.choice([b"\x00", b"\xff", b"\xef\xbb\xbf", b'"', b"\n", b"\r", separator, b"\x1b[2J", b"<s>"])
            return data[:at] + bytes(piece) + data[at:]
        case 12:
            text = data.decode("utf-8", "replace")
            return text.encode(str(rng.choice(["utf-16", "utf-8-sig", "utf-32-le", "cp037"])), "replace")
        case 13:
            return data.replace(b"\n", b"\r\n")
        case _:
            return data.replace(separator, bytes(rng.choice([b";", b"|", b"\t"])))


@pytest.fixture(scope="module")
def connection():
    return ibis.duckdb.connect()


@pytest.mark.parametrize("name", WORLDS)
def test_the_files_as_they_are(tmp_path, connection, name) -> None:
    world = WORLDS[name]
    tables = source_of(world.source, world.options).read(world.pack(tmp_path, world.files), connection)
    check(tables, world.naive(world.files), world.dropping, timed=name != "kuairec-sample")
    check_items(tables.items, world.things(world.files))
    if world.daily:
        check_daily(tables, world.daily(world.files))
        assert len(tables.daily_counts) == 4
    assert len(interactions_of(tables)) == len(PAIRS)


@pytest.mark.parametrize("name", WORLDS)
def test_mutations(tmp_path, connection, name) -> None:
    world = WORLDS[name]
    rng = np.random.default_rng([4, sorted(WORLDS).index(name)])
    source = source_of(world.source, world.options)
    outcomes = collections.Counter()
    for turn in range(COUNTS[name]):
        # the interactions are hit half of the time
        victim = next(iter(world.files)) if rng.random() < 0.5 else str(rng.choice(list(world.files)))
        files = {**world.files, victim: mutate_text(world.files[victim], world.separator, rng)}
        raw = world.pack(fresh(tmp_path), files)
        if world.pack is zipped and turn % 10 == 0:
            # and the archive itself
            whole_file = bytearray(raw.read_bytes())
            whole_file[int(rng.integers(0, len(whole_file)))] ^= 1 << int(rng.integers(0, 8))
            raw.write_bytes(whole_file)
        try:
            tables = source.read(raw, connection)
            interactions_of(tables)
        except InputError as error:
            clear(error)
            outcomes["refused"] += 1
            continue
        outcomes["read"] += 1
        try:
            rows, things = world.naive(files), world.things(files)
            daily = world.daily and world.daily(files)
        except (ValueError, KeyError, csv.Error) as error:
            pytest.fail(
                f"mutation {turn} of {victim} was read, but a row of it is unsound: {error!r}\n{files[victim][:400]!r}"
            )
        check(tables, rows, world.dropping, timed=name != "kuairec-sample")
        check_items(tables.items, things)
        if daily:
            check_daily(tables, daily)
    # both happen, so that neither half of the test is idle
    assert min(outcomes["read"], outcomes["refused"]) > 0.15 * COUNTS[name], outcomes


def test_a_thousand() -> None:
    assert sum(COUNTS.values()) >= 1000
