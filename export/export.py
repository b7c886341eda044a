"""Exports a checkpoint as a model package: `python export/export.py CHECKPOINT models/NAME`.

A package is a folder: manifest.json (with the sha256 of every other file), the ONNX graphs, weights.bin (their weights, once),
tokenizer.json and golden.json (what PyTorch computes on the same weights). Two runs write the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor

import adaptive_span
import adaptive_span_onnx as span_onnx
import universal_transformer_onnx as ut
from universal_transformer import LanguageModel, TranslationModel, load

ALIGNMENT = 64  # bytes; a cache line, so that no tensor starts in the middle of one

LICENCES = {
    "lm": "trained on English Wikipedia text, CC-BY-SA",
    "translation": "trained on Tatoeba (CC-BY 2.0), WMT newstests, Multi30k, TED, BConTrasT, MLQE-PE "
    "and the texts of Debian packages (free licences)",
}

TYPES = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.INT64: "int64",
    onnx.TensorProto.BOOL: "bool",
    onnx.TensorProto.UINT8: "uint8",
}


def write_weights(path: Path, constants: dict[str, Tensor]) -> dict[str, tuple[int, int]]:
    """Writes the constants one after another; returns {name: (offset, bytes)}. Raises ValueError naming one that is not finite: the
    maximum of a row ignores NaN, so a server would turn it into wrong scores."""
    places = {}
    with path.open("wb") as f:
        for name, tensor in sorted(constants.items()):
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise ValueError(f"{name} holds NaN or infinity")
            f.write(bytes(-f.tell() % ALIGNMENT))
            data = tensor.contiguous().numpy().tobytes()
            places[name] = (f.tell(), len(data))
            f.write(data)
    return places


def place(model: onnx.ModelProto, places: dict[str, tuple[int, int]], file: str) -> None:
    for init in model.graph.initializer:
        offset, length = places[init.name]
        for key, value in (("location", file), ("offset", str(offset)), ("length", str(length))):
            init.external_data.add(key=key, value=value)


def read_constants(folder: Path) -> dict[str, Tensor]:
    """The constants of a package, read back from its graphs: what parity tests start from, not what the exporter had in memory."""
    constants = {}
    for path in sorted(folder.glob("*.onnx")):
        for init in onnx.load(path).graph.initializer:
            constants[init.name] = torch.from_numpy(onnx.numpy_helper.to_array(init).copy())
    return constants


def signature(model: onnx.ModelProto) -> dict:
    def side(values) -> dict:
        out = {}
        for v in values:
            t = v.type.tensor_type
            out[v.name] = {"type": TYPES[t.elem_type], "dims": [d.dim_value or d.dim_param for d in t.shape.dim]}
        return out

    return {"inputs": side(model.graph.input), "outputs": side(model.graph.output)}


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def golden_score(model: LanguageModel, checkpoint: Path) -> list[dict]:
    """The texts of the checkpoint's golden file, computed anew on the package's weights. Rounded, so that a last bit does
    not change the package."""
    out = []
    for case in json.loads((checkpoint / "golden.json").read_text()):
        ids = case["ids"]
        logprobs, ponder = model.score([ids])[0]
        chosen = logprobs[torch.arange(len(ids)), torch.tensor(ids)]
        out.append(
            {
                "text": case["text"], "ids": ids, "bytes": case["bytes"],
                "logprobs": [round(x, 4) for x in chosen.tolist()],
                "depth": ponder.depth.tolist(),
                "remainder": [round(x, 4) for x in ponder.remainder.tolist()],
                "margin": [round(x, 5) if x < 1 else 1 for x in ponder.margin.tolist()],
            }
        )  # fmt: skip
    return out


def golden_translate(model: TranslationModel, checkpoint: Path) -> list[dict]:
    """The sentences of the checkpoint's golden file, translated greedily on the package's weights."""
    cases = json.loads((checkpoint / "golden.json").read_text())
    out = []
    for case, t in zip(cases, model.greedy([case["source_ids"] for case in cases]), strict=True):
        out.append(
            {
                "source": case["source"], "source_ids": case["source_ids"], "encoder_depth": t.encoder_depth,
                "ids": t.ids, "logprobs": [round(x, 4) for x in t.logprobs], "decoder_depth": t.decoder_depth,
                "margin": round(t.margin, 5), "gap": round(min(t.gaps), 5),
            }
        )  # fmt: skip
    return out


def task_facts(config: dict) -> dict:
    """The part of the manifest that depends on the task."""
    dimensions = {"d_model": config["d_model"], "heads": config["heads"], "d_ff": config["d_ff"], "vocab": config["vocab"]}
    if config["task"] == "lm":
        return {
            "task": "score",
            "language": config["language"],
            "dimensions": {**dimensions, "context": config["context"]},
            "tokens": {"bos": config["bos"], "eos": 2, "pad": 0},
        }
    return {
        "task": "translate",
        "language": config["source"],
        "target_language": config["target"],
        "dimensions": {**dimensions, "context": config["max_len"]},
        "tokens": {key: config[key] for key in ("bos", "eos", "pad")},
    }


def write_package(target: Path, constants: dict[str, Tensor], graphs: dict[str, dict[str, onnx.ModelProto]]) -> dict[str, dict]:
    """Starts the folder anew with weights and graphs; returns the manifest's `precisions`. A graph that is the same in several precisions
    is written once."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    places = write_weights(target / "weights.bin", constants)
    precisions: dict[str, dict] = {}
    written = Counter(model.SerializeToString(deterministic=True) for models in graphs.values() for model in models.values())
    for precision, models in graphs.items():
        precisions[precision] = {}
        for name, model in models.items():
            shared = written[model.SerializeToString(deterministic=True)] > 1
            file = f"{name}.onnx" if shared else f"{name}.{precision}.onnx"
            place(model, places, "weights.bin")
            (target / file).write_bytes(model.SerializeToString(deterministic=True))
            onnx.checker.check_model(target / file)  # by path: only then are external weights looked for beside it
            precisions[precision][name] = {"file": file, **signature(model)}
    return precisions


def write_manifest(target: Path, facts: dict, before: dict) -> None:
    """`facts` and the size and hash of every file that lies in the folder now. What was measured on the package `before` stays when the
    weights are the same."""
    files = {}
    for path in sorted(target.iterdir()):
        data = path.read_bytes()
        files[path.name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    if "measured" in before.get("quality", {}) and before["files"]["weights.bin"] == files["weights.bin"]:
        facts = {**facts, "quality": {**facts["quality"], "measured": before["quality"]["measured"]}}
    write_json(target / "manifest.json", {"format": "ponder-serve/1", "name": target.name, **facts, "files": files})


def read_manifest(target: Path) -> dict:
    path = target / "manifest.json"
    return json.loads(path.read_text()) if path.exists() else {}


def export_package(checkpoint: Path, target: Path, vocabulary: Path | None = None) -> None:
    """A folder with config.json is a Universal Transformer; a file is an adaptive-span model in the authors' layout, whose ids are all
    bytes or those of a vocabulary file."""
    torch.set_num_threads(1)  # the order of summation, and so the golden file, depends on the number of threads
    if checkpoint.is_file():
        export_span(checkpoint, target, vocabulary)
        return
    before = read_manifest(target)
    config, weights = load(checkpoint)
    constants = ut.initialisers(weights, config)
    precisions = write_package(target, constants, ut.graphs(config, constants))
    shutil.copyfile(checkpoint / "tokenizer.json", target / "tokenizer.json")
    reference = ut.reference_weights(constants, config)
    if config["task"] == "lm":
        write_json(target / "golden.json", golden_score(LanguageModel(config, reference), checkpoint))
    else:
        write_json(target / "golden.json", golden_translate(TranslationModel(config, reference), checkpoint))
    facts = {
        "family": config["family"],
        **task_facts(config),
        "halting": {k: config[k] for k in ("act_type", "halted_state", "forced_stop", "max_steps", "threshold")},
        "parameters": sum(w.numel() for w in weights.values()),
        "precisions": precisions,
        "provenance": {**config["trained"], "licence": config["trained"].get("licence", LICENCES[config["task"]])},
        "quality": {"checkpoint": config["measured"]},
    }
    write_manifest(target, facts, before)


# What stands before the first byte of a text, so that it too is predicted: a line break.
START_BYTE = 10

GOLDEN_TEXTS = (
    "A head that looks back ten keys pays for ten keys.",
    "Die Straße war naß; 42 Äpfel lagen dort. \u2014 \U0001f600",
    "The span of attention is learnt: most heads look at a few characters, a few look at a thousand. " * 24,
)


def read_vocabulary(path: Path | None, vocab: int) -> list[int]:
    """The bytes that the ids stand for. A file has the number of one a line, in order of ids, as the authors' preparation writes the tokens
    of enwik8. Raises ValueError when it does not fit the checkpoint."""
    if path is None:
        if vocab != 256:
            raise ValueError(f"the checkpoint has {vocab} ids, not all 256 bytes: name the file of its bytes with --vocabulary")
        return list(range(256))
    lines = path.read_text().split()
    numbers = [int(line) if line.isdecimal() else -1 for line in lines]
    if any(not 0 <= n <= 255 for n in numbers) or len(set(numbers)) != len(numbers):
        raise ValueError(f"{path.name} is no list of different bytes, a number from 0 to 255 a line")
    if len(numbers) != vocab:
        raise ValueError(f"{path.name} has {len(numbers)} bytes where the checkpoint has {vocab} ids")
    return numbers


def export_span(
    checkpoint: Path, target: Path, vocabulary: Path | None = None, golden_texts: Sequence[str] = GOLDEN_TEXTS
) -> None:
    """Bytes as vocabulary. `<checkpoint without suffixes>.json` beside the file holds provenance and quality."""
    before = read_manifest(target)
    shape, weights = adaptive_span.load_checkpoint(checkpoint)
    numbers = read_vocabulary(vocabulary, shape.vocab)
    id_of = {byte: i for i, byte in enumerate(numbers)}
    start = id_of.get(START_BYTE, 0)
    described = checkpoint.with_name(checkpoint.name.split(".")[0] + ".json")
    if not described.is_file():
        raise ValueError(f"no {described.name} beside {checkpoint.name}: docs/your-model.md says what belongs into it")
    about = json.loads(described.read_text())
    constants = span_onnx.initialisers(shape, weights)
    precisions = write_package(target, constants, span_onnx.graphs(shape, weights, constants))
    model = adaptive_span.SpanModel(shape, span_onnx.reference_weights(shape, weights, constants))
    golden = []
    for text in golden_texts:
        if not set(text.encode()) <= id_of.keys():
            continue
        ids = [id_of[byte] for byte in text.encode()]
        logprobs = model.logprobs(torch.tensor([start, *ids[:-1]]))[torch.arange(len(ids)), torch.tensor(ids)]
        golden.append({"text": text, "ids": ids, "bytes": len(ids), "logprobs": [round(x, 4) for x in logprobs.tolist()]})
    write_json(target / "golden.json", golden)
    if shape.vocab != 256:
        write_json(target / "vocabulary.json", numbers)
    facts = {
        "family": "adaptive-span",
        "task": "score",
        "language": about["language"],
        "dimensions": {
            "d_model": shape.d_model, "heads": shape.heads, "d_ff": shape.d_ff, "vocab": shape.vocab,
            "layers": shape.layers, "span_max": shape.span_max, "ramp": shape.ramp,
        },
        "span": {
            "kind": "dynamic" if shape.dynamic else "adaptive",
            # Keys of each layer and head, and how the heads share pools: the order of a group's columns is that of its heads.
            "keys": adaptive_span.spans(shape, weights),
            "groups": span_onnx.plan(shape, weights),
        },
        "tokens": {"bos": start},
        "tokenizer": "bytes",
        "parameters": sum(weights[name].numel() for name in adaptive_span.expected(shape)),
        "precisions": precisions,
        "provenance": about["provenance"],
        "quality": about["quality"],
    }  # fmt: skip
    write_manifest(target, facts, before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="a folder with config.json, or a file of the adaptive-span layout")
    parser.add_argument("target", type=Path, help="folder to write, for example models/ut-lm-en")
    parser.add_argument("--vocabulary", type=Path, help="adaptive span: a byte's number a line in order of ids; without it, all 256 bytes")
    args = parser.parse_args()
    export_package(args.checkpoint, args.target, args.vocabulary)


if __name__ == "__main__":
    main()
