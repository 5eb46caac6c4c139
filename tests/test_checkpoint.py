"""One safetensors file that alone rebuilds the model, or one line that says what is wrong with it."""

from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from modfill.errors import WeightsError
from modfill.model.config import PRESETS, STAGES, AutoencoderConfig
from modfill.model.synthesiser import Synthesiser
from modfill.weights import checkpoint
from modfill.weights.file import SHIPPED
from tests.conftest import awake


def test_round_trip_in_half_precision(tiny_model: Synthesiser, tiny_weights: Path) -> None:
    model, file = checkpoint.load(tiny_weights)
    assert not model.training and model.preset == tiny_model.preset
    assert file.stages == ("autoencoder", "translator", "denoiser")
    assert file.sha256 == hashlib.sha256(tiny_weights.read_bytes()).hexdigest()
    original = tiny_model.state_dict()
    assert model.state_dict().keys() == original.keys()
    for name, value in model.state_dict().items():
        assert value.dtype == original[name].dtype, name
        torch.testing.assert_close(value, original[name].half().to(value.dtype), rtol=0, atol=0)


def test_preset_comes_from_the_file_not_from_the_table(tmp_path: Path) -> None:
    preset = replace(PRESETS["tiny"], name="mine", autoencoder=AutoencoderConfig(2, (8, 16), 1, 4, 30))
    original = awake(preset)
    checkpoint.save(original, tmp_path / "w.safetensors", STAGES)
    model, _ = checkpoint.load(tmp_path / "w.safetensors")
    assert model.preset == preset
    codes = model.autoencoder.regulariser.codebook.weight
    torch.testing.assert_close(codes, original.autoencoder.regulariser.codebook.weight, atol=1e-3, rtol=1e-3)


def test_file_is_half_the_size_of_the_parameters(tiny_model: Synthesiser, tiny_weights: Path) -> None:
    values = sum(value.numel() for value in tiny_model.state_dict().values())
    assert 2 * values < tiny_weights.stat().st_size < 2 * values + 100_000


def test_saving_leaves_no_temporary_file_and_no_pickle(tiny_weights: Path) -> None:
    assert [path.name for path in tiny_weights.parent.iterdir()] == ["tiny.safetensors"]
    with safe_open(tiny_weights, framework="pt") as file:
        assert list(file.metadata()) == ["modfill"]


def test_the_same_model_gives_the_same_bytes(tiny_model: Synthesiser, tmp_path: Path) -> None:
    """The file's hash stands in every sidecar and decides whether a finished output is of this run."""
    for number in range(8):
        checkpoint.save(tiny_model, tmp_path / f"{number}.safetensors", STAGES)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _cut_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _text(path: Path) -> None:
    path.write_text("to be done\n" * 20)


def _pickle_in_disguise(path: Path) -> None:
    torch.save({"a": torch.ones(2)}, path)


def _rewritten(path: Path, change: Callable[[dict, dict], None]) -> None:
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    change(tensors, metadata)
    save_file(tensors, path, metadata)


def _lack_a_key(path: Path) -> None:
    _rewritten(path, lambda tensors, _: tensors.pop("translator.stem.bias"))


def _have_a_key_too_many(path: Path) -> None:
    _rewritten(path, lambda tensors, _: tensors.update(surplus=torch.ones(2)))


def _have_another_shape(path: Path) -> None:
    _rewritten(path, lambda tensors, _: tensors.update({"translator.stem.bias": torch.ones(3)}))


def _be_another_library_s(path: Path) -> None:
    _rewritten(path, lambda _, metadata: metadata.update(format=metadata.pop("modfill")))


def _lack_metadata(path: Path) -> None:
    save_file(load_file(path), path)


def _preset(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        def alter(_: dict, metadata: dict) -> None:
            held = json.loads(metadata["modfill"])
            raw = json.loads(held["preset"])
            change(raw)
            metadata["modfill"] = json.dumps(held | {"preset": json.dumps(raw)})

        _rewritten(path, alter)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_truncate, "damaged"),
        (_cut_header, "damaged"),
        (_empty, "damaged"),
        (_text, "damaged"),
        (_pickle_in_disguise, "a pickle could run code when it is opened"),
        (_lack_a_key, "missing ['translator.stem.bias']"),
        (_have_a_key_too_many, "unexpected ['surplus']"),
        (_have_another_shape, "translator.stem.bias must be of shape"),
        (_be_another_library_s, "must be a modfill checkpoint"),
        (_lack_metadata, "must be a modfill checkpoint"),
        (_preset(lambda raw: raw.pop("denoiser")), "preset cannot be read"),
        (_preset(lambda raw: raw["denoiser"].update(colour="red")), "preset cannot be read"),
        (_preset(lambda raw: raw.update(autoencoder="large")), "preset cannot be read"),
        (_preset(lambda raw: raw.update(training=[])), "preset cannot be read"),
        (_preset(lambda raw: raw["translator"].update(channels="many")), ""),
        (Path.unlink, "no such weights file"),
    ],
)
def test_bad_files_are_refused_in_one_line(
    tiny_weights: Path, tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(tiny_weights.read_bytes())
    spoil(path)
    with pytest.raises(WeightsError) as caught:
        checkpoint.load(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and reason in message and "\n" not in message


def _width(name: str, value: object) -> Callable[[Path], None]:
    return _preset(lambda raw: raw["autoencoder"].update({name: value}))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_width("channels", [8, 10**9]), "channels must be from 0 to 65536"),
        (_width("channels", [8] * 40), "channels must be at most 16"),
        (_width("blocks", 10**9), "blocks must be from 0 to 65536"),
        (_width("blocks", 60_000), "blocks must be at most 16"),
        (_width("codes", -1), "codes must be from 0 to 65536"),
        (_width("commitment", float("nan")), "commitment must be from 0 to 65536"),
        (_width("fold", 0), "the latent grid must be a quarter of the volume's, got 1 / 0"),
        (_width("channels", []), "preset cannot be read"),
        (_preset(lambda raw: raw["modality_set"].update(modalities={f"m{n}": {} for n in range(1000)})), "got 1000"),
        (_width("channels", [8, 60_000]), "must be of shape"),  # a layer of it would take 388 GB
    ],
)
def test_absurd_sizes_are_refused_before_anything_is_allocated(
    tiny_weights: Path, tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    path = tmp_path / "absurd.safetensors"
    path.write_bytes(tiny_weights.read_bytes())
    spoil(path)
    with pytest.raises(WeightsError) as caught:
        checkpoint.load(path)
    assert reason in str(caught.value) and "\n" not in str(caught.value)


def _flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("place", [-1, -1000, -100_000])
def test_one_bit_of_the_tensors_is_enough(tiny_weights: Path, tmp_path: Path, place: int) -> None:
    path = tmp_path / "altered.safetensors"
    path.write_bytes(tiny_weights.read_bytes())
    _flip(path, place)
    with pytest.raises(WeightsError, match="must hold what was saved, got altered weights"):
        checkpoint.load(path)


def test_the_preset_is_part_of_what_was_saved(tiny_weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "altered.safetensors"
    path.write_bytes(tiny_weights.read_bytes())
    _preset(lambda raw: raw["denoiser"].update(sampling_steps=5))(path)
    with pytest.raises(WeightsError, match="altered weights"):
        checkpoint.load(path)


def test_a_digest_cannot_be_lost(tiny_weights: Path, tmp_path: Path) -> None:
    """One bit in the word for it, and nothing would be compared."""
    path = tmp_path / "altered.safetensors"
    path.write_bytes(tiny_weights.read_bytes())
    _flip(path, path.read_bytes().index(b"content"))
    with pytest.raises(WeightsError, match="altered weights"):
        checkpoint.load(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["calibration", "brightness.mean", "denoiser.residual"])
def test_weights_that_are_no_numbers_never_load(tmp_path: Path, name: str, value: float) -> None:
    model = awake(PRESETS["tiny"])
    model.state_dict()[name].view(-1)[0] = value
    checkpoint.save(model, tmp_path / "w.safetensors", STAGES)
    with pytest.raises(WeightsError, match=f"weights must be finite, got NaN or infinity in {name}"):
        checkpoint.load(tmp_path / "w.safetensors")


@pytest.mark.parametrize("value", [["t1n", "t1c", "t2w"], ["t1n", "t1c", "t2w", "ct"]])
def test_a_preset_of_other_modalities_is_refused(tiny_weights: Path, tmp_path: Path, value: list[str]) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(tiny_weights.read_bytes())
    _preset(lambda raw: (raw.pop("modality_set"), raw.update({"modalities": value})))(path)
    with pytest.raises(WeightsError, match="modalities must be"):
        checkpoint.load(path)


def test_the_record_of_a_hash_may_be_anything(tiny_weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(tiny_weights.read_bytes())
    path.with_name("w.safetensors.sha256").write_bytes(b"\xff\xfe\0")
    with pytest.raises(WeightsError, match="must have the SHA-256 in w.safetensors.sha256"):
        checkpoint.load(path)


def test_a_name_longer_than_names_can_be(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such weights file"):
        checkpoint.load(tmp_path / f"{'w' * 300}.safetensors")


def test_the_shipped_weights_are_those_of_their_hash() -> None:
    recorded, name = (SHIPPED.with_name(SHIPPED.name + ".sha256").read_text()).split()
    assert name == SHIPPED.name
    assert hashlib.sha256(SHIPPED.read_bytes()).hexdigest() == recorded


def test_weights_other_than_their_recorded_hash_never_load(tiny_weights: Path, tmp_path: Path) -> None:
    """Not even with a digest of their own that fits: this guards the shipped weights."""
    path = tmp_path / "small.safetensors"
    path.write_bytes(tiny_weights.read_bytes())
    recorded = hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / "small.safetensors.sha256").write_text(f"{recorded}  small.safetensors\n")
    checkpoint.load(path)
    checkpoint.save(awake(PRESETS["tiny"], seed=1), path, STAGES)
    with pytest.raises(WeightsError, match="must have the SHA-256 in small.safetensors.sha256"):
        checkpoint.load(path)


class _Malicious:
    def __reduce__(self):
        return (Path.touch, (Path("opened"),))


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.ckpt", "w.safetensors"])
def test_a_pickle_is_never_opened(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(pickle.dumps(_Malicious()))
    with pytest.raises(WeightsError) as caught:
        checkpoint.load(tmp_path / name)
    assert "\n" not in str(caught.value) and not (tmp_path / "opened").exists()


def test_a_folder_is_no_weights_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such weights file"):
        checkpoint.load(tmp_path)


def test_loading_imports_no_compiler() -> None:
    """It takes seconds; some operations on the meta device import it."""
    code = (
        "import sys; from modfill.weights.checkpoint import load; from modfill.weights.file import SHIPPED; "
        "load(SHIPPED); print([m for m in ('torch._dynamo', 'monai', 'pandas') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
