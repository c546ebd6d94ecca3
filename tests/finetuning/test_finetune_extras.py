"""Fine-tuning: low-rank adapters, zero-shot accuracy, hard negatives and classes of a table, maps at validation."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import CLIPModel

from m2ib_lightning import load_model
from m2ib_lightning.cli import main
from m2ib_lightning.config import FinetuneConfig
from m2ib_lightning.encoder.towers import Encoder
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.finetuning import FinetuneDataModule, IBClipModule
from m2ib_lightning.finetuning.lora import add_adapters, merge_adapters
from m2ib_lightning.finetuning.positives import caption_signatures, picture_signatures, positives
from m2ib_lightning.finetuning.zero_shot import zero_shot_accuracy
from m2ib_lightning.m2ib.explainer import resolve
from m2ib_lightning.methods import Context, make_method
from m2ib_lightning.metrics.map_scores import localisation
from m2ib_lightning.models import LoadedModel
from m2ib_lightning.pairs.tables.cells import CellReader, Columns
from m2ib_lightning.pairs.tables.open_table import open_table
from tests.equality import relative_difference
from tests.reference import clean_embeddings
from tests.tiny import FAMILIES, make_model, make_pairs
from tests.training import scenes, train, weights

LORA = FinetuneConfig(train="lora", lr=1e-2, warmup=1, rank=3)


def scenes_with_quick_maps(
    limit: int, batch_size: int, validation: float, seed: int = 3, pictures: int = 0
) -> tuple[LoadedModel, FinetuneDataModule]:
    """The bundled model with a preset of few steps and draws, and scenes to train it on."""
    model, data = scenes(limit, batch_size, validation, seed=seed, pictures=pictures)
    return replace(model, preset=model.preset.override({"steps": 2, "noise_samples": 2})), data


def expected_maps(model: LoadedModel, data: FinetuneDataModule, count: int) -> list[dict[str, float]]:
    """Scores of M2IB's maps of the first validation pairs, with the priors of the bundled model."""
    statistics = load_model("scenes").statistics
    method = make_method("m2ib", Context(model, resolve(model.preset, model.encoder), statistics))
    with method.at_work(torch.device("cpu"), torch.float32):
        return [localisation(result) for batch in data.val_dataloader() for result in method(batch)][:count]


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_change_nothing_at_first_and_merge_into_what_they_did(family: str) -> None:
    model = make_model(family).double()
    names = list(model.state_dict())
    (pair,) = make_pairs(model, [4])
    inputs = pair.pixels[None].double(), torch.tensor([pair.ids])
    before = clean_embeddings(model, *inputs)
    add_adapters(Encoder(model), 2, seed=0)
    model.double()
    for modality, value in clean_embeddings(model, *inputs).items():
        assert torch.equal(value, before[modality])
    changed = 0
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
            changed += 1
    assert changed > 6
    during = clean_embeddings(model, *inputs)
    merge_adapters(model)
    assert list(model.state_dict()) == names
    for modality, value in clean_embeddings(model, *inputs).items():
        assert relative_difference(value, during[modality]) < 1e-9
        assert relative_difference(value, before[modality]) > 1e-3


def test_the_first_adapters_are_keyed_by_the_seed() -> None:
    drawn = []
    for seed in (0, 0, 1):
        encoder = load_model("scenes").encoder
        add_adapters(encoder, 2, seed)
        drawn.append(torch.cat([p.flatten() for n, p in encoder.model.named_parameters() if "lora_A" in n]))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_only_adapters_are_trained_and_kept_in_checkpoints(tmp_path: Path) -> None:
    model, data = scenes(16, 8)
    module = IBClipModule(model, LORA)
    before = weights(module)
    trainer = train(module, data)
    changed = {name for name, value in weights(module).items() if not torch.equal(before[name], value)}
    assert len(changed) > 80
    assert all("lora_" in name or name == "logit_scale" for name in changed)
    trainer.save_checkpoint(tmp_path / "some.ckpt")
    kept = torch.load(tmp_path / "some.ckpt", weights_only=True)["state_dict"]
    assert {name.removeprefix("network.model.") for name in kept if ".model." in name} >= changed
    assert not any("base_layer" in name for name in kept)


@pytest.mark.slow
def test_a_run_with_adapters_leaves_a_plain_model(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["task=finetune", "finetune.train=lora", "finetune.lr=1e-2", "finetune.warmup=1", "trainer.max_epochs=1"]
    words += ["data.limit=16", "finetune.validation=0", "data.batch_size=8", "trainer.enable_progress_bar=false"]
    words += ["bottleneck.calibration_pairs=8"]
    assert main([*words, f"output_dir={run}"]) == 0
    trained, start = CLIPModel.from_pretrained(run / "model"), load_model("scenes").encoder.model
    assert list(trained.state_dict()) == list(start.state_dict())
    query = "text_model.encoder.layers.0.self_attn.q_proj"
    change = trained.get_submodule(query).weight - start.get_submodule(query).weight
    assert change.abs().max() > 1e-4
    assert torch.linalg.matrix_rank(change, rtol=1e-3) <= FinetuneConfig().rank
    assert torch.equal(trained.get_submodule(query).bias, start.get_submodule(query).bias)


def test_without_peft_the_group_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(M2IBError, match=r"pip install 'm2ib_lightning\[lora\]'"):
        IBClipModule(load_model("scenes"), LORA)


def test_a_second_pair_of_adapters_is_refused() -> None:
    model = load_model("scenes")
    IBClipModule(model, LORA)
    with pytest.raises(M2IBError, match="has adapters already"):
        IBClipModule(model, LORA)


def test_zero_shot_accuracy_is_its_definition() -> None:
    prompts = {"a cat.": [1.0, 0.0], "a dog.": [0.0, 1.0]}
    images = torch.tensor([[2.0, 1.0], [1.0, 3.0], [1.0, 2.0], [5.0, 0.0]])

    def embed(captions: list[str]) -> torch.Tensor:
        return torch.tensor([prompts[caption] for caption in captions])

    assert zero_shot_accuracy(images, ["cat", "dog", "cat", None], "a {}.", embed) == pytest.approx(2 / 3)
    assert zero_shot_accuracy(images, ["cat", "cat", None, "cat"], "a {}.", embed) is None


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Squares of two colours; the second of their two negatives is true of no picture."""
    rows = []
    for index in range(12):
        colour = ("red", "blue")[index % 2]
        pixels = np.full((64, 64, 3), 128, np.uint8)
        pixels[16:48, 16:48] = (255, 0, 0) if colour == "red" else (0, 0, 255)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
        wrong = ("blue", "red")[index % 2]
        rows.append(
            {
                "image": f"{index}.png",
                "caption": f"a {colour} square",
                "negatives": [f"a {wrong} square", f"a {wrong} star"],
                "class": f"{colour} square",
            }
        )
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.mark.slow
def test_hard_negatives_and_classes_of_a_table(table: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [
        "task=finetune",
        "data.name=captions",
        f"data.path={table}",
        "data.batch_size=4",
        "finetune.hard_negatives=2",
    ]
    words += ["data.negatives_column=negatives", "data.label_column=class", "finetune.prompt=a {}", "finetune.lr=1e-4"]
    words += ["finetune.validation=0.5", "finetune.maps=0", "trainer.max_epochs=1", "trainer.enable_progress_bar=false"]
    words += ["data.num_workers=0"]
    assert main([*words, f"output_dir={run}"]) == 0
    summary = json.loads((run / "summary.json").read_text())
    assert summary["val/zero_shot_accuracy"] == 1.0
    assert summary["val/image_to_text@1"] == 1.0  # another picture with the same caption is right


def test_a_missing_column_of_negatives_is_named(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["task=finetune", "data.name=captions", f"data.path={table}", "data.negatives_column=negative"]
    assert main(words) == 2
    assert "has no column 'negative' (data.negatives_column)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (["a", "b"], ["a", "b"]),
        ('["a", "b"]', ["a", "b"]),
        ("a lone one", ["a lone one"]),
        ("[sic] a dog", ["[sic] a dog"]),
        ("", []),
        (None, []),
    ],
)
def test_a_cell_of_negatives(cell: object, expected: list[str]) -> None:
    reader = CellReader(Columns(negatives="others"), Path("."))
    raw = reader.pair("k", {"image": "x.png", "caption": "c", "others": cell})
    assert [other.text for other in (raw.truth.others if raw.truth else [])] == expected


def test_a_cell_of_negatives_without_text_costs_its_row() -> None:
    reader = CellReader(Columns(negatives="others"), Path("."))
    raw = reader.pair("k", {"image": "x.png", "caption": "c", "others": [3]})
    assert raw.error is not None
    assert "hard negatives must be text or a list of texts, got [3]" in raw.error


@pytest.mark.parametrize(("cell", "label"), [("cat", "cat"), (" cat ", "cat"), (7, "7"), ("", None), (None, None)])
def test_a_cell_of_a_class(cell: object, label: str | None) -> None:
    raw = CellReader(Columns(label="class"), Path(".")).pair("k", {"image": "x.png", "caption": "c", "class": cell})
    assert (raw.truth.label if raw.truth else None) == label


def test_the_classes_of_a_hub_data_set_have_their_names(tmp_path: Path) -> None:
    import datasets

    text, kinds = datasets.Value("string"), datasets.ClassLabel(names=["cat", "dog"])
    features = datasets.Features({"image": text, "caption": text, "class": kinds})
    rows = {"image": ["a.png"] * 3, "caption": ["c"] * 3, "class": [1, 0, None]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "pairs.parquet")
    table = open_table(str(tmp_path / "pairs.parquet"), "train", ("caption", "image"))
    assert [table[index]["class"] for index in range(3)] == ["dog", "cat", None]


def test_hard_negatives_need_their_column(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["task=finetune", "data.name=captions", f"data.path={table}", "finetune.hard_negatives=1"]
    assert main([*words, f"output_dir={tmp_path / 'run'}"]) == 2
    assert "finetune.hard_negatives=1 needs data.negatives_column" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_caption_of_another_object_of_the_scene_is_a_positive() -> None:
    _, data = scenes(12, 12)
    data.hard_negatives = 2
    (batch,) = data.train_dataloader()
    positive = positives(picture_signatures(batch.pairs), caption_signatures(batch.pairs, 2))
    pair = torch.arange(12)
    assert positive[pair, 12 + 2 * pair].all()  # "present"
    assert not positive[pair, 13 + 2 * pair].any()  # "absent"


def test_an_error_in_a_worker_ends_the_workers() -> None:
    _, data = scenes(8, 4)
    data.pairs.num_workers, data.hard_negatives = 1, 50
    with pytest.raises(M2IBError, match=r"finetune.hard_negatives=50 and the pair has 2"):
        list(data.train_dataloader())
    for worker in active_children():
        worker.join(20)
        assert not worker.is_alive()


@pytest.mark.slow
def test_an_error_in_a_worker_ends_the_process(table: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) | {"negatives": []} for line in table.read_text().splitlines()]
    table.write_text("\n".join(map(json.dumps, lines)))
    words = ["task=finetune", "data.name=captions", f"data.path={table}", "data.negatives_column=negatives"]
    words += ["finetune.hard_negatives=1", "data.batch_size=4", "data.num_workers=1", f"output_dir={tmp_path / 'run'}"]
    code = "import sys; from m2ib_lightning.cli import main; sys.exit(main())"
    ended = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 2
    assert "finetune.hard_negatives=1 and the pair has 0" in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("inference_mode", [True, False])
def test_the_maps_of_a_validation_are_those_of_the_model(inference_mode: bool, tmp_path: Path) -> None:
    """The model is frozen, so the maps are those of the bundled model; the first ones are drawn."""
    model, data = scenes_with_quick_maps(16, 4, validation=0.3, pictures=2)
    module = IBClipModule(model, FinetuneConfig(train="bottleneck", maps=3))
    logger = TensorBoardLogger(tmp_path, name="", version="")
    options: dict[str, Any] = {"max_epochs": 2, "num_sanity_val_steps": 0, "limit_train_batches": 1, "logger": logger}
    trainer = train(module, data, **options, inference_mode=inference_mode)
    expected = expected_maps(replace(load_model("scenes"), preset=model.preset), data, 3)
    for name in ("image_pointing", "image_ap", "text_auroc"):
        mean = np.nanmean([scores[name] for scores in expected])
        assert float(trainer.callback_metrics[f"val/{name}"]) == pytest.approx(mean, rel=1e-4)
    logger.experiment.flush()
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    assert events.Tags()["images"] == [f"val/map-{number}" for number in range(2)]
    assert len(events.Images("val/map-0")) == 2


@pytest.mark.slow
def test_maps_leave_the_training_alone_and_are_of_the_current_weights() -> None:
    trained = []
    for maps in (0, 4):
        model, data = scenes_with_quick_maps(12, 4, validation=0.34, seed=8)
        module = IBClipModule(model, FinetuneConfig(lr=1e-3, warmup=1, maps=maps))
        trainer = train(module, data, max_epochs=2)
        trained.append(weights(module))
    assert all(torch.equal(value, trained[1][name]) for name, value in trained[0].items())
    assert not torch.equal(trained[0]["logit_scale"], load_model("scenes").encoder.model.logit_scale)
    expected = expected_maps(model, data, 4)
    for name in ("image_ap", "text_auroc"):
        mean = np.nanmean([scores[name] for scores in expected])
        assert float(trainer.callback_metrics[f"val/{name}"]) == pytest.approx(mean, rel=1e-4)


def test_a_preset_that_does_not_fit_costs_the_maps_alone() -> None:
    model, data = scenes(8, 4, validation=0.25)
    wrong = replace(model, preset=model.preset.override({"image": {"layer": 9}}))
    module = IBClipModule(wrong, FinetuneConfig(), model.preset)
    with pytest.warns(UserWarning, match="no maps at validation: the folder's preset does not fit: .*layer"):
        trainer = train(module, data)
    assert "val/image_information" in trainer.callback_metrics
    assert "val/image_pointing" not in trainer.callback_metrics


def test_no_maps_if_none_are_wanted() -> None:
    model, data = scenes(8, 4, validation=0.25)
    trainer = train(IBClipModule(model, FinetuneConfig(train="bottleneck", maps=0)), data)
    assert "val/image_information" in trainer.callback_metrics
    assert "val/image_pointing" not in trainer.callback_metrics
