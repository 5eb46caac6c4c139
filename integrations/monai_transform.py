"""MONAI dictionary transforms: data that lack a modality become complete; modalities are dropped at random."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from modfill.integrations.availability import (
    ACQUIRED,
    acquired_mask,
    acquired_only,
    choose_dropped,
    count_range,
    of_synthetic_file,
)
from modfill.integrations.cache import Synthetic, complete_arrays, modality_set_of

from modfill.cases.filenames import nifti_stem
from modfill.errors import CaseError, ModfillError
from modfill.modalities import ModalitySet
from modfill.settings import Settings, numbered_samples, without_uncertainty

try:
    from monai.config import KeysCollection
    from monai.data import MetaTensor
    from monai.transforms import MapTransform, RandomizableTransform
except ImportError as error:
    raise ModfillError("The MONAI transforms need MONAI: pip install 'monai>=1.4'") from error

__all__ = ["CompleteModalitiesd", "RandCompleteModalitiesd", "RandModalityDropoutd"]


class CompleteModalitiesd(MapTransform):
    """Add the modalities that the data lack, synthesised from those they have.

    With one key per modality, each a MetaTensor (1, X, Y, Z), a modality is missing when its key is absent or None;
    load with `allow_missing_keys=True`. With a single key, a MetaTensor (C, X, Y, Z) of stacked modalities, a modality
    is missing when its channel is all zero. An added image has the nearest source's type and metadata, and a file name
    of its own. The data also receive `acquired_modalities`: a bool tensor in the order of the weights' modalities
    (t1n, t1c, t2w, t2f), true where the image was acquired. An image that this mask marks as synthetic, or whose file
    modfill wrote, is never a source.

    Put it before normalisation: the background must be 0. It is not random, so `CacheDataset` keeps its result.
    `PersistentDataset` keeps it even if the weights change. A cache folder, which all workers and runs share, has
    separate entries for different weights. The noise depends on seed, data and target only. The data are identified by
    their `subject_id`, if they have one, or by their voxels.

    Args:
        keys: one key per modality, or the one key of a stack; None takes the modalities' names.
        modalities: which modality each key, or each channel of the stack, is; None takes the order of the weights.
        weights: a file that `modfill train` wrote; None takes the shipped ones.
        cache: folder of completed images, shared by all workers and runs; None keeps nothing.
        settings: mode, steps and seed; None takes the defaults.
        device: "cpu", or a GPU, which workers can use only if they are spawned.

    Raises:
        ModfillError: an argument cannot be used; on a call, CaseError if the data cannot be completed.
    """

    def __init__(
        self,
        keys: KeysCollection | None = None,
        *,
        modalities: Sequence[str] | None = None,
        weights: str | Path | None = None,
        cache: str | Path | None = None,
        settings: Settings | None = None,
        device: str | torch.device = "cpu",
    ):
        known = modality_set_of(weights)
        super().__init__(known.names if keys is None else keys, allow_missing_keys=True)
        self.modalities = _modalities_of(self.keys, modalities, known)
        self.settings = without_uncertainty(settings)
        self.weights, self.cache, self.device = weights, cache, str(device)

    @property
    def modality_set(self) -> ModalitySet:
        """The modalities that the weights know."""
        return modality_set_of(self.weights)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Complete one dictionary; the given one and its images stay as they are."""
        completed = dict(data)
        stacked = len(self.keys) == 1
        present = self._channels(data) if stacked else self._images(data)
        sources = acquired_only(present, data.get(ACQUIRED), _label(data), self.modality_set)
        if not stacked:  # a stack has the metadata of one of its channels
            sources = {modality: image for modality, image in sources.items() if not _from_synthetic_file(image)}
        if not sources:
            raise _nothing_acquired(data, self.keys, ", ".join(f"synthetic {modality}" for modality in present))
        made = complete_arrays(
            {m: _array(volume) for m, volume in sources.items()},
            affine={m: volume.affine.cpu().numpy() for m, volume in sources.items()},
            settings=self.settings,
            case_id=str(data["subject_id"]) if "subject_id" in data else None,
            targets=[modality for modality in self.modalities if modality not in present],
            weights=self.weights,
            device=self.device,
            cache=self.cache,
        )
        if stacked:
            image = data[self.keys[0]].clone()
            for modality, synthetic in made.items():
                image[self.modalities.index(modality)] = torch.from_numpy(synthetic.volume).to(image)
            completed[self.keys[0]] = image
        else:
            for modality, synthetic in made.items():
                like = sources[self.modality_set.nearest_source(modality, sources)]
                completed[self.keys[self.modalities.index(modality)]] = _meta_tensor(synthetic, modality, like)
        completed[ACQUIRED] = acquired_mask(sources, self.modality_set)
        return completed

    def _images(self, data: Mapping[Hashable, Any]) -> dict[str, MetaTensor]:
        """The images (1, X, Y, Z) that are there, by modality."""
        found = {}
        for key, modality in zip(self.keys, self.modalities, strict=True):
            if data.get(key) is not None:
                found[modality] = _require(data, key, 1, "its one channel")
        return found

    def _channels(self, data: Mapping[Hashable, Any]) -> dict[str, MetaTensor]:
        """The channels (1, X, Y, Z) of the stack that are not all zero, by modality."""
        count, names = len(self.modalities), ", ".join(self.modalities)
        if data.get(self.keys[0]) is None:
            raise _no_stack(data, self.keys[0])
        image = _require(data, self.keys[0], count, f"a channel for each of {names}, all zero where it is missing")
        channels = {m: cast(MetaTensor, image[i : i + 1]) for i, m in enumerate(self.modalities)}
        return {modality: channel for modality, channel in channels.items() if channel.any()}


class RandCompleteModalitiesd(RandomizableTransform, MapTransform):
    """Add the modalities that the data lack as one of several plausible images, drawn anew on each call.

    It is an augmentation: what the sources leave open differs between epochs. Being random, it is not kept by
    `CacheDataset`; with a cache folder each plausible image is synthesised once.

    Args:
        keys, modalities, weights, cache, device: as in `CompleteModalitiesd`.
        num_samples: plausible images that each case has.
        settings: steps and the first seed of the samples; None takes the defaults.

    Raises:
        ModfillError: an argument cannot be used; on a call, CaseError if the data cannot be completed.
    """

    def __init__(
        self,
        keys: KeysCollection | None = None,
        *,
        num_samples: int = 8,
        settings: Settings | None = None,
        modalities: Sequence[str] | None = None,
        weights: str | Path | None = None,
        cache: str | Path | None = None,
        device: str | torch.device = "cpu",
    ):
        self.choices = [
            CompleteModalitiesd(
                keys, modalities=modalities, weights=weights, cache=cache, settings=sample, device=device
            )
            for sample in numbered_samples(num_samples, settings).values()
        ]
        MapTransform.__init__(self, self.choices[0].keys, allow_missing_keys=True)
        RandomizableTransform.__init__(self)
        self.choice = 0

    def randomize(self, data: Any = None) -> None:
        """Draw the sample."""
        super().randomize(None)
        self.choice = int(self.R.randint(len(self.choices)))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Complete one dictionary; the given one and its images stay as they are."""
        self.randomize()
        return self.choices[self.choice](data)


class RandModalityDropoutd(RandomizableTransform, MapTransform):
    """Remove random modalities, to train networks for synthetic ones or to simulate incomplete data.

    With several keys, keys are removed; with one, channels of its stack (C, X, Y, Z) are set to 0. At least one
    modality always stays, an acquired one if the mask or the files identify it. `CompleteModalitiesd` after it makes
    the data complete again.

    Args:
        keys: those that may be removed, or the one key of a stack; None takes the modalities' names.
        num_dropped: how many are removed, or the least and the greatest number, drawn evenly; None takes from one to
            all but one.
        prob: probability that any are removed.
        modalities: which modality each key, or each channel of the stack, is; None takes the order of the set.
        modality_set: a set, the name of a built-in one, or a TOML file; None is the BraTS set.

    Raises:
        ModfillError: an argument cannot be used; on a call, CaseError if there is nothing under the keys, or no stack.
    """

    def __init__(
        self,
        keys: KeysCollection | None = None,
        *,
        num_dropped: int | tuple[int, int] | None = None,
        prob: float = 1.0,
        modalities: Sequence[str] | None = None,
        modality_set: ModalitySet | str | Path | None = None,
    ):
        self.modality_set = ModalitySet.of(modality_set)
        MapTransform.__init__(self, self.modality_set.names if keys is None else keys, allow_missing_keys=True)
        RandomizableTransform.__init__(self, prob)
        if not 0 <= prob <= 1:
            raise ModfillError(f"prob must be from 0 to 1, got {prob}")
        self.num_dropped = count_range(num_dropped, self.modality_set)
        own_names = all(key in self.modality_set.names for key in self.keys)
        which = tuple(map(str, self.keys)) if own_names else modalities
        self.modalities = _modalities_of(self.keys, which, self.modality_set)
        self.dropped: list[Any] = []

    def randomize(self, data: tuple[Mapping[str, Any], Mapping[str, Any]]) -> None:
        """Draw what is removed.

        Args:
            data: keys that are there, or numbers of channels that are not all zero, by modality; and those of them that
                are acquired.
        """
        candidates, acquired = data
        super().randomize(None)
        low, high = self.num_dropped
        count = int(self.R.randint(low, high + 1))
        items = list(candidates.values())
        order = [items[i] for i in self.R.permutation(len(items))]
        self.dropped = choose_dropped(order, list(acquired.values()), count) if self._do_transform else []

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Remove modalities from one dictionary; the given one and its images stay as they are."""
        stacked = len(self.keys) == 1
        present = self._channels(data) if stacked else self._keys(data)
        if not present:
            raise _nothing_acquired(data, self.keys, "none")
        acquired = acquired_only(present, data.get(ACQUIRED), _label(data), self.modality_set)
        if not stacked:
            acquired = {m: key for m, key in acquired.items() if not _from_synthetic_file(data[key])}
        self.randomize((present, acquired))
        remaining = {key: value for key, value in data.items() if stacked or key not in self.dropped}
        if stacked:
            remaining[self.keys[0]] = data[self.keys[0]].clone()
            remaining[self.keys[0]][self.dropped] = 0
        return remaining

    def _keys(self, data: Mapping[Hashable, Any]) -> dict[str, Hashable]:
        """The keys that are present, by modality."""
        pairs = zip(self.modalities, self.keys, strict=True)
        return {modality: key for modality, key in pairs if data.get(key) is not None}

    def _channels(self, data: Mapping[Hashable, Any]) -> dict[str, int]:
        """The numbers of the stack's channels that are not all zero, by modality."""
        image, count = data.get(self.keys[0]), len(self.modalities)
        if image is None:
            raise _no_stack(data, self.keys[0])
        if not isinstance(image, torch.Tensor) or image.ndim != 4 or image.shape[0] != count:
            got = f"{type(image).__name__} {tuple(getattr(image, 'shape', ()))}"
            raise CaseError(
                f"{_label(data)}: {self.keys[0]} must be a tensor ({count}, X, Y, Z) of {', '.join(self.modalities)}, "
                f"got {got}; stack them with ConcatItemsd, or give modalities="
            )
        return {modality: i for i, modality in enumerate(self.modalities) if image[i].any()}


def _modalities_of(
    keys: Sequence[Hashable], modalities: Sequence[str] | None, modality_set: ModalitySet
) -> tuple[str, ...]:
    """The modalities of keys or channels.

    Raises:
        ModfillError: two keys are one modality, or a key that is a name of a modality stands for another one.
    """
    known = modality_set.names
    modalities = known if modalities is None else modality_set.modalities_of(modalities, "modalities: each")
    if len(set(modalities)) < max(len(modalities), 2):
        got = ", ".join(modalities) or "none"
        raise ModfillError(f"modalities must be two or more different ones of {', '.join(known)}, got '{got}'")
    if len(keys) not in (1, len(modalities)) or len(set(keys)) < len(keys):
        raise ModfillError(
            f"keys must be one stack or another key for each of {', '.join(modalities)}, got {len(keys)} "
            f"keys ({', '.join(map(str, keys))}); give modalities= in the order of the keys"
        )
    named = [modality_set.modality_of(str(key)) for key in keys]
    if len(keys) > 1 and None not in named and named != list(modalities):
        raise ModfillError(
            f"modalities must be those that the keys {', '.join(map(str, keys))} name, got {', '.join(modalities)}; "
            "give modalities= in the order of the keys"
        )
    return tuple(modalities)


def _from_synthetic_file(image: Any) -> bool:
    return isinstance(image, MetaTensor) and of_synthetic_file(image.meta.get("filename_or_obj"))


def _nothing_acquired(data: Mapping[Hashable, Any], keys: Sequence[Hashable], got: str) -> CaseError:
    kind, names = "channel that is not all zero" if len(keys) == 1 else "image", ", ".join(map(str, keys))
    return CaseError(f"{_label(data)} must have an acquired {kind} under {names}, got {got or 'none'}; check keys")


def _no_stack(data: Mapping[Hashable, Any], key: Hashable) -> CaseError:
    return CaseError(f"{_label(data)} must have a stack of modalities under '{key}', got none; check keys")


def _require(data: Mapping[Hashable, Any], key: Hashable, channels: int, what: str) -> MetaTensor:
    """The MetaTensor (channels, X, Y, Z) under a key. Raises CaseError for anything else."""
    image = data[key]
    if not isinstance(image, MetaTensor):
        raise CaseError(
            f"{_label(data)}: {key} must be a MetaTensor, whose affine places the voxels, got "
            f"{type(image).__name__}; load it with LoadImaged and EnsureChannelFirstd"
        )
    if image.ndim != 4 or image.shape[0] != channels:
        raise CaseError(
            f"{_label(data)}: {key} must have the shape ({channels}, X, Y, Z), {what}, got {tuple(image.shape)}"
        )
    return image


def _array(volume: MetaTensor) -> np.ndarray:
    tensor = volume.as_tensor()[0].detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()


def _meta_tensor(synthetic: Synthetic, modality: str, like: MetaTensor) -> MetaTensor:
    """(1, X, Y, Z) with the metadata of a source, whose file it must not be taken for."""
    tensor = torch.from_numpy(synthetic.volume)[None].to(like.as_tensor())
    meta = deepcopy(like.meta)
    source = Path(str(meta.get("filename_or_obj", "image")))
    stem = nifti_stem(source.name) or source.name
    meta["filename_or_obj"] = str(source.with_name(f"{stem}-synthetic-{modality}.nii.gz"))
    return MetaTensor(tensor, meta=meta, applied_operations=deepcopy(like.applied_operations))


def _label(data: Mapping[Hashable, Any]) -> str:
    return f"case {data['subject_id']}" if "subject_id" in data else "a case"
