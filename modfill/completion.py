"""Completion of one case: read -> synthesise -> write. The order of the steps is defined here alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from modfill.cases.files import CaseFiles
from modfill.cases.reading import Case, read_case, require_usable
from modfill.errors import CaseError, SettingsError, within_memory
from modfill.job import Job
from modfill.outputs.earlier import Earlier
from modfill.outputs.linking import Links
from modfill.outputs.naming import OutputFolder
from modfill.outputs.sidecar import decisive, settings_keys
from modfill.outputs.writing import write
from modfill.preprocessing.prepare import partial_sources, prepare
from modfill.results import Completed
from modfill.settings import Settings
from modfill.weights.networks import Networks

__all__ = ["Completion", "Progress"]

Progress = Callable[[str, float], None]
"""Called with the step ("read", "encode", a target, "write") and the share of the case that is done, from 0 to 1."""

_READ = 0.1  # share of a case's time for reading it; encoding its sources takes about as long as each target


class Completion:
    """Completes cases with one set of weights and settings, into one output folder or none.

    `read`, `synthesise` and `write` may run in a thread each; calling the object runs one after the other.

    Args:
        networks: the weights on a device; loaded when the first case needs them.
        settings: mode, steps, seed, and whether uncertainty is wanted.
        out: receives images and sidecars; None writes nothing. The caller holds the lock of each case in it.
        targets: modalities to synthesise; None takes all that a case lacks.
        overwrite: do finished outputs again.
        allow_synthetic: use synthetic images as sources too; recorded in the sidecars.
        assume_aligned: place images without orientation codes like those with them, as `read_case` does.
        in_cohort: a target that a case does not lack is passed over; else it is an error.
        links: adds links to what was acquired.
        progress: called with each step.

    Raises:
        CaseError: a target is none of the weights' modalities.
        SettingsError: the output folder is for others.
    """

    def __init__(
        self,
        networks: Networks,
        settings: Settings,
        *,
        out: OutputFolder | None = None,
        targets: str | Sequence[str] | None = None,
        overwrite: bool = False,
        allow_synthetic: bool = False,
        assume_aligned: bool = False,
        in_cohort: bool = False,
        links: Links | None = None,
        progress: Progress | None = None,
    ):
        self._networks, self._settings, self._out = networks, settings, out
        if out is not None:
            self._require_same_set(out, "the output folder")
        self._targets = None if targets is None else networks.modalities(targets)
        self._overwrite, self._in_cohort = overwrite, in_cohort
        self._allow_synthetic, self._assume_aligned = allow_synthetic, assume_aligned
        self._links = links
        self._progress = progress or (lambda step, share: None)

    def __call__(self, files: CaseFiles | Case) -> Completed:
        """Complete one case. Raises CaseError, and ModfillError if memory does not suffice."""
        return self.write(self.synthesise(self.read(files)))

    def read(self, files: CaseFiles | Case) -> Job:
        """Read and check a case, find what earlier runs finished, and bring the rest to the model's grid.

        Raises:
            CaseError: the case or a target cannot be used, or another output is in the way.
            ModfillError: memory does not suffice.
        """
        self._progress("read", 0.0)
        self._require_same_set(files, f"case {files.case_id}")
        earlier = Earlier.of(files.case_id, self._out)
        earlier.remove_leftovers()
        if isinstance(files, CaseFiles):
            if finished := self._all_finished(files, earlier):
                return finished
            case = read_case(files, allow_synthetic=self._allow_synthetic, assume_aligned=self._assume_aligned)
        else:
            case = files
        earlier.make_way((m for m in case.available if m not in case.synthetic), overwrite=self._overwrite)
        job = Job(earlier, Completed(case.case_id), case)
        job.decisive = decisive(case, self._settings, self._networks.file.description)
        for target in self._wanted(case.case_id, case.missing):
            digest = None if self._overwrite else earlier.finished(target, job.decisive)
            if digest is None:
                job.targets += (target,)
            else:
                job.take(target, digest, skipped=True)
        if job.targets:
            require_usable(case)
            with within_memory(f"case {case.case_id}"):
                preset = self._networks.preset
                partial = partial_sources(case)
                job.prepared = prepare(case, preset.multiple, leave_out=partial)
        if self._links is not None and isinstance(files, CaseFiles):
            self._links.add(files, case.paths, case.images)
        return job

    def has_work(self, job: Job) -> bool:
        """Return whether anything is left to be synthesised."""
        return job.prepared is not None

    def synthesise(self, job: Job) -> Job:
        """Synthesise the targets, one after the other. Raises CaseError, or ModfillError if memory does not suffice."""
        if job.prepared is None:
            return job
        with within_memory(f"case {job.done.case_id}"):
            networks, prepared = self._networks.load(), job.prepared
            each = (1 - _READ) / (1 + len(job.targets))
            self._progress("encode", _READ)
            encoded = networks.encode(prepared.volumes, prepared.brain)
            for number, target in enumerate(job.targets, 1):
                self._progress(target, _READ + number * each)
                estimate = networks.predict(encoded, target, brightness=prepared.brightness(),
                                            case_id=job.done.case_id, settings=self._settings)  # fmt: skip
                job.syntheses.append(job.restore(target, estimate, networks.environment))
        job.prepared = None  # its memory is free for the next case
        return job

    def write(self, job: Job) -> Completed:
        """Write images, maps and sidecars. Raises CaseError if the folder does not take them."""
        for synthesis in job.syntheses:
            job.done.provenance[synthesis.modality] = synthesis.provenance
            if place := job.earlier.places.get(synthesis.modality):
                job.take(synthesis.modality, write(synthesis, place))
            else:
                job.keep(synthesis)
        self._progress("write", 1.0)
        return job.done

    def _require_same_set(self, found: CaseFiles | Case | OutputFolder, what: str) -> None:
        """Refuse what was found or made for other modalities than the weights'."""
        wanted, got = self._networks.modality_set.names, found.modality_set.names
        if wanted != got:
            raise SettingsError(
                f"{what} must be for the weights' modalities {', '.join(wanted)}, got {', '.join(got)}; "
                "give modality_set=ModalityCompleter(weights).modality_set when you look for cases"
            )

    def _all_finished(self, files: CaseFiles, earlier: Earlier) -> Job | None:
        """The job of a case for which nothing is left to do, without reading a voxel of its sources; else None."""
        available = None if self._overwrite else earlier.sources(files, allow_synthetic=self._allow_synthetic)
        if available is None:
            return None
        job = Job(earlier, Completed(files.case_id))
        asked = settings_keys(self._settings, self._networks.file.description)
        for target in self._wanted(files.case_id, files.modality_set.without(available)):
            digest = earlier.same_as_asked(target, asked)
            if digest is None:
                return None
            job.take(target, digest, skipped=True)
        if self._links is not None and not self._links.add(files, {m: files.paths[m] for m in available}):
            return None
        return job

    def _wanted(self, case_id: str, missing: Sequence[str]) -> Iterator[str]:
        """The modalities to synthesise, each once. Raises CaseError for one that is not missing."""
        for target in dict.fromkeys(missing if self._targets is None else self._targets):
            if target in missing:
                yield target
            elif not self._in_cohort:
                choice = ", ".join(missing) or "none is"
                raise CaseError(f"case {case_id}: a target must be missing ({choice}), got '{target}'; leave it out")
