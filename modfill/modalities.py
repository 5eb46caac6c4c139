"""Sets of modalities as data: the names of each modality, in files and in words, and what is nearest to it.

A set is a TOML file. The built-in ones, `brats` and `ixi`, lie in `modfill/sets`; a user's own has the same form:

    name = "stroke"
    skull_stripped = true           # false if the cases are whole heads (default: true)

    [modalities.flair]              # letters and digits; names the outputs
    short = "FLAIR"                 # in reports (default: the name)
    long = "FLAIR"                  # with an explanation (default: the short name)
    aliases = ["t2_flair", "fla"]   # further names of files, columns and channels; "_" stands for any separator
    weak_aliases = []               # names at the end of a file's name, unless another modality stands before them
    nearest = "adc"                 # the modality most like it (default: the first other one)
    bids = "FLAIR"                  # [datatype/][entities_]suffix, or a list, of which the first is written
    channel = "FLAIR"               # nnU-Net's channel (default: the short name)
    brats2021 = "flair"             # in the naming brats2021 (default: the name)

    [modalities.adc]
    short = "ADC"
    bids = "dwi/ADC"
    unsafe = "Restricted diffusion is inferred and may be wrong or absent."   # in the sidecars of synthetic ones

A modality with `enhanced = "t1"` is the modality t1 with contrast agent. Each alias of t1 with a word for contrast
agent (`t1_gd`) is an alias of it, and each with a word for its absence (`t1_pre`) is one of t1.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import Any, TypeVar

from modfill.errors import CaseError, SettingsError
from modfill.sets.checking import checked
from modfill.sets.words import CONTRAST_WORDS, LEADING_CONTRAST_WORDS, NATIVE_WORDS

__all__ = ["BRATS", "BUILT_IN", "MODALITIES", "Modality", "ModalitySet", "uniform"]

_T = TypeVar("_T")
_FOLDER = os.path.join(os.path.dirname(__file__), "sets")

BUILT_IN = ("brats", "ixi")
"""The names of the sets in `modfill/sets`."""


@dataclass(frozen=True)
class Modality:
    """One modality, as its set's file describes it; the head of this module explains the keys."""

    name: str
    short: str
    long: str
    nearest: str
    bids: tuple[str, ...]
    channel: str
    brats2021: str
    aliases: tuple[str, ...] = ()
    weak_aliases: tuple[str, ...] = ()
    enhanced: str = ""
    unsafe: str = ""


@dataclass(frozen=True)
class ModalitySet:
    """The modalities that a model knows, in the order used everywhere.

    Attributes:
        name: Name of the set.
        modalities: At least two.
        skull_stripped: Whether cases show the brain alone. If not, they are heads, and what is said of the brain holds
            for all that is not background.
    """

    name: str
    modalities: tuple[Modality, ...]
    skull_stripped: bool = True

    @classmethod
    def of(cls, which: ModalitySet | str | os.PathLike[str] | None) -> ModalitySet:
        """A set by its name or file.

        Args:
            which: The name of a built-in set, a TOML file, or a set; None is the BraTS set.

        Raises:
            SettingsError: There is no such set, or the file does not describe one.
        """
        if isinstance(which, ModalitySet):
            return which
        if which is None or str(which) in BUILT_IN:
            return _built_in(str(which or "brats"))
        if not os.path.isfile(which):
            raise SettingsError(
                f"modalities must be {', '.join(BUILT_IN)} or a TOML file, got '{which}', which is not there; "
                "correct it"
            )
        return _read(which)

    @classmethod
    def from_table(cls, table: Any, where: str = "the set of modalities") -> ModalitySet:
        """A set from the content of its file, as TOML or JSON gives it; the inverse of `table`.

        Args:
            table: The content.
            where: The file, with which a message begins.

        Raises:
            SettingsError: It does not describe a set, or two modalities share a name.
        """
        name, described, stripped = checked(table, where)
        found = cls(name, tuple(Modality(modality, **keys) for modality, keys in described.items()), stripped)
        found._refuse_shared_names(where)
        return found

    @property
    def table(self) -> dict[str, Any]:
        """The set as `from_table` takes it, for the metadata of weights."""
        described = {m.name: {key: value for key, value in asdict(m).items() if value} for m in self.modalities}
        whole = {} if self.skull_stripped else {"skull_stripped": False}
        return {"name": self.name, **whole, "modalities": {n: _without_name(keys) for n, keys in described.items()}}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The modalities' names."""
        return tuple(modality.name for modality in self.modalities)

    @property
    def short_names(self) -> dict[str, str]:
        """The usual short name of each modality."""
        return {modality.name: modality.short for modality in self.modalities}

    @property
    def long_names(self) -> dict[str, str]:
        """The same, with an explanation where one is needed."""
        return {modality.name: modality.long for modality in self.modalities}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.modalities, self.skull_stripped)  # without the cached tables

    def __getitem__(self, name: str) -> Modality:
        return self.modalities[self.names.index(name)]

    def enhanced_form(self, name: str) -> str | None:
        """The modality that is this one with contrast agent, or None."""
        return next((modality.name for modality in self.modalities if modality.enhanced == name), None)

    @cached_property
    def aliases(self) -> dict[str, tuple[str, ...]]:
        """All names of each modality in files, lower case; ``_`` stands for ``-``, ``_``, ``+`` or a blank."""
        return {m.name: tuple(dict.fromkeys((*self._strong_aliases(m), *m.weak_aliases))) for m in self.modalities}

    @cached_property
    def weak_aliases(self) -> frozenset[str]:
        """Aliases at the end of a file's name alone, unless another modality stands before them."""
        return frozenset(alias for modality in self.modalities for alias in modality.weak_aliases)

    @cached_property
    def longest_aliases_first(self) -> tuple[tuple[str, str], ...]:
        """Alias and modality."""
        pairs = [(alias, modality) for modality, aliases in self.aliases.items() for alias in aliases]
        return tuple(sorted(pairs, key=lambda pair: -len(pair[0])))

    def _strong_aliases(self, modality: Modality) -> tuple[str, ...]:
        joined: tuple[str, ...] = ()
        if self.enhanced_form(modality.name):
            joined += (*_joined(modality.aliases, NATIVE_WORDS), *_joined(NATIVE_WORDS, modality.aliases))
        if modality.enhanced:
            native = self[modality.enhanced].aliases
            joined += (*_joined(native, CONTRAST_WORDS), *_joined(LEADING_CONTRAST_WORDS, native))
        written = (uniform(name) for name in (modality.short, modality.channel, modality.brats2021))
        return (modality.name, *modality.aliases, *written, *joined)

    def _refuse_shared_names(self, where: str) -> None:
        owners: dict[str, str] = {}
        for modality, aliases in self.aliases.items():
            for alias in aliases:
                owner = owners.setdefault(alias, modality)
                if owner != modality:
                    raise SettingsError(
                        f"{where}: an alias must belong to one modality, got '{alias}' for {owner} and {modality}; "
                        "remove one"
                    )

    def modality_of(self, name: str) -> str | None:
        """The modality that a channel, column or the like is named after, e.g. ``T1 Gd``; None if it is no alias."""
        words = "_".join(word for word in uniform(name.strip()).split("_") if word)
        if words in self.weak_aliases:
            return None
        return next((modality for modality, aliases in self.aliases.items() if words in aliases), None)

    def nearest_source(self, target: str, available: Collection[str]) -> str:
        """The available modality most like `target`, whose intensities and data type a synthetic image takes.

        Args:
            target: A modality of the set.
            available: At least one modality; without the nearest, the first one counts.
        """
        nearest = self[target].nearest
        return nearest if nearest in available else next(iter(available))

    def in_order(self, modalities: Collection[str]) -> tuple[str, ...]:
        """Those modalities of the set that are among `modalities`, in the order of the set."""
        return tuple(name for name in self.names if name in modalities)

    def without(self, modalities: Collection[str]) -> tuple[str, ...]:
        """Those modalities of the set that are not among `modalities`, in the order of the set."""
        return tuple(name for name in self.names if name not in modalities)

    def modalities_of(self, names: str | Iterable[str], what: str = "a modality") -> tuple[str, ...]:
        """The modalities that a user named, in their order.

        Args:
            names: Names that ``modality_of`` knows, e.g. ``flair`` or ``T1ce``; a string is one name.
            what: What they are for, with which the message begins.

        Raises:
            CaseError: If a name is no modality's.
        """
        given = [names] if isinstance(names, str) or not isinstance(names, Iterable) else list(names)
        found = []
        for name in given:
            modality = self.modality_of(name) if isinstance(name, str) else None
            if modality is None:
                raise CaseError(
                    f"{what} must be one of {', '.join(self.names)}, or a name of theirs such as "
                    f"{self._example()}, got {name!r}; correct or leave it out"
                )
            found.append(modality)
        return tuple(found)

    def _example(self) -> str:
        other = (m.short for m in self.modalities if uniform(m.short) != m.name)
        return next(other, self.names[0].upper())

    def by_modality(
        self, items: Mapping[str, _T], what: str = "a modality", others: Collection[str] = ()
    ) -> dict[str, _T]:
        """The same items under the modalities that their keys name.

        Args:
            items: By a name that ``modality_of`` knows.
            what: What the keys are, with which a message begins.
            others: Names that are no modality's and stay as they are, e.g. of other channels of a dataset.

        Raises:
            CaseError: If a key is no modality's, or two are the same one's.
        """
        found: dict[str, _T] = {}
        names: dict[str, str] = {}
        for name in items:
            modality = name if name in others else self.modalities_of([name], what)[0]
            if modality in found:
                raise CaseError(f"{what} must be named once, got {names[modality]!r} and {name!r}; leave one out")
            found[modality], names[modality] = items[name], name
        return found


def uniform(name: str) -> str:
    """Lower case, every separator ``_``, the number of a copy such as `` (1)`` left out; as long as can be."""
    name = re.sub(r"\s*\(\d+\)$", "", name.lower())
    return re.sub(r"[-+\s]", "_", name)


def _joined(fronts: Collection[str], ends: Collection[str]) -> tuple[str, ...]:
    return tuple(f"{a}{separator}{b}" for a in fronts for b in ends for separator in ("", "_"))


def _without_name(keys: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in keys.items() if key != "name"}


def _read(path: str | os.PathLike[str]) -> ModalitySet:
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} must be a TOML file, got an error: {error}; correct it") from error
    return ModalitySet.from_table(table, str(path))


@lru_cache
def _built_in(name: str) -> ModalitySet:
    return _read(os.path.join(_FOLDER, f"{name}.toml"))


BRATS = ModalitySet.of("brats")
"""The set of the shipped weights."""

MODALITIES = BRATS.names
