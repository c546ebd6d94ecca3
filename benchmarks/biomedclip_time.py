"""Measures the time of a pair with BiomedCLIP's shape, against CLIP ViT-B/16, in one run.

    python benchmarks/biomedclip_time.py                # 4 pairs of each, the default settings
    python benchmarks/biomedclip_time.py --device cuda --pairs 32

It needs OpenCLIP. The configuration is the published one: timm's ``vit_base_patch16_224``, BERT base with 256 positions
read, a two-layer projection to 512. The weights are random, and cost what trained ones cost. Each model gets the same
random pictures and the same caption of 10 words.

Where only ``make test-open-clip`` has installed OpenCLIP:

    PYTHONPATH=.open-clip:. python -c "import tests.open_clip.cpu_build, runpy, sys; sys.path.insert(0, 'benchmarks');
    runpy.run_path('benchmarks/biomedclip_time.py', run_name='__main__')"
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from machine import describe, seconds
from safetensors.torch import save_file
from transformers import BertConfig, BertTokenizer
from workload import CAPTION, Package, make_model, make_pairs

from m2ib_lightning.m2ib.explainer import resolve
from m2ib_lightning.models import LoadedModel, load_model

CONFIG = {
    "model_cfg": {
        "embed_dim": 512,
        "vision_cfg": {
            "timm_model_name": "vit_base_patch16_224",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": 224,
        },
        "text_cfg": {
            "hf_model_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
            "hf_tokenizer_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
            "hf_proj_type": "mlp",
            "hf_pooler_type": "cls_last_hidden_state_pooler",
            "context_length": 256,
        },
    },
    "preprocess_cfg": {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]},
}
"""BiomedCLIP's ``open_clip_config.json``."""


def make_biomedclip(folder: Path) -> LoadedModel:
    """Write a folder of BiomedCLIP's shape with random weights and a small vocabulary, and load it by its name."""
    import open_clip  # late: --help does not need it

    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG))
    BertConfig(vocab_size=30522).save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(CAPTION.split())]
    BertTokenizer(vocab={word: index for index, word in enumerate(words)}).save_pretrained(folder)
    cfg = json.loads(json.dumps(CONFIG["model_cfg"]))
    cfg["text_cfg"] |= {"hf_model_name": str(folder), "hf_model_pretrained": False}
    torch.manual_seed(0)
    save_file(open_clip.CustomTextCLIP(**cfg).state_dict(), folder / "open_clip_model.safetensors")
    return load_model(f"open_clip:local-dir:{folder}")


def main() -> None:
    """Measure and print one line per model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=4, help="pairs of a batch")
    parser.add_argument("--rounds", type=int, default=2, help="batches of each model, of which the best counts")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    print(describe(device))
    clip = make_model("ViT-B/16", device)
    pairs = make_pairs(clip, arguments.pairs)
    with tempfile.TemporaryDirectory() as folder:
        biomedclip = make_biomedclip(Path(folder))
    biomedclip.encoder.model.to(device)
    models = {"CLIP ViT-B/16": clip, "BiomedCLIP": biomedclip}
    works = {name: Package(model, resolve(model.preset, model.encoder), device) for name, model in models.items()}
    batches = {name: work.batch(pairs) for name, work in works.items()}
    best, busy = dict.fromkeys(works, float("inf")), dict.fromkeys(works, float("inf"))
    for measured in [False] + arguments.rounds * [True]:  # the first round is to warm up
        for name, work in works.items():
            with work.explainer.at_work():
                start = time.process_time()
                taken = seconds(partial(work, batches[name], torch.float32), device)
                processor = time.process_time() - start
            if measured:
                best[name], busy[name] = min(best[name], taken), min(busy[name], processor)
    reference = "CLIP ViT-B/16"
    for name, total in best.items():
        tokens = batches[name].inputs["text"]["input_ids"].shape[1]
        print(
            f"{name}: {total / arguments.pairs:.2f} s a pair, {total / best[reference]:.2f} times {reference}; by the "
            f"processor's time {busy[name] / arguments.pairs:.2f} s, {busy[name] / busy[reference]:.2f} times "
            f"({arguments.pairs} pairs, captions of {tokens} tokens, float32)"
        )


if __name__ == "__main__":
    main()
