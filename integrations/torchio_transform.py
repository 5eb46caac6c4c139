"""TorchIO transforms: complete subjects that lack a modality, and drop modalities at random for training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
from modfill.integrations.cache import complete_arrays, modality_set_of

from modfill.errors import CaseError, ModfillError
from modfill.modalities import ModalitySet
from modfill.settings import Settings, without_uncertainty

try:
    import torchio as tio
    from torchio.transforms.augmentation import RandomTransform
except ImportError as error:
    raise ModfillError(
        f"The TorchIO transforms need TorchIO 0.20 or newer, but older than 2 ({error}): pip install 'modfill[torchio]'"
    ) from error

__all__ = ["CompleteModalities", "ModalityDropout", "RandomModalityDropout"]


class CompleteModalities(tio.Transform):
    """Add the modalities that a subject lacks, synthesised from those it has.

    A modality is missing when its key is absent or None. Each one is added as a `ScalarImage` on the sources' grid, in
    the type of the nearest source. The subject also receives `acquired_modalities`: a bool tensor in the order
    of the weights' modalities (t1n, t1c, t2w, t2f), true where the image was acquired. An image that this mask marks as
    synthetic, or whose file modfill wrote, is never a source.

    Put it before any transform that moves the background away from 0, e.g. `ZNormalization`. With a cache folder each
    subject is synthesised once, and not once an epoch. The noise depends on seed, subject and target only. A subject is
    identified by its `subject_id`, if it has one, or by its voxels.

    Args:
        weights: a file that `modfill train` wrote; None takes the shipped ones.
        names: image name by modality where it differs, e.g. `{"t1c": "t1gd"}`.
        cache: folder of completed images, shared by all workers and runs; None keeps nothing.
        settings: mode, steps, samples and seed; None takes the defaults.
        device: "cpu", or a GPU, which workers can use only if they are spawned.
        **kwargs: of `torchio.Transform`. `include` and `exclude` choose which missing images are added; all
            acquired ones are sources. `p` must be 1: incomplete subjects cannot be collated.

    Raises:
        ModfillError: an argument cannot be used; on a call, CaseError if the subject cannot be completed.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        *,
        names: Mapping[str, str] | None = None,
        cache: str | Path | None = None,
        settings: Settings | None = None,
        device: str | torch.device = "cpu",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if self.probability != 1:
            raise ModfillError(
                f"CompleteModalities: p must be 1, got {self.probability}: incomplete subjects cannot be collated"
            )
        self.weights = None if weights is None else str(weights)
        self.modality_set = modality_set_of(self.weights)
        self.names = _all_names(names, self.modality_set)
        self.cache = None if cache is None else str(cache)
        self.settings = without_uncertainty(settings)
        self.device = str(device)
        self.args_names = ["weights", "names", "cache", "settings", "device"]
        _check_choice(self.include, self.exclude, self.names)

    def apply_transform(self, subject: tio.Subject) -> tio.Subject:
        """Complete one subject; changes and returns it."""
        present = _present(subject, self.names)
        sources = _acquired(subject, present, self.modality_set)
        if not sources:
            raise _nothing_acquired(subject, self.names)
        lacking = self.modality_set.without(present)
        targets = [m for m in lacking if _is_included(self.names[m], self.include, self.exclude)]
        with np.errstate(divide="warn", over="warn", invalid="warn"):  # TorchIO turns these warnings into errors
            made = complete_arrays(
                {m: _array(subject, self.names[m], image) for m, image in sources.items()},
                affine={m: image.affine for m, image in sources.items()},
                settings=self.settings,
                case_id=str(subject["subject_id"]) if "subject_id" in subject else None,
                targets=targets,
                weights=self.weights,
                device=self.device,
                cache=self.cache,
            )
        for modality, synthetic in made.items():
            like = sources[self.modality_set.nearest_source(modality, sources)]
            tensor = torch.from_numpy(synthetic.volume)[None].to(like.data.dtype)
            subject.add_image(tio.ScalarImage(tensor=tensor, affine=like.affine), self.names[modality])
        subject[ACQUIRED] = acquired_mask(sources, self.modality_set)
        subject.update_attributes()
        return subject


class RandomModalityDropout(RandomTransform):
    """Remove random modalities, to train networks for synthetic ones or to simulate incomplete subjects.

    At least one acquired modality always stays. `CompleteModalities` after it makes the subject complete again. The
    removal is recorded in the history as `ModalityDropout`.

    Args:
        num_dropped: how many are removed, or the least and the greatest number, drawn evenly; None takes from one to
            all but one.
        names: image name by modality where it differs.
        modality_set: a set, the name of a built-in one, or a TOML file; None is the BraTS set.
        **kwargs: of `torchio.Transform`. `include` and `exclude` choose which images may be removed.

    Raises:
        ModfillError: an argument cannot be used.
    """

    def __init__(
        self,
        num_dropped: int | tuple[int, int] | None = None,
        *,
        names: Mapping[str, str] | None = None,
        modality_set: ModalitySet | str | Path | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.modality_set = ModalitySet.of(modality_set)
        self.num_dropped = count_range(num_dropped, self.modality_set)
        self.names = _all_names(names, self.modality_set)
        _check_choice(self.include, self.exclude, self.names)

    def apply_transform(self, subject: tio.Subject) -> tio.Subject:
        """Draw what is removed with torch's global generator, which data loaders seed for each worker."""
        present = _present(subject, self.names)
        if not present:
            raise _nothing_acquired(subject, self.names)
        low, high = self.num_dropped
        count = int(torch.randint(low, high + 1, ()))
        candidates = [name for m in present if _is_included(name := self.names[m], self.include, self.exclude)]
        order = [candidates[i] for i in torch.randperm(len(candidates)).tolist()]
        dropped = choose_dropped(order, [self.names[m] for m in _acquired(subject, present, self.modality_set)], count)
        if not dropped:
            return subject
        transformed = ModalityDropout(dropped, **self._get_base_args())(subject)
        assert isinstance(transformed, tio.Subject)
        return transformed


class ModalityDropout(tio.Transform):
    """Remove images from a subject.

    Args:
        dropped: names of the images; those that are not there are passed over.
        **kwargs: of `torchio.Transform`.
    """

    def __init__(self, dropped: Sequence[str], **kwargs: Any):
        super().__init__(**kwargs)
        self.dropped = list(dropped)
        self.args_names = ["dropped"]

    def apply_transform(self, subject: tio.Subject) -> tio.Subject:
        """Remove them; changes and returns the subject."""
        for name in self.dropped:
            if subject.pop(name, None) is not None:
                subject.__dict__.pop(name, None)  # subject.t1c refers to the same image
        return subject


def _all_names(names: Mapping[str, str] | None, modality_set: ModalitySet) -> dict[str, str]:
    """The image name of every modality."""
    given = modality_set.by_modality(names or {}, "names: a modality")
    complete = {modality: given.get(modality, modality) for modality in modality_set.names}
    if len(set(complete.values())) < len(complete):
        raise ModfillError(f"names must be another for each modality, got {', '.join(complete.values())}")
    return complete


def _check_choice(include: Sequence[str] | None, exclude: Sequence[str] | None, names: Mapping[str, str]) -> None:
    unknown = [name for name in (*(include or ()), *(exclude or ())) if name not in names.values()]
    if unknown:
        raise ModfillError(
            f"include and exclude must be among {', '.join(names.values())}, got '{unknown[0]}'; "
            "give names= if the images have others"
        )


def _is_included(name: str, include: Sequence[str] | None, exclude: Sequence[str] | None) -> bool:
    return (include is None or name in include) and (exclude is None or name not in exclude)


def _present(subject: tio.Subject, names: Mapping[str, str]) -> dict[str, tio.ScalarImage]:
    """The images that the subject has, by modality. Raises CaseError for anything else under their names."""
    found = {}
    for modality, name in names.items():
        image = subject.get(name)
        if isinstance(image, tio.ScalarImage):
            found[modality] = image
        elif image is not None:
            raise CaseError(f"{_label(subject)}: {name} must be a ScalarImage or None, got {type(image).__name__}")
    return found


def _acquired(
    subject: tio.Subject, present: Mapping[str, tio.ScalarImage], modality_set: ModalitySet
) -> dict[str, tio.ScalarImage]:
    """Those of the images that are not synthetic. Raises CaseError where the subject's mask cannot be used."""
    unmarked = acquired_only(present, subject.get(ACQUIRED), _label(subject), modality_set)
    return {modality: image for modality, image in unmarked.items() if not of_synthetic_file(image.path)}


def _nothing_acquired(subject: tio.Subject, names: Mapping[str, str]) -> CaseError:
    there = subject.get_images_names()
    got = (f"{name} (synthetic)" if name in names.values() else name for name in there)
    example = {next(iter(names)): there[0] if there else "image"}
    return CaseError(
        f"{_label(subject)} must have an acquired image under one of {', '.join(names.values())}, got "
        f"{', '.join(got)}; give the names, e.g. names={example}"
    )


def _array(subject: tio.Subject, name: str, image: tio.ScalarImage) -> np.ndarray:
    """The voxels (W, H, D) of a one-channel 3D image."""
    tensor = image.data
    if tensor.shape[0] != 1 or tensor.shape[-1] == 1:
        kind = "2D" if tensor.shape[-1] == 1 else f"{tensor.shape[0]} channels"
        raise CaseError(
            f"{_label(subject)}: {name} must be 3D with one channel, got {kind} (shape {tuple(tensor.shape)}); "
            "give each modality its own 3D image"
        )
    return (tensor.float() if tensor.is_floating_point() else tensor)[0].numpy()


def _label(subject: tio.Subject) -> str:
    return f"case {subject['subject_id']}" if "subject_id" in subject else "a subject"
