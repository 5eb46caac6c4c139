"""Each case synthesised once, not once an epoch: one completer per process, and a disk cache that workers share."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import numpy.typing as npt

from modfill import __version__
from modfill.atomic import replacing, writable
from modfill.cases.checks import check_grids, check_shape, content_problem
from modfill.cases.reading import Case, case_from_arrays
from modfill.errors import CaseError, WeightsError
from modfill.modalities import BRATS, ModalitySet
from modfill.process import give_back_freed_memory
from modfill.settings import Settings, without_uncertainty

if TYPE_CHECKING:
    import torch

    from modfill.completer import ModalityCompleter

__all__ = ["CompletionCache", "Synthetic", "complete_arrays", "modality_set_of", "shared_completer"]

_DIGEST = 32  # bytes of a SHA-256


@dataclass(frozen=True, eq=False)
class Synthetic:
    """One synthesised modality.

    Attributes:
        volume: (X, Y, Z) on the sources' grid, in the type of the nearest source (float32 unless integer).
        unit_range: the intensities that stand for normalised 0 and 1.
    """

    volume: npt.NDArray
    unit_range: tuple[float, float]


class CompletionCache:
    """A folder of synthesised modalities that any number of processes read and write at the same time.

    An entry appears whole or not at all. Two processes that make the same entry make the same bytes, so the last one
    wins. A damaged entry counts as absent. Entries are never removed: delete the folder to start afresh.

    Args:
        folder: made when the first entry is written.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def path(self, key: str) -> Path:
        """Where an entry lies; `numpy.load` reads it."""
        return self.folder / key[:2] / f"{key}.npz"

    def get(self, key: str) -> Synthetic | None:
        """Read an entry, or return None if there is none or it is damaged.

        Args:
            key: hexadecimal, of at least three digits.
        """
        try:
            content = self.path(key).read_bytes()
        except OSError:
            return None
        body = content[:-_DIGEST]
        if hashlib.sha256(body).digest() != content[-_DIGEST:]:
            return None
        with np.load(io.BytesIO(body), allow_pickle=False) as entry:
            low, high = entry["unit_range"].tolist()
            return Synthetic(entry["volume"], (low, high))

    def put(self, key: str, synthetic: Synthetic) -> None:
        """Write an entry, also over a damaged one.

        Raises:
            ModfillError: the folder cannot be written.
        """
        buffer = io.BytesIO()
        np.savez_compressed(buffer, volume=synthetic.volume, unit_range=np.asarray(synthetic.unit_range, np.float64))
        body = buffer.getvalue()
        path = self.path(key)
        with writable(f"the cache {self.folder}"), replacing(path) as temporary:
            temporary.write_bytes(body + hashlib.sha256(body).digest())


def complete_arrays(
    arrays: Mapping[str, npt.NDArray],
    *,
    affine: npt.ArrayLike | Mapping[str, npt.ArrayLike],
    settings: Settings | None = None,
    case_id: str | None = None,
    targets: str | Sequence[str] | None = None,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
    cache: str | Path | None = None,
) -> dict[str, Synthetic]:
    """Synthesise what a dictionary of arrays lacks, or read it from the cache. The transforms call this.

    The same arrays, affine, weights, settings and case id give the same voxels in every process. Between two
    completions a process keeps little memory but the model's.

    Args:
        arrays: acquired (X, Y, Z) by modality, or a name of it such as "flair", 0 outside the brain.
        affine: 4x4, voxel indices to mm; or one by modality, which must then agree.
        settings: mode, steps, samples and seed, no uncertainty; None takes the defaults.
        case_id: part of the seed and of messages; None takes a name made of the arrays' hash.
        targets: missing modalities; None takes all.
        weights: a file that `modfill train` wrote; None takes the shipped ones.
        device: as in `ModalityCompleter`; not part of the cache's key.
        cache: folder of a `CompletionCache`; None keeps nothing.

    Returns:
        The synthesised modalities, in the order of the weights' set.

    Raises:
        CaseError: the arrays, a target or a setting cannot be used.
        WeightsError: the weights cannot be loaded.
        ModfillError: the device does not exist here, or the cache cannot be written.
    """
    settings = without_uncertainty(settings)
    label = case_id or "without a name"
    known = modality_set_of(weights)
    arrays = known.by_modality(arrays, f"case {label}: modality")
    targets = _targets(arrays, targets, known)
    affine = _checked_affine(label, arrays, affine, known)
    if not targets:
        _require_content(label, arrays)
        return {}
    content = _content_hash(arrays, affine)
    case_id = case_id or f"array-{content[:12]}"
    store = None if cache is None else CompletionCache(cache)
    keys = _keys(content, weights, case_id, settings, targets) if store else {}
    done = {target: entry for target, key in keys.items() if store and (entry := store.get(key)) is not None}
    lacking = [target for target in targets if target not in done]
    if lacking:
        case = case_from_arrays(arrays, affine, case_id, known)
        done |= _synthesise(shared_completer(weights, device), case, lacking, settings)
        del case
        give_back_freed_memory()
    if store:
        for target in lacking:
            store.put(keys[target], done[target])
    return {target: done[target] for target in targets}


def _targets(
    arrays: Mapping[str, npt.NDArray], targets: str | Sequence[str] | None, known: ModalitySet
) -> tuple[str, ...]:
    """The modalities to synthesise, each once, in the order of the set."""
    return known.without(arrays) if targets is None else known.in_order(known.modalities_of(targets, "a target"))


def _checked_affine(
    case_id: str,
    arrays: Mapping[str, npt.NDArray],
    affine: npt.ArrayLike | Mapping[str, npt.ArrayLike],
    known: ModalitySet,
) -> npt.ArrayLike:
    """The affine of all arrays. Raises CaseError for arrays of unusable shapes, and for grids that differ."""
    if isinstance(affine, Mapping):
        affine = known.by_modality(affine, f"case {case_id}: an affine's modality")
    for modality, array in arrays.items():
        check_shape(f"case {case_id}: {modality}", array.shape)
    return _common_affine(case_id, arrays, affine) if isinstance(affine, Mapping) else affine


def _keys(
    content: str, weights: str | Path | None, case_id: str, settings: Settings, targets: Sequence[str]
) -> dict[str, str]:
    """The cache's key of each target: a hash of everything that the voxels depend on."""
    whole = (__version__, content, _weights_hash(_weights_path(weights)), case_id, *asdict(settings).values())
    return {target: _hash([repr((*whole, target)).encode()]) for target in targets}


def _synthesise(
    completer: ModalityCompleter, case: Case, targets: Sequence[str], settings: Settings
) -> dict[str, Synthetic]:
    """Synthesise what is not in the cache. All memory but the result's is free afterwards."""
    completed = completer.complete(case, targets=targets, settings=settings)
    made = {}
    for target, image in completed.images.items():
        low, high = completed.provenance[target]["UnitRange"]
        made[target] = Synthetic(np.asarray(image.dataobj), (low, high))
    return made


_completers: dict[tuple[str, str], ModalityCompleter] = {}
_loaded_by = 0  # the process that filled `_completers`
_loading = threading.Lock()


def _renew_lock() -> None:
    """Replace the lock in a forked process: a thread of the parent that holds it cannot release it there."""
    global _loading
    _loading = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def shared_completer(weights: str | Path | None = None, device: str | torch.device = "cpu") -> ModalityCompleter:
    """This process's completer for these weights and this device, loaded when first asked for and kept.

    Args:
        weights: a file that `modfill train` wrote; None takes the shipped ones. A file that has changed is loaded anew.
        device: as in `ModalityCompleter`.

    Raises:
        WeightsError: the weights cannot be loaded.
        ModfillError: the device does not exist here; in a forked process no GPU does.
    """
    from modfill.completer import ModalityCompleter

    path = _weights_path(weights)
    with _loading:
        _adapt_to_fork()
        key = (_weights_hash(path), str(device))
        if key not in _completers:
            _completers[key] = ModalityCompleter(path, device=device)
        return _completers[key]


def modality_set_of(weights: str | Path | None) -> ModalitySet:
    """The modalities that weights know. Raises WeightsError if the file cannot be read."""
    if weights is None:
        return BRATS
    return _set_in(Path(weights), _weights_hash(Path(weights)))


@lru_cache(maxsize=16)
def _set_in(path: Path, sha256: str) -> ModalitySet:
    from modfill.weights.file import WeightsFile

    return WeightsFile.open(path).preset.modality_set


def _adapt_to_fork() -> None:
    """In a forked process, keep only those completers of the parent that still work.

    The parent's threads do not exist in it, and a convolution that waits for them never ends. The parent's GPU cannot
    be used.
    """
    import torch

    global _loaded_by
    if _completers and _loaded_by != os.getpid():
        torch.set_num_threads(1)
        for key in [key for key, completer in _completers.items() if completer.networks.device.type != "cpu"]:
            del _completers[key]
    _loaded_by = os.getpid()


def _weights_path(weights: str | Path | None) -> Path:
    from modfill.weights.file import SHIPPED

    return SHIPPED if weights is None else Path(weights)


def _weights_hash(path: Path) -> str:
    """SHA-256 of a weights file, taken again only when the file has changed."""
    try:
        status = path.stat()
        return _file_hash(path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        reason = error.strerror or error
        raise WeightsError(
            f"{path}: weights must be a file written by 'modfill train', got '{reason}'; give another one"
        ) from error


@lru_cache(maxsize=16)
def _file_hash(path: Path, modified: int, size: int) -> str:
    return _hash([path.read_bytes()])


def _content_hash(arrays: Mapping[str, npt.NDArray], affine: npt.ArrayLike) -> str:
    """SHA-256 of the voxels with their names, types and shapes, and of the affine."""
    parts: list[bytes | memoryview] = [np.asarray(affine, np.float64).tobytes()]
    for modality in sorted(arrays):
        array = np.ascontiguousarray(arrays[modality])
        parts += [f"{modality} {array.dtype.str} {array.shape}".encode(), array.data.cast("B")]
    return _hash(parts)


def _hash(parts: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _common_affine(
    case_id: str, arrays: Mapping[str, npt.NDArray], affines: Mapping[str, npt.ArrayLike]
) -> npt.ArrayLike:
    """The affine that all arrays share. Raises CaseError where grids differ."""
    images = {
        modality: nib.Nifti1Image(np.broadcast_to(np.uint8(0), array.shape), np.asarray(affines[modality], np.float64))
        for modality, array in arrays.items()
    }  # grids without voxels
    if images:
        check_grids(case_id, images, {modality: modality for modality in images})
    return next(iter(affines.values()), np.eye(4))


def _require_content(case_id: str, arrays: Mapping[str, npt.NDArray]) -> None:
    """Refuse a blank volume. Needed only without a target, since completion checks its sources itself."""
    for modality, array in arrays.items():
        problem = content_problem(array)
        if problem:
            raise CaseError(
                f"case {case_id}: {modality} {problem}; replace it, or leave it out to have {modality} synthesised"
            )
