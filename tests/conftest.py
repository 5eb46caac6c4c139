"""What the tests share: quiet threads, and a tiny model whose random weights leave nothing at zero."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # as many workers as cores; also for the processes that they start

import nibabel as nib
import pytest
import torch
from filelock import FileLock
from hypothesis import HealthCheck, settings

from modfill.completer import ModalityCompleter
from modfill.demo import phantom as simulation
from modfill.model import device
from modfill.model.config import PRESETS, STAGES, Preset
from modfill.model.synthesiser import Synthesiser
from modfill.weights import checkpoint
from tests.case_files import MODALITIES, write_case

settings.register_profile("few", max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
settings.register_profile("many", settings.get_profile("few"), max_examples=1000)
settings.load_profile("few")

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


LONGEST = (
    "test_prepare", "test_training", "test_ranks", "test_baselines", "test_speed_benchmark", "test_cohort",
    "test_training_stages", "test_demo", "test_torchio_transform", "test_nnunet_plugin", "test_cli", "test_shipped",
    "test_faults", "test_invariants", "test_phantom", "test_prompt_end", "test_image_benchmarks",
)  # fmt: skip
MOST_WORKERS = 8  # each imports torch and holds models of its own: about 1 GB


@pytest.hookimpl(optionalhook=True)  # there is no such hook without pytest-xdist
def pytest_xdist_auto_num_workers() -> int:
    """Workers of `-n auto`: one per core that this process may use; xdist itself does not count hyper-threads."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS", min(cores, MOST_WORKERS)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: workers take whole files, and should end together."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


def awake(preset: Preset, seed: int = 0) -> Synthesiser:
    """A model with random weights in which no layer is still at its zero initialisation, as after training."""
    torch.manual_seed(seed)
    model = Synthesiser(preset)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 and not parameter.any():
                parameter.normal_(std=0.1)
        model.brightness.std.fill_(0.05)
        model.brightness.correlation.add_(1).div_(2)
    return model.eval()


@pytest.fixture(scope="session")
def tiny_model() -> Synthesiser:
    """The tiny preset with random weights, in evaluation mode. Do not change it."""
    return awake(PRESETS["tiny"])


@pytest.fixture(scope="session")
def tiny_weights(tiny_model: Synthesiser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's weights file."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    checkpoint.save(tiny_model, path, STAGES)
    return path


@pytest.fixture(scope="session")
def completer(tiny_weights: Path) -> ModalityCompleter:
    """A completer with the tiny model, on the CPU."""
    return ModalityCompleter(tiny_weights, device="cpu")


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> dict[str, nib.Nifti1Image]:
    """The demo's simulated case of seed 0, by modality and `seg`. It takes ten seconds, so all workers share one."""
    pytest.importorskip("nilearn")
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "phantom"
    with FileLock(f"{shared}.lock"):
        if not shared.exists():
            new = tmp_path_factory.mktemp("phantom")
            for key, image in simulation.make_case(seed=0).items():
                nib.save(image, new / f"{key}.nii")
            new.rename(shared)
    return {key: nib.load(shared / f"{key}.nii") for key in (*MODALITIES, "seg")}


@pytest.fixture
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks run in float32, which takes a third of the time on volumes as tiny as the tests'."""
    monkeypatch.setattr(device, "half_is_fast", lambda device: False)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """The number of threads may change the last bit, in bfloat16 too; workers and jobs have fewer than the whole."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def case_folder(tmp_path: Path) -> Path:
    """A case that lacks t1c and t2w, oblique and int16."""
    return write_case(tmp_path / "in", "p1", ("t1n", "t2f"))
