"""What PyTorch computes on a GPU, and how fast: `python export/gpu_baseline.py OUT --score-texts FILE --translate-texts FILE`.

    reference   universal_transformer.py in float32 without TF32, on the package's own (dequantised) weights: OUT/reference, in the files
                that gpu_results.py describes
    speed       gpu_models.py in float16, over all texts sorted by length, at several batch sizes; compiled by torch.compile, then with
                its kernels tuned, then not compiled at all

FILEs: JSON, a list of lists of token ids (gpu_inputs.py). Writes OUT/pytorch.json after every measurement; what fails is an "error"
there, and nothing is begun after --seconds-max.
"""

from __future__ import annotations

import argparse
import json
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export import read_constants
from gpu_results import Scores, write_scores, write_translations
from gpu_speed import VARIANTS, Report, measure_scores, measure_translations, timed
from harness import ROOT, commit, machine, package_config
from translation_harness import translation_config
from translation_pytorch import LastLogits, by_length, greedy
from universal_transformer import LanguageModel
from universal_transformer_onnx import reference_weights

SCORER, TRANSLATOR = "ut-lm-en", "ut-mt-ende"
WINDOWS_A_BATCH, SENTENCES_A_BATCH = 32, 128
PARTS = ("reference", "speed")


def load_models(models: Path, device: str) -> tuple[LanguageModel, LastLogits]:
    """The reference, on the device."""
    out = []
    for name, configure, kind in ((SCORER, package_config, LanguageModel), (TRANSLATOR, translation_config, LastLogits)):
        config = configure(models / name)
        weights = reference_weights(read_constants(models / name), config)
        with torch.device(device):
            out.append(kind(config, {key: tensor.to(device) for key, tensor in weights.items()}))
    return out[0], out[1]


def reference_scores(model: LanguageModel, texts: list[list[int]], device: str) -> Scores:
    results: dict[int, tuple[np.ndarray, ...]] = {}
    with torch.device(device):
        for indices in by_length(texts, WINDOWS_A_BATCH):
            for i, (logprobs, ponder) in zip(indices, model.score([texts[i] for i in indices]), strict=True):
                chosen = logprobs.gather(1, torch.tensor(texts[i])[:, None]).squeeze(1)
                results[i] = tuple(values.cpu().numpy() for values in (chosen, ponder.depth, ponder.remainder))
    arrays = [np.concatenate([results[i][k] for i in range(len(texts))]) for k in range(3)]
    return Scores(SCORER, [len(tokens) for tokens in texts], *arrays)


def reference_translations(model: LastLogits, texts: list[list[int]], device: str) -> list[dict[str, Any]]:
    with torch.device(device):
        done = greedy(model, texts, SENTENCES_A_BATCH)
    return [{"ids": t.ids, "logprobs": t.logprobs, "depths": t.decoder_depth, "encoder_depths": t.encoder_depth} for t in done]


def keep_scores(out: Path, model: LanguageModel, texts: list[list[int]], device: str) -> dict[str, Any]:
    seconds, done = timed(device, lambda: reference_scores(model, texts, device))
    write_scores(out, done)
    means = {"mean_depth": round(float(done.depth.mean()), 4), "logprob_mean": round(float(done.logprob.mean()), 6)}
    return {"windows": len(texts), "tokens": len(done.depth), "seconds": round(seconds, 1), **means}


def keep_translations(out: Path, model: LastLogits, texts: list[list[int]], device: str) -> dict[str, Any]:
    seconds, done = timed(device, lambda: reference_translations(model, texts, device))
    write_translations(out, done)
    depths = [depth for sentence in done for depth in sentence["depths"]]
    return {"sentences": len(texts), "tokens": len(depths), "seconds": round(seconds, 1), "mean_depth": round(statistics.mean(depths), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", type=Path, default=ROOT / "models", help="folder of the packages")
    parser.add_argument("--score-texts", type=Path, required=True)
    parser.add_argument("--translate-texts", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), help="the first at all batch sizes")
    parser.add_argument("--texts-max", type=int, help="only so many of the texts of each file")
    parser.add_argument("--seconds-max", type=float, default=270)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    windows, sentences = (json.loads(path.read_text())[: args.texts_max] for path in (args.score_texts, args.translate_texts))
    device = args.device if args.device == "cpu" else torch.cuda.get_device_name()
    about = {
        "commit": commit(),
        "machine": machine(),
        "device": device,
        "precision_of_speed": "float32" if args.device == "cpu" else "float16",
    }
    texts = {"windows": str(args.score_texts), "sentences": str(args.translate_texts)}
    report = Report(args.out / "pytorch.json", args.seconds_max, about | texts)
    scorer, translator = load_models(args.models, args.device)
    # Full float32: neither products nor attention in TF32.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    if "reference" in args.parts:
        report.attempt("reference scores", partial(keep_scores, args.out / "reference", scorer, windows, args.device))
        report.attempt("reference translations", partial(keep_translations, args.out / "reference", translator, sentences, args.device))
    torch.backends.cuda.enable_mem_efficient_sdp(True)
    for variant in args.variants if "speed" in args.parts else ():
        measure_scores(report, scorer, windows, args.device, variant)
        measure_translations(report, translator, sentences, args.device, variant)


if __name__ == "__main__":
    main()
