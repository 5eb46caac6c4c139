"""Damaged and hostile case folders, each made again by its number: `python -m tests.fuzz NUMBER FOLDER`."""

from __future__ import annotations

import gzip
import json
import struct
import sys
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np

from tests.case_files import brain_volumes, oblique_affine, save

SHAPE = (14, 16, 12)
TARGET = "t1c"
Random = np.random.Generator
EXTREMES = (0, 1, -1, 2, 7, 127, 255, 351, 353, 2**15 - 1, 2**15, 2**31 - 1, 2**31, 2**62, -(2**31), 1e-45, 1e30,
            3e38, float("nan"), float("inf"), float("-inf"))  # fmt: skip


@cache
def valid(kind: int) -> bytes:
    """An intact image, not packed: NIfTI-1 or 2, of either byte order, of several data types, with extensions."""
    volume = brain_volumes(SHAPE)["t2w"]
    dtype = (np.int16, np.float32, np.uint8, np.float64, np.uint16, np.int32)[kind % 6]
    volume = (volume // 8 if dtype == np.uint8 else volume).astype(dtype)
    make = nib.Nifti2Image if kind % 5 == 4 else nib.Nifti1Image
    image = make(volume, oblique_affine())
    image.set_qform(oblique_affine(), 1)
    if kind % 3 == 1:
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"words " * 40))
    if kind % 4 == 3:
        image.header.set_slope_inter(0.5, 0)
    if kind % 2 == 1:
        image = make(volume, oblique_affine(), image.header.as_byteswapped())
    return image.to_bytes()


@cache
def bomb() -> bytes:
    """A gzip member of 64 KiB that unpacks to 64 MiB of zeros."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(64)) + packer.flush()


def _sizes(raw: bytes) -> tuple[nib.Nifti1Header, int]:
    kind = nib.Nifti2Header if raw[:4] in (struct.pack("<i", 540), struct.pack(">i", 540)) else nib.Nifti1Header
    return kind(raw[: kind.sizeof_hdr], check=False), kind.sizeof_hdr


def _with_field(raw: bytes, name: str, index: int | None, value: float) -> bytes:
    header, size = _sizes(raw)
    field = header.structarr[name]
    with np.errstate(all="ignore"):
        number = np.array([value], np.float64).astype(np.int64) if field.dtype.kind in "iu" else np.array([value])
        fitted = number.astype(field.dtype)[0]
    if index is None:
        header.structarr[name] = fitted
    else:
        field[index % field.size] = fitted
    return header.binaryblock + raw[size:]


def header_bits(rng: Random, raw: bytes) -> bytes:
    changed = bytearray(raw)
    for place in rng.integers(0, _sizes(raw)[1], rng.integers(1, 20)):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def header_field(rng: Random, raw: bytes) -> bytes:
    fields = [name for name, (kind, _) in _sizes(raw)[0].structarr.dtype.fields.items() if kind.base.kind in "iuf"]
    for name in rng.choice(fields, rng.integers(1, 4)):
        field = _sizes(raw)[0].structarr[name]
        index = int(rng.integers(field.size)) if field.ndim else None
        raw = _with_field(raw, str(name), index, EXTREMES[rng.integers(len(EXTREMES))])
    return raw


def dimensions(rng: Random, raw: bytes) -> bytes:
    for _ in range(rng.integers(1, 4)):
        raw = _with_field(raw, "dim", int(rng.integers(5)), EXTREMES[rng.integers(len(EXTREMES))])
    return raw


def affine(rng: Random, raw: bytes) -> bytes:
    row = f"srow_{'xyz'[rng.integers(3)]}"
    value = EXTREMES[rng.integers(len(EXTREMES))] if rng.random() < 0.6 else 10 ** rng.uniform(-4, 4)
    raw = _with_field(raw, row, int(rng.integers(4)), value)
    if rng.random() < 0.5:
        raw = _with_field(raw, "sform_code", None, 0)
        for name in ("quatern_b", "quatern_c", "qoffset_x"):
            raw = _with_field(raw, name, None, EXTREMES[rng.integers(len(EXTREMES))])
        raw = _with_field(raw, "pixdim", int(rng.integers(4)), 10 ** rng.uniform(-4, 4))
    return raw


def scaling(rng: Random, raw: bytes) -> bytes:
    raw = _with_field(raw, "scl_slope", None, EXTREMES[rng.integers(len(EXTREMES))])
    return _with_field(raw, "scl_inter", None, EXTREMES[rng.integers(len(EXTREMES))])


def offset(rng: Random, raw: bytes) -> bytes:
    raw = _with_field(raw, "vox_offset", None, float(rng.choice([0, 16, 348, 352.5, 1e3, 1e6, 2e7, 2e9, 1e18, 1e38])))
    size = _sizes(raw)[1]
    extension = struct.pack("<4sii", b"\1\0\0\0", int(rng.choice([0, -16, 8, 16, 2**20, 2**31 - 1])), 6)
    return raw[:size] + extension + raw[size + 12 :]


def payload(rng: Random, raw: bytes) -> bytes:
    header, _ = _sizes(raw)
    start = int(header["vox_offset"])
    changed = bytearray(raw)
    kind = rng.integers(4)
    if kind == 0:
        changed[start:] = rng.bytes(len(raw) - start)
    elif kind == 1:
        changed[start:] = bytes([rng.integers(256)]) * (len(raw) - start)
    elif kind == 2:
        for place in rng.integers(start, len(raw), 30):
            changed[place] ^= 1 << int(rng.integers(8))
    else:
        with np.errstate(all="ignore"):
            value = np.array([EXTREMES[-1 - rng.integers(5)]]).astype(header.get_data_dtype().newbyteorder("="))
        place = start + int(rng.integers((len(raw) - start) // value.itemsize)) * value.itemsize
        changed[place : place + value.itemsize] = value.astype(header.get_data_dtype()).tobytes()
    return bytes(changed)


def longer(rng: Random, raw: bytes) -> bytes:
    return raw + rng.bytes(int(rng.integers(1, 5000)))


def shorter(rng: Random, raw: bytes) -> bytes:
    return raw[: rng.integers(len(raw))]


def something_else(rng: Random, raw: bytes) -> bytes:
    others = (b"", b"\x1f\x8b", b"\x89PNG\r\n\x1a\n" + raw, b"PK\x03\x04" + raw, b"[" * 50_000, rng.bytes(3000),
              "scan \N{BRAIN}\n".encode() * 99, b"\x80\x04" + raw, raw[::-1], b"\0" * 5000)  # fmt: skip
    return others[rng.integers(len(others))]


def unchanged(rng: Random, raw: bytes) -> bytes:
    return raw


INSIDE: tuple[Callable[[Random, bytes], bytes], ...] = (
    header_bits, header_field, dimensions, affine, scaling, offset, payload, longer, shorter, something_else, unchanged,
)  # fmt: skip


def packed(rng: Random, raw: bytes) -> bytes:
    """gzip around it, intact in half of all cases."""
    whole = gzip.compress(raw, 1)
    kind = rng.integers(14)
    if kind == 0:
        return whole[: rng.integers(len(whole))]
    if kind == 1:
        return whole + whole
    if kind == 2:
        return whole + rng.bytes(int(rng.integers(1, 200)))
    if kind == 3:
        half = len(raw) // 2
        return gzip.compress(raw[:half], 1) + gzip.compress(b"") * int(rng.integers(300)) + gzip.compress(raw[half:], 1)
    if kind == 4:
        changed = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 5)):
            changed[place] ^= 1 << int(rng.integers(8))
        return bytes(changed)
    if kind == 5:
        return gzip.compress(raw[: len(raw) // 2], 1) + bomb()
    if kind == 6:
        return whole + bomb() * int(rng.integers(1, 4))
    return whole


def sidecar(rng: Random) -> bytes:
    """What may lie where a sidecar is looked for."""
    note = {"Synthetic": True, "UnitRange": [0, 1], "VoxelSHA256": [rng.integers(9).item()], "SourceImages": None}
    others = (b"[" * 200_000, b'{"a":' * 50_000, b"\xff\xfe", json.dumps(note).encode(), b"null", rng.bytes(200),
              b'{"Synthetic": true, "UnitRange": 1e999}')  # fmt: skip
    return others[rng.integers(len(others))]


def write_input(number: int, folder: Path) -> str:
    """Write case folder and output folder number `number` into an empty folder; returns what was done to it."""
    rng = np.random.default_rng(number)
    change = INSIDE[rng.integers(len(INSIDE))]
    raw = change(rng, valid(int(rng.integers(60))))
    zipped = bool(rng.random() < 0.7)
    name = f"p1-t2w.nii{'.gz' if zipped else ''}"
    (folder / "in").mkdir()
    (folder / "in" / name).write_bytes(packed(rng, raw) if zipped else raw)
    beside = rng.random()
    if beside < 0.5:
        save(folder / "in" / "p1-t1n.nii.gz", brain_volumes(SHAPE)["t1n"])
    if beside < 0.1:
        (folder / "in" / "p1-t2w.json").write_bytes(sidecar(rng))
    if 0.4 < beside < 0.6:
        (folder / "out" / "p1").mkdir(parents=True)
        (folder / "out" / "p1" / f"p1-{TARGET}.json").write_bytes(sidecar(rng))
        if rng.random() < 0.5:
            (folder / "out" / "p1" / f"p1-{TARGET}.nii.gz").write_bytes(packed(rng, raw))
    return f"{number}: {change.__name__}, {name}"


def damaged_weights(number: int, whole: bytes) -> bytes:
    """A weights file with bits flipped, a part lost, a part doubled, or numbers of its preset made large."""
    rng = np.random.default_rng(number)
    kind = rng.integers(5)
    header = 8 + int.from_bytes(whole[:8], "little")
    if kind == 0:
        return whole[: rng.integers(len(whole))]
    if kind == 1:
        return whole + rng.bytes(int(rng.integers(1, 100)))
    changed = bytearray(whole)
    if kind == 4:  # one digit of the preset
        digits = [place for place in range(8, header) if chr(whole[place]).isdigit()]
        changed[digits[rng.integers(len(digits))]] = ord(str(rng.integers(10)))
    else:
        first, last = ((0, header), (header, len(whole)))[kind - 2]
        for place in rng.integers(first, last, rng.integers(1, 4)):
            changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


if __name__ == "__main__":
    target = Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)
    print(write_input(int(sys.argv[1]), target))
