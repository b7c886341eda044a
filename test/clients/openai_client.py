"""Calls a server with openai-python as its documentation shows, and prints what it returns as JSON."""

import json
import sys

import openai
from openai import OpenAI

url, model = sys.argv[1:3]
# The client insists on a key.
client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def error(call):
    try:
        call()
    except openai.APIStatusError as raised:
        return {
            "class": type(raised).__name__,
            "status": raised.status_code,
            "code": raised.code,
            "param": raised.param,
            "request_id": bool(raised.request_id),
        }
    return None


scored = client.completions.create(
    model=model, prompt=[[97, 98, 99]], temperature=0, max_tokens=1, logprobs=1, seed=1234, echo=True
)
streamed = list(
    client.completions.create(
        model=model,
        prompt=["abé", "cd"],
        temperature=0,
        max_tokens=8,
        stream=True,
        stream_options={"include_usage": True},
    )
)
stopped = client.completions.create(
    model=model, prompt="abcdef", temperature=0, stop=["DE"], extra_body={"max_steps": 2}
)
sampled = [
    client.completions.create(model=model, prompt="abcdef", temperature=1.0, top_p=0.9, seed=3, n=2)
    .choices[1]
    .text
    for _ in range(2)
]

print(
    json.dumps(
        {
            "models": [[m.id, m.object, m.owned_by] for m in client.models.list()],
            "retrieved": client.models.retrieve(model).id,
            "text": scored.choices[0].text,
            "token_logprobs": scored.choices[0].logprobs.token_logprobs,
            "top_logprobs": scored.choices[0].logprobs.top_logprobs,
            "usage": scored.usage.model_dump(exclude_none=True),
            "ponder": scored.ponder,
            "streamed": [
                "".join(c.text for e in streamed for c in e.choices if c.index == i) for i in range(2)
            ],
            "stream_usage": streamed[-1].usage.total_tokens,
            "stream_ponder": streamed[-1].ponder["position_steps"] > 0,
            "stopped": [stopped.choices[0].text, stopped.choices[0].finish_reason, stopped.ponder["max"]],
            "same_seed": sampled[0] == sampled[1],
            "errors": {
                "unknown_model": error(lambda: client.completions.create(model="none", prompt="a")),
                "bad_field": error(lambda: client.completions.create(model=model, prompt="a", max_tokens=-1)),
                "no_chat": error(lambda: client.chat.completions.create(model=model, messages=[])),
            },
        }
    )
)
