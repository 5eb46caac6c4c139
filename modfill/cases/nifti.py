"""Read one NIfTI file, once, and within bounds that no header can exceed."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import zlib
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from modfill.cases.checks import check_affine, check_shape, times
from modfill.errors import CaseError

__all__ = ["PLACE", "Unusable", "empty_image", "placed_like", "read_header", "read_image"]

_READ_ERRORS = (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, OverflowError, zlib.error)
_MOST_OFFSET = 2**24  # bytes before the voxels: header and extensions; the largest in use are under a megabyte
_DEFLATE_RATIO = 1032  # largest ratio of unpacked to packed bytes in gzip

PLACE = ("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
         "sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units")  # fmt: skip
"""The fields of a header that place voxels: copied unchanged, even if they are invalid."""


class Unusable(CaseError):
    """One image cannot be used, though its case may be. The message is the reason."""


def read_header(path: Path) -> nib.Nifti1Header:
    """Read a NIfTI header, but neither voxels nor extensions, which may claim any size.

    Raises:
        Unusable: If it is no NIfTI image of real numbers.
    """
    try:
        if path.exists() and not path.is_file():  # a named pipe would block, and a device would never end
            raise Unusable("must be a NIfTI image, got something other than a file")
        with path.open("rb") as file:
            start = _unpacked(file).read(nib.Nifti2Header.sizeof_hdr)
        kinds = (nib.Nifti1Header, nib.Nifti2Header)
        kind = next((kind for kind in kinds if kind.may_contain_header(start)), None)
        if kind is None:
            raise Unusable("must be a NIfTI image, got other content")
        header = kind(start[: kind.sizeof_hdr])
        voxel = header.get_data_dtype()
    except (FileNotFoundError, PermissionError) as error:
        raise Unusable(f"must be a file that can be read, got '{error.strerror}'") from error
    except _READ_ERRORS as error:
        raise Unusable(f"must be a NIfTI image, got something else ({type(error).__name__})") from error
    if voxel.kind not in "iuf":
        raise Unusable(f"must hold one real number per voxel, got {voxel}")
    return header


def empty_image(case_id: str, path: Path, header: nib.Nifti1Header, volumes: int = 0) -> nib.Nifti1Image:
    """An image of zeros on a header's grid, which takes no memory.

    Args:
        case_id: Name of the case, for messages.
        path: The file.
        header: What ``read_header`` returned.
        volumes: How many volumes a 4D file must have; 0 asks for a 3D file.

    Raises:
        CaseError: If it has another number of dimensions or volumes, claims too many voxels, or has an affine that
            cannot be used.
        Unusable: If the header is not valid.
    """
    try:
        with np.errstate(all="ignore"):  # what is not finite is refused below
            shape, affine = header.get_data_shape(), header.get_best_affine()
    except _READ_ERRORS as error:
        raise Unusable(f"must have a NIfTI header that can be read, got one that cannot ({error})") from error
    where = f"case {case_id}: {path.name}"
    while len(shape) > (4 if volumes else 3) and shape[-1] == 1:  # some converters add axes of one voxel
        shape = shape[:-1]
    if volumes and (len(shape) != 4 or shape[3] != volumes):
        raise CaseError(
            f"{where} must be 4D with {volumes} volumes, the number of names in dataset.json, got shape {shape}; "
            "correct one of them"
        )
    check_shape(where, shape[:3] if volumes else shape)
    check_affine(where, affine)
    return _kind(header)(np.broadcast_to(np.float32(0), shape), affine, header)


def read_image(case_id: str, path: Path, header: nib.Nifti1Header, volumes: int = 0) -> tuple[nib.Nifti1Image, str]:
    """Read a file once: its voxels with affine and header, checksum included, and its SHA-256.

    Args:
        case_id: Name of the case, for messages.
        path: The file.
        header: What ``read_header`` returned.
        volumes: How many volumes a 4D file must have; 0 asks for a 3D file.

    Returns:
        The image, its voxels float32 in memory, scaling applied, and the hash of the file as it was read.

    Raises:
        CaseError: As ``empty_image``.
        Unusable: If the file is truncated, corrupt, or much larger than its voxels.
    """
    empty = empty_image(case_id, path, header, volumes)
    shape = empty.shape
    try:
        offset, size = header.get_data_offset(), path.stat().st_size
    except _READ_ERRORS as error:
        raise Unusable(f"must have a NIfTI header that can be read, got one that cannot ({error})") from error
    needed = offset + math.prod(shape) * header.get_data_dtype().itemsize
    if size * _DEFLATE_RATIO < needed:
        raise Unusable(f"must hold {times(shape)} voxels, got a truncated or corrupt file ({size} bytes)")
    if offset > _MOST_OFFSET or size > 1.01 * needed + 2**16:  # gzip adds little to what it cannot compress
        raise Unusable(f"must hold {times(shape)} voxels and little else, got a file of {size} bytes")
    try:
        content = path.read_bytes()
        stream = _unpacked(io.BytesIO(content))
        if not isinstance(stream, gzip.GzipFile) and size < needed:
            raise Unusable(f"must hold {times(shape)} voxels, got a truncated or corrupt file ({size} bytes)")
        stored = ArrayProxy(stream, header, mmap=False)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows becomes infinite, and is refused
            voxels = np.asanyarray(stored, dtype=np.float32).reshape(shape)
        surplus = stream.read(1)  # gzip compares its checksum only when asked to read past the end
    except _READ_ERRORS as error:
        raise Unusable(
            f"must hold {times(shape)} voxels, got a truncated or corrupt file ({type(error).__name__})"
        ) from error
    if surplus:
        raise Unusable(f"must hold {times(shape)} voxels, got more than that; the header may be of another image")
    held = _kind(header)(voxels, empty.affine, header)
    if (stored.slope, stored.inter) != (1.0, 0.0):
        held.set_data_dtype(np.float32)  # scaled integers stand for real numbers
    return held, hashlib.sha256(content).hexdigest()


def placed_like(image: nib.Nifti1Image, other: nib.Nifti1Image) -> nib.Nifti1Image:
    """The voxels of ``image``, not copied, at the place of ``other``, an image of equal shape."""
    header = image.header.copy()
    for name in PLACE:
        header[name] = other.header[name]
    header["pixdim"][:4] = other.header["pixdim"][:4]
    return type(image)(np.asanyarray(image.dataobj), other.affine, header)


def _unpacked(file: BinaryIO) -> BinaryIO | gzip.GzipFile:
    """The file's content, unpacked if its first bytes are gzip's, since its name may be wrong."""
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return gzip.GzipFile(fileobj=file) if packed else file


def _kind(header: nib.Nifti1Header) -> type[nib.Nifti1Image]:
    return nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
