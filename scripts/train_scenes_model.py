"""Trains the bundled model from scratch and saves it as a Hugging Face folder.

    python scripts/train_scenes_model.py --out m2ib_lightning/models/scenes

About 30 minutes on 2 cores. ``scripts/score_scenes_model.py`` then chooses the preset and writes the model card.
"""

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from lightning import Trainer, seed_everything

from m2ib_lightning.scenes.recipe import Recipe, build_model, build_processor
from m2ib_lightning.scenes.training import SceneContrastiveModule, retrieval


def main() -> None:
    """Train, measure retrieval on fresh scenes, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("m2ib_lightning/models/scenes"))
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    arguments = parser.parse_args()
    recipe = replace(Recipe(), seed=arguments.seed, steps=arguments.steps)

    torch.set_num_threads(1)  # the other core paints scenes
    seed_everything(recipe.seed, verbose=False)
    processor = build_processor()
    model = build_model(recipe, processor.tokenizer)
    start = time.perf_counter()
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        gradient_clip_val=recipe.clip_norm,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(SceneContrastiveModule(model, processor, recipe))
    seconds = time.perf_counter() - start
    model.eval()

    facts = {
        "recipe": asdict(recipe),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "training_minutes": round(seconds / 60, 1),
        "retrieval_one_phrase": retrieval(model, processor, phrases=1),
        "retrieval_two_phrases": retrieval(model, processor, phrases=2),
    }
    model.save_pretrained(arguments.out)
    (arguments.out / "model.safetensors").chmod(0o644)
    processor.save_pretrained(arguments.out)
    (arguments.out / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
