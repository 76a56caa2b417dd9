"""The snapshot format: round trips, and files that are cut off, damaged, newer or hostile."""

import json
import os
import struct
import subprocess
import sys
import zlib

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.live.synthetic import PRESENT, SWAPPED
from vmviz.live import (
    PageColumns,
    ProcessImage,
    SnapshotError,
    TextColumn,
    VmaRecord,
    VmaTable,
    read_snapshot,
    write_snapshot,
)
from vmviz.live.snapshot import MAGIC, decode, encode, inflate

KB = {"Size": 16, "Rss": 8}
VMAS = (
    VmaRecord(
        0x400000,
        0x404000,
        "r-xp",
        0x1000,
        "fe:00",
        42,
        "/bin/caf\u00e9 \udcff",
        0x75,
        "rd ex mr mw me",
        KB,
        0,
    ),
    VmaRecord(0x404000, 0x408000, "rw-p", 0, "00:00", 0, "", 0x73, "rd wr mr mw me", KB, 3),
    VmaRecord(
        0x700000000000, 0x700000002000, "rw-s", 0, "00:05", 9, "/dev/fb0", 0x44FB, "rd wr sh pf io", KB, 0
    ),
)
IMAGE = ProcessImage(
    pid=77,
    name="caf\u00e9",
    page_size=4096,
    vmas=VmaTable.of(VMAS),
    pages=PageColumns(
        [0x400, 0x403, 0x404],
        [PRESENT | 5, PRESENT | 900, SWAPPED | 0x201],
        [5, 900, 0],
        [0x828, 0x82C, 0],
        [3, 1, 0],
    ),
    cmdline=("a", ""),
    kernel_release="6.1.0",
    taken="2024-01-01T00:00:00Z",
    pfns_visible=True,
    missing_right="",
    warnings=("w",),
    notes=("n",),
    counters={"VmRSS": 12},
    layout={"start_brk": 1},
    unknown_ranges=((0x700000000000, 0x700000002000),),
)
HIDDEN = attrs.evolve(
    IMAGE,
    taken=None,
    pfns_visible=False,
    missing_right="CAP_SYS_ADMIN",
    pages=PageColumns([0x400], [PRESENT], [0]),
)
EMPTY = ProcessImage(1, "", 16384, VmaTable.of([]), PageColumns())


@pytest.mark.parametrize("image", [IMAGE, HIDDEN, EMPTY], ids=["full", "hidden", "empty"])
def test_round_trip(tmp_path, image):
    path = tmp_path / "x.vmsnap"
    write_snapshot(image, path)
    again = read_snapshot(path)
    assert again == image
    assert list(again.vmas) == list(image.vmas)
    assert os.listdir(tmp_path) == ["x.vmsnap"]


def test_images_that_differ_in_one_number_are_not_equal():
    pages = attrs.evolve(IMAGE.pages, count=[3, 1, 1])
    assert attrs.evolve(IMAGE, pages=pages) != IMAGE
    assert attrs.evolve(IMAGE, pages=attrs.evolve(IMAGE.pages, count=None)) != IMAGE


def parts(data):
    at = data.index(b"\n") + 1
    length, _ = struct.unpack_from("<QI", data, at)
    return json.loads(data[at + 12 : at + 12 + length]), data[at + 12 + length :]


def join(header, blobs):
    text = json.dumps(header).encode()
    return MAGIC + b"1\n" + struct.pack("<QI", len(text), zlib.crc32(text)) + text + blobs


def test_the_file_is_as_the_documentation_says():
    header, blobs = parts(encode(IMAGE))
    vpn = next(column for column in header["columns"] if column["name"] == "page.vpn")
    stored = blobs[vpn["offset"] : vpn["offset"] + vpn["stored"]]
    assert zlib.crc32(stored) == vpn["crc32"]
    assert struct.unpack("<3Q", zlib.decompress(stored)) == (0x400, 0x403, 0x404)
    assert join(header, blobs)[: len(MAGIC)] == b"VMVIZ-SNAPSHOT "
    assert decode(join(header, blobs)) == IMAGE


def broken_header(change):
    header, blobs = parts(encode(IMAGE))
    change(header)
    return join(header, blobs)


def column(header, name):
    return next(c for c in header["columns"] if c["name"] == name)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda h: h.update(pid="1"), "pid"),
        (lambda h: h.update(pid=-1), "pid"),
        (lambda h: h.update(pid=1 << 64), "pid"),
        (lambda h: h.update(pid=True), "pid"),
        (lambda h: h.update(pid=1e999), "pid"),
        (lambda h: h.update(name=None), "name"),
        (lambda h: h.update(counters=[1]), "counters"),
        (lambda h: h.update(surprise=1), "surprise"),
        (lambda h: h.pop("texts"), "texts"),
        (lambda h: h.update(texts=[]), "text columns"),
        (lambda h: h.update(page_size=0), "page size"),
        (lambda h: h.update(page_size=4097), "page size"),
        (lambda h: h.update(unknown_ranges=[[1]]), "pairs"),
        (lambda h: h.update(unknown_ranges=[]), "VM_PFNMAP"),
        (
            lambda h: h.update(unknown_ranges=[[0x402000, 0x404000], [0x700000000000, 0x700000002000]]),
            "has pages",
        ),
        (lambda h: h.update(pfns_visible=False), "hidden"),
        (lambda h: h["columns"].pop(), "follow the last column"),
        (lambda h: h["columns"].append(h["columns"][0]), "twice"),
        (lambda h: h["columns"].extend([h["columns"][0]] * 300), "limit of 256"),
        (lambda h: column(h, "vma.end").update(offset=1 << 63), "claims offset"),
        (lambda h: column(h, "vma.end").update(stored=1 << 40), "ends inside"),
        (lambda h: column(h, "vma.end").update(rows=1 << 40), "claims 1099511627776 rows"),
        (lambda h: column(h, "vma.end").update(rows=1 << 20), "claims 1048576 rows"),
        (lambda h: column(h, "vma.end").update(rows=4), "does not unpack"),
        (lambda h: column(h, "vma.end").update(rows=2), "does not unpack"),
        (lambda h: column(h, "vma.end").update(dtype="O"), "not '<u8'"),
        (lambda h: column(h, "vma.end").update(name="vma.what"), "vma.end is missing"),
        (lambda h: column(h, "page.flags").update(name="page.what"), "not known"),
        (lambda h: h["texts"][0].update(values=["rw-p"]), "names text"),
        (lambda h: h["texts"][0].update(values=["x"] * 3), "rwxp"),
    ],
)
def test_hostile_headers(change, match):
    with pytest.raises(SnapshotError, match=match):
        decode(broken_header(change))


def with_vmas(**columns):
    return attrs.evolve(IMAGE, vmas=attrs.evolve(IMAGE.vmas, **columns))


def with_pages(**columns):
    return attrs.evolve(IMAGE, pages=attrs.evolve(IMAGE.pages, **columns))


@pytest.mark.parametrize(
    ("image", "where"),
    [
        (with_vmas(start=[0x400000, 0x403000, 0x700000000000]), "vma.start"),
        (with_vmas(start=[0x404000, 0x400000, 0x700000000000]), "vma.end"),
        (with_vmas(start=[0x400001, 0x404000, 0x700000000000]), "vma.start"),
        (with_vmas(end=[0x404000, 0x408000, 1 << 62]), "vma.end"),
        (with_vmas(end=[0x404000, 0x408000]), "vma.end"),
        (with_vmas(vm_flags=[0x75, 0x71, 0x44FB]), "vma.vm_flags"),
        (with_vmas(smaps={"Rss": [1]}), "vma.smaps.Rss"),
        (with_vmas(dev=TextColumn([0, 0, 9], ("x",))), "vma.dev"),
        (with_pages(vpn=[0x403, 0x400, 0x404]), "page.vpn"),
        (with_pages(vpn=[0x400, 0x400, 0x404]), "page.vpn"),
        (with_pages(vpn=[0x400, 0x403, 0x900]), "page.vpn"),
        (with_pages(vpn=[0x400, 0x403, 0x700000000]), "page.vpn"),
        (with_pages(entry=[5, PRESENT | 900, SWAPPED | 0x201]), "page.entry"),
        (with_pages(pfn=[6, 900, 0]), "page.pfn"),
        (with_pages(count=[1]), "page.count"),
    ],
)
def test_unsound_columns_are_refused_by_writer_and_reader(tmp_path, image, where):
    data = encode(image)
    with pytest.raises(SnapshotError, match=where.replace(".", r"\.")) as caught:
        decode(data)
    assert caught.value.offset is not None
    with pytest.raises(SnapshotError, match="cannot be saved"):
        write_snapshot(image, tmp_path / "x")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("data", "offset", "match"),
    [
        (b"", 0, "no vmviz snapshot"),
        (b"VMVIZ", 0, "cut off"),
        (b"\x80\x04pickle", 0, "no vmviz snapshot"),
        (MAGIC + b"1", 15, "cut off"),
        (MAGIC + b"2\n", 15, "version 2.*newer vmviz"),
        (MAGIC + b"999999999\n", 15, "version 999999999"),
        (MAGIC + b"-1\n", 15, "no version number"),
        (MAGIC + b"1\n" + b"\0" * 5, 22, "ends before the length"),
        (MAGIC + b"1\n" + b"\xff" * 12, 17, "above the limit"),
        (MAGIC + b"1\n" + struct.pack("<QI", 99, 0), 29, "only 0 are there"),
        (MAGIC + b"1\n" + struct.pack("<QI", 1, 0) + b"x", 29, "checksum"),
        (join([], b""), 29, "not of the right form"),
        (MAGIC + b"1\n" + struct.pack("<QI", 3, zlib.crc32(b"{x}")) + b"{x}", 30, "no JSON"),
        (
            MAGIC + b"1\n" + struct.pack("<QI", 1 << 17, zlib.crc32(b"[" * (1 << 17))) + b"[" * (1 << 17),
            29,
            "header",
        ),
    ],
)
def test_broken_beginnings(data, offset, match):
    with pytest.raises(SnapshotError, match=match) as caught:
        decode(data)
    assert caught.value.offset == offset


def test_a_bomb_is_refused_before_it_unpacks():
    header, blobs = parts(encode(IMAGE))
    bomb = zlib.compress(bytes(1 << 24), 9)
    last = header["columns"][-1]
    blobs = blobs[: last["offset"]] + bomb
    last.update(stored=len(bomb), crc32=zlib.crc32(bomb))
    with pytest.raises(SnapshotError, match="does not unpack to its 3 rows"):
        decode(join(header, blobs))


@pytest.mark.parametrize("size", [0, 1, (1 << 16) - 1, 1 << 16, (1 << 16) + 1, 300_000])
@pytest.mark.parametrize("level", [0, 1, 9])
def test_inflate_fills_its_room_exactly(size, level):
    text = np.random.default_rng(size).integers(0, 4, size, np.uint8).tobytes()
    packed, room = zlib.compress(text, level), bytearray(size)
    assert inflate(memoryview(packed), memoryview(room))
    assert room == text
    assert not inflate(memoryview(packed), memoryview(bytearray(size + 1)))
    assert not inflate(memoryview(packed[:-1]), memoryview(room))
    assert not inflate(memoryview(packed + b"x"), memoryview(room))
    if size:
        assert not inflate(memoryview(packed), memoryview(bytearray(size - 1)))


def test_every_truncation_is_an_error():
    data = encode(IMAGE)
    for end in range(len(data)):
        with pytest.raises(SnapshotError):
            decode(data[:end])
    with pytest.raises(SnapshotError, match="1 bytes follow"):
        decode(data + b"x")


GOOD = encode(IMAGE)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_are_an_error_or_the_same_image(changes):
    data = bytearray(GOOD)
    for at, value in changes:
        data[at] = value
    try:
        image = decode(bytes(data))
    except SnapshotError:
        return
    assert image == IMAGE


HEADER, BLOBS = parts(GOOD)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(HEADER)), JSON)
def test_any_json_in_a_well_sealed_header_gives_no_other_exception(key, value):
    try:
        decode(join(HEADER | {key: value}, BLOBS))
    except SnapshotError:
        return


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(HEADER["columns"]) - 1), st.lists(st.integers(0, 2**64 - 1), max_size=4))
def test_any_numbers_in_a_well_sealed_column_give_no_other_exception(index, numbers):
    header = json.loads(json.dumps(HEADER))
    pieces = [BLOBS[c["offset"] : c["offset"] + c["stored"]] for c in header["columns"]]
    pieces[index] = zlib.compress(np.array(numbers, dtype="<u8").tobytes())
    offset = 0
    for one, piece in zip(header["columns"], pieces, strict=True):
        one.update(offset=offset, stored=len(piece), crc32=zlib.crc32(piece))
        offset += len(piece)
    header["columns"][index]["rows"] = len(numbers)
    try:
        decode(join(header, b"".join(pieces)))
    except SnapshotError:
        return


def test_files_that_are_none(tmp_path):
    with pytest.raises(SnapshotError, match="cannot be read"):
        read_snapshot(tmp_path / "none")
    with pytest.raises(SnapshotError, match=r"cannot be read|regular"):
        read_snapshot(tmp_path)
    with pytest.raises(SnapshotError, match="cannot be read"):
        read_snapshot("a\0b")
    with pytest.raises(SnapshotError, match="cannot be written"):
        write_snapshot(IMAGE, tmp_path / "none" / "x")
    with pytest.raises(SnapshotError, match="cannot be written"):
        write_snapshot(IMAGE, tmp_path)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs /dev/zero")
def test_an_endless_device_and_a_pipe_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", tmp_path / "pipe"):
        with pytest.raises(SnapshotError, match="regular"):
            read_snapshot(path)


def test_reading_needs_no_module_of_one_system(tmp_path):
    write_snapshot(IMAGE, tmp_path / "x")
    code = (
        "import sys; sys.modules['fcntl'] = None; sys.modules['resource'] = None; sys.modules['pwd'] = None\n"
        "from vmviz.live import read_snapshot; print(len(read_snapshot(sys.argv[1]).vmas))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x")], capture_output=True, text=True, check=False
    )
    assert out.stdout == "3\n", out.stderr
