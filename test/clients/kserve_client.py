"""Calls a server with tritonclient[http] as its examples show, and prints what it returns as JSON."""

import json
import sys

import numpy as np
import tritonclient.http as http
from tritonclient.utils import InferenceServerException

host, scorer, translator = sys.argv[1:4]
client = http.InferenceServerClient(host)


def tensor(name, array, datatype, binary=True):
    given = http.InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array, binary_data=binary)
    return given


def texts(*values, binary=True):
    return tensor("text", np.array([value.encode() for value in values], dtype=np.object_), "BYTES", binary)


def wanted(binary, *names):
    return [http.InferRequestedOutput(name, binary_data=binary) for name in names]


def as_lists(result, *names):
    return {name: result.as_numpy(name).tolist() for name in names}


def error(call):
    try:
        call()
    except InferenceServerException as raised:
        return {"status": raised.status(), "message": raised.message()}
    return None


outputs = ("logprobs", "depths", "remainders", "token_ids", "lengths")
passage = texts("Hello world.", "Café")
ids = np.array([[72, 101, 108]], dtype=np.int64)
budget = [tensor("max_steps", np.array([2], dtype=np.int32), "INT32")]
fast = client.infer(scorer, [passage], request_id="some id", parameters={"max_steps": 2})

# Raw: the whole body is one text, and there is no JSON part. The client has no call for it but its own way to send a body.
raw = client._post(f"v2/models/{translator}/infer", "Hello.", {"Inference-Header-Content-Length": "0"}, None)


def changes():
    """Unloads a model and loads it again; tells whether it was ready before, between and after."""
    ready = [client.is_model_ready(translator)]
    client.unload_model(translator)
    ready.append(client.is_model_ready(translator))
    client.load_model(translator)
    return [*ready, client.is_model_ready(translator)]


print(
    json.dumps(
        {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model_ready": [
                client.is_model_ready(scorer),
                client.is_model_ready(scorer, "1"),
                client.is_model_ready(scorer, "2"),
                client.is_model_ready("none"),
            ],
            "server": client.get_server_metadata()["extensions"],
            "metadata": client.get_model_metadata(scorer),
            "config": client.get_model_config(translator)["name"],
            "binary": as_lists(client.infer(scorer, [passage]), *outputs),
            "json": as_lists(
                client.infer(
                    scorer, [texts("Hello world.", "Café", binary=False)], outputs=wanted(False, *outputs)
                ),
                *outputs,
            ),
            "gzip": as_lists(
                client.infer(
                    scorer,
                    [passage],
                    request_compression_algorithm="gzip",
                    response_compression_algorithm="gzip",
                ),
                *outputs,
            ),
            "deflate": as_lists(
                client.infer(
                    scorer,
                    [passage],
                    request_compression_algorithm="deflate",
                    response_compression_algorithm="deflate",
                ),
                *outputs,
            ),
            "async": as_lists(client.async_infer(scorer, [passage]).get_result(), *outputs),
            "ids": as_lists(
                client.infer(scorer, [tensor("input_ids", ids, "INT64")]), "token_ids", "lengths"
            ),
            "ids32": as_lists(
                client.infer(scorer, [tensor("input_ids", ids[0].astype(np.int32), "INT32", binary=False)]),
                "token_ids",
                "lengths",
            ),
            "budget": as_lists(client.infer(scorer, [passage, *budget]), "depths"),
            "budget_as_parameter": as_lists(fast, "depths"),
            "id": fast.get_response()["id"],
            "translated": [text.decode() for text in client.infer(translator, [passage]).as_numpy("text")],
            "raw": http.InferenceServerClient.parse_response_body(
                raw.read(), header_length=int(raw.get("Inference-Header-Content-Length"))
            )
            .as_numpy("text")[0]
            .decode(),
            "errors": {
                "unknown_model": error(lambda: client.infer("none", [passage])),
                "unknown_input": error(lambda: client.infer(scorer, [tensor("texts", ids, "INT64")])),
                "bad_budget": error(lambda: client.infer(scorer, [passage], parameters={"max_steps": 99})),
            },
            "load": error(lambda: client.load_model("none")),
            "index": client.get_model_repository_index(),
            "statistics": client.get_inference_statistics(scorer)["model_stats"][0]["inference_stats"][
                "success"
            ]["count"],
            "changes": changes(),
            "all_statistics": [stats["name"] for stats in client.get_inference_statistics()["model_stats"]],
        }
    )
)
