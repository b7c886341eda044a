"""Calls a server with libretranslatepy and deep-translator as their documentation shows, and prints what they return as JSON."""

import json
import sys

from deep_translator import LibreTranslator
from libretranslatepy import LibreTranslateAPI

url = sys.argv[1]
api = LibreTranslateAPI(url)
with_key = LibreTranslateAPI(url, api_key="some key")
# It insists on a key, and appends the path to the URL as it is.
deep = LibreTranslator(source="en", target="de", api_key="some key", custom_url=f"{url}/")

print(
    json.dumps(
        {
            "translate": api.translate("Hello & good-bye.", "en", "de"),
            "translate_with_key": with_key.translate("The price is 100 %.\nTwo lines; café.", "en", "de"),
            "translate_auto": api.translate("The house is small.", "auto", "de"),
            "detect": api.detect("Ich weiß nicht, was du meinst."),
            "languages": api.languages(),
            "languages_with_key": with_key.languages(),
            "deep": deep.translate("Hello & good-bye."),
            "deep_auto": LibreTranslator(
                source="auto", target="de", api_key="some key", custom_url=f"{url}/"
            ).translate("The house is small."),
            "deep_batch": deep.translate_batch(["Good morning.", "What time is it?"]),
        }
    )
)
