"""The essay scorer that ships: its generator, its training script, its weights and both of its data sets."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from sklearn.metrics import cohen_kappa_score  # type: ignore[import-untyped]  # ships no stubs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from numpy.typing import NDArray

    Shard = dict[str, NDArray[Any]]

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "essay_scorer"
CALIBRATION = ROOT / "calibration_sets" / "essays"
TINY = ("--essays", "72", "--validation-essays", "48", "--calibration-essays", "48", "--layers", "2", "--seed", "7")


def load_module(name: str) -> ModuleType:
    """Import a module of the example by its path, as the export does."""
    qualified = f"essay_scorer_{name}"
    if qualified not in sys.modules:
        spec = importlib.util.spec_from_file_location(qualified, FOLDER / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[qualified] = module
        spec.loader.exec_module(module)
    return sys.modules[qualified]


train = load_module("train")
essays = load_module("essays")
model = load_module("model")
shards = load_module("shards")


def load_shards(folder: Path) -> list[Shard]:
    """Read every shard of a folder, never unpickling."""
    found = []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as file:
            found.append(dict(file))
    return found


def rows_of(data: list[Shard]) -> list[tuple[int, ...]]:
    """Return the token ids of every sample, without padding."""
    return [
        tuple(ids[mask == 1].tolist())
        for shard in data
        for ids, mask in zip(shard["input_ids"], shard["attention_mask"], strict=True)
    ]


@pytest.fixture(scope="module", autouse=True)
def single_thread() -> Iterator[None]:
    """On a busy machine two threads that wait for each other are several times slower than one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def validation() -> list[Shard]:
    return load_shards(FOLDER / "validation")


@pytest.fixture(scope="module")
def calibration() -> list[Shard]:
    return load_shards(CALIBRATION)


@pytest.fixture(scope="module")
def shipped() -> torch.nn.Module:
    network: torch.nn.Module = model.build()
    network.load_state_dict(load_file(FOLDER / "weights.safetensors"), strict=True)
    return network.eval()


@pytest.fixture(scope="module")
def retrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("retrained")
    arguments = ["--out", str(out / "model"), "--calibration-out", str(out / "calibration"), *TINY]
    # A network that learned nothing has a kappa of about 0; this run reaches 0.83.
    quick = ("--epochs", "3", "--batch", "8", "--learning-rate", "2e-3", "--threads", "1", "--minimum-qwk", "0.6")
    assert train.main([*arguments, *quick]) == 0
    return out


# The generator


def test_the_same_seed_writes_the_same_essays() -> None:
    assert essays.write_essays(3, 24) == essays.write_essays(3, 24)


def test_another_seed_writes_other_essays() -> None:
    first, second = ({essay.text for essay in essays.write_essays(seed, 24)} for seed in (3, 4))
    assert not first & second


def test_the_generator_leaves_global_random_state_alone() -> None:
    before = np.random.get_state(legacy=False)  # noqa: NPY002  # the legacy state is what must not move
    essays.write_essays(5, 12)
    after = np.random.get_state(legacy=False)  # noqa: NPY002  # as above
    np.testing.assert_equal(after, before)


def test_essays_come_at_all_levels_in_turn() -> None:
    assert [essay.level for essay in essays.write_essays(3, 12)] == [1, 2, 3, 4, 5, 6] * 2


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), level=st.sampled_from([1, 2, 3, 4, 5, 6]))
def test_traits_are_within_0_and_1_and_amount_to_the_level(seed: int, level: int) -> None:
    traits = essays.draw_traits(np.random.default_rng(seed), level)
    assert all(0 <= trait <= 1 for trait in traits)
    assert essays.level_of(traits) == level


def test_traits_follow_the_level_but_differ_from_each_other() -> None:
    written = essays.write_essays(11, 600)
    correlation = np.corrcoef(np.array([(essay.level, *essay.traits) for essay in written]).T)
    off_diagonal = correlation[np.triu_indices(4, k=1)]
    assert off_diagonal.min() > 0.5
    assert correlation[1:, 1:][np.triu_indices(3, k=1)].max() < 0.9


def test_length_alone_does_not_give_the_level_away() -> None:
    written = essays.write_essays(11, 600)
    lengths = [len(essay.text.split()) for essay in written]
    assert np.corrcoef(lengths, [essay.level for essay in written])[0, 1] < 0.5


def test_taken_texts_are_not_written_again() -> None:
    taken = {essay.text for essay in essays.write_essays(3, 12)}
    assert not {essay.text for essay in essays.write_essays(3, 12, set(taken))} & taken


# The tokenizer


def test_a_text_is_enclosed_and_its_words_have_ids_of_their_own() -> None:
    ids = essays.Tokenizer().encode("Libraries help, in 2019.\n\nMoreover")
    assert (ids[0], ids[-1]) == (0, 2)
    assert len(set(ids)) == len(ids) == 10


def test_a_misspelt_word_gets_one_of_the_shared_ids() -> None:
    misspelt = essays.Tokenizer().encode("liibraries")[1]
    assert len(essays.SPECIALS) <= misspelt < len(essays.SPECIALS) + essays.MISSPELT_BUCKETS


def test_every_id_has_a_row_in_the_embedding_and_no_text_is_too_long() -> None:
    tokenizer = essays.Tokenizer()
    config = model.ScorerConfig()
    assert tokenizer.size <= config.vocabulary
    assert len(tokenizer.encode("word " * 1000)) == config.max_tokens == essays.MAX_TOKENS


def test_the_tokenizer_and_the_model_agree_on_padding() -> None:
    assert essays.PAD_ID == model.ScorerConfig().pad_id == 1


# The model


def test_padding_and_the_company_in_a_batch_do_not_change_a_score(shipped: torch.nn.Module) -> None:
    ids = torch.arange(22, 22 + 2 * 40).reshape(2, 40)
    mask = torch.ones_like(ids)
    mask[1, 25:] = 0
    with torch.inference_mode():
        together, _ = shipped(ids, mask)
        alone, _ = shipped(ids[1:, :25], mask[1:, :25])
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=0)


def test_ids_under_the_mask_are_never_read(shipped: torch.nn.Module) -> None:
    ids = torch.arange(22, 62).reshape(1, 40)
    mask = (torch.arange(40) < 30).long().reshape(1, 40)
    with torch.inference_mode():
        expected, _ = shipped(ids, mask)
        actual, _ = shipped(torch.where(mask == 1, ids, 500), mask)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_a_width_that_the_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="no multiple of heads"):
        model.ScorerConfig(hidden=100, heads=3)


# The training script


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=2, max_size=40))
def test_kappa_agrees_with_scikit_learn(ratings: list[tuple[int, int]]) -> None:
    first, second = np.array(ratings).T
    if len(set(first) | set(second)) == 1:
        return  # undefined: no disagreement is expected
    expected = cohen_kappa_score(first, second, weights="quadratic", labels=[1, 2, 3, 4, 5, 6])
    assert train.quadratic_weighted_kappa(first, second) == pytest.approx(expected)


def test_retraining_learns_and_writes_everything(retrained: Path) -> None:
    written = {path.name for path in (retrained / "model").iterdir()}
    assert written == {"weights.safetensors", "training.json", "validation"}
    summary = json.loads((retrained / "model" / "training.json").read_text(encoding="utf-8"))
    assert summary["qwk"] >= 0.6
    assert sum(len(shard["label"]) for shard in load_shards(retrained / "model" / "validation")) == 48


def test_retrained_weights_fit_a_network_of_the_same_depth(retrained: Path) -> None:
    network = model.EssayScorer(model.ScorerConfig(layers=2))
    missing, unexpected = network.load_state_dict(load_file(retrained / "model" / "weights.safetensors"), strict=False)
    assert (missing, unexpected) == ([], [])


def test_retraining_writes_a_calibration_set_that_matches_its_manifest(retrained: Path) -> None:
    assert_manifest_holds(retrained / "calibration", samples=48)


def test_nothing_of_the_host_is_written(retrained: Path) -> None:
    for path in ("model/training.json", "calibration/manifest.yaml"):
        assert str(retrained.parent) not in (retrained / path).read_text(encoding="utf-8")


def test_the_same_seed_trains_the_same_weights() -> None:
    options = train.Options(
        essays=24, validation_essays=12, calibration_essays=6, epochs=1, batch=8, layers=1, threads=1
    )
    training, held_out, _ = train.write_corpora(options)
    first, second = (train.train(options, training, held_out)[0].state_dict() for _ in range(2))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=0, rtol=0)


def test_a_model_that_agrees_too_little_is_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ("--essays", "16", "--validation-essays", "24", "--calibration-essays", "6", "--threads", "1")
    assert train.main(["--out", str(out), "--calibration-out", str(out), "--epochs", "1", *arguments]) == 3
    assert not out.exists()
    assert "nothing was written" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--essays", "0"], ["--epochs", "many"], ["--seed", "-1"], ["--colour", "red"]])
def test_an_unusable_option_ends_with_exit_code_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        train.main(arguments)
    assert caught.value.code == 2


def test_a_rerun_removes_shards_that_it_does_not_write(tmp_path: Path) -> None:
    shards.place({"tokens-032.npz": b"old", "tokens-064.npz": b"old"}, tmp_path)
    shards.place({"tokens-064.npz": b"new"}, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"tokens-064.npz": b"new"}


# What ships


def test_the_shipped_weights_are_small() -> None:
    assert (FOLDER / "weights.safetensors").stat().st_size <= 8_000_000


def test_the_shipped_validation_set_has_the_promised_arrays(validation: list[Shard]) -> None:
    assert len({shard["input_ids"].shape[1] for shard in validation}) == len(validation) >= 4
    for shard in validation:
        samples, _ = shard["input_ids"].shape
        assert set(shard) == {"input_ids", "attention_mask", "label", "slice.level"}
        assert shard["attention_mask"].shape == shard["input_ids"].shape
        assert shard["input_ids"].dtype == shard["attention_mask"].dtype == np.int64
        assert shard["label"].dtype == np.float32
        assert shard["slice.level"].dtype == np.int64
        assert shard["label"].shape == shard["slice.level"].shape == (samples,)
        np.testing.assert_array_equal(shard["input_ids"] == essays.PAD_ID, shard["attention_mask"] == 0)


def test_the_shipped_validation_set_holds_every_level_400_times(validation: list[Shard]) -> None:
    levels = np.concatenate([shard["slice.level"] for shard in validation])
    labels = np.concatenate([shard["label"] for shard in validation])
    assert np.bincount(levels).tolist() == [0] + [400] * 6
    np.testing.assert_allclose(labels, (levels - 1) / 5, atol=1e-7)


def test_the_shipped_model_agrees_with_the_levels(shipped: torch.nn.Module, validation: list[Shard]) -> None:
    scores, levels = [], []
    with torch.inference_mode():
        for shard in validation:
            # Every eighth essay: 300 of all lengths and levels, in seconds on a busy machine.
            for start in range(0, len(shard["label"]), 128):
                rows = slice(start, start + 128, 8)
                batch = (torch.from_numpy(shard[name][rows]) for name in ("input_ids", "attention_mask"))
                scores.append(shipped(*batch)[0].numpy())
                levels.append(shard["slice.level"][rows])
    score = np.concatenate(scores)
    rated = np.rint(1 + 5 * score).astype(int)
    assert cohen_kappa_score(np.concatenate(levels), rated, weights="quadratic") >= 0.80
    # The whole scale is used, so that a gate on the range means something.
    assert score.min() < 0.1
    assert score.max() > 0.9


def test_the_shipped_weights_were_made_by_a_run_that_passed() -> None:
    summary = json.loads((FOLDER / "training.json").read_text(encoding="utf-8"))
    assert summary["qwk"] >= 0.80
    assert summary["layers"] >= 4
    assert summary["essays"] == {"training": train.Options.essays, "validation": 2400, "calibration": 256}


def test_shipped_calibration_and_validation_share_no_essay(validation: list[Shard], calibration: list[Shard]) -> None:
    held_out, calibrating = rows_of(validation), rows_of(calibration)
    assert not set(held_out) & set(calibrating)
    assert len(set(held_out)) == len(held_out)
    assert len(set(calibrating)) == len(calibrating)


def test_the_shipped_manifest_tells_the_truth() -> None:
    assert_manifest_holds(CALIBRATION, samples=256)


def assert_manifest_holds(folder: Path, samples: int) -> None:
    """Compare a manifest with the shards that lie next to it."""
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text(encoding="utf-8"))
    data = load_shards(folder)
    assert {entry["path"] for entry in manifest["files"]} == {path.name for path in folder.glob("*.npz")}
    for entry, shard in zip(manifest["files"], data, strict=True):
        assert entry["sha256"] == hashlib.sha256((folder / entry["path"]).read_bytes()).hexdigest()
        assert entry["samples"] == len(shard["input_ids"])
        assert set(shard) == {"input_ids", "attention_mask", "slice.level"}
    levels = np.concatenate([shard["slice.level"] for shard in data])
    assert manifest["samples"] == samples == len(levels)
    assert manifest["strata"]["level"] == {level: int((levels == level).sum()) for level in range(1, 7)}
    assert manifest["collected"]["from"] <= manifest["collected"]["to"]
