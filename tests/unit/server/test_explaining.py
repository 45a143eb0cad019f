"""`POST /explain` and `POST /candidates` over real sockets, in front of a small model."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from test_interface import SETTINGS, Client, Fake, listens

from transformer_mt.config.sections import ModelConfig, SearchConfig
from transformer_mt.decoding.translator import Translator
from transformer_mt.model.transformer import Transformer
from transformer_mt.server.app import Settings
from transformer_mt.server.metrics import Metrics
from transformer_mt.server.models import Models
from transformer_mt.text.tokenizer import Tokenizers

SHAPE = ModelConfig(d_model=16, d_ff=32, num_heads=2, num_encoder_layers=1, num_decoder_layers=1)
WHOLE = {"source": "en", "target": "de"}


@pytest.fixture(scope="module")
def translator(tokenizers: Tokenizers) -> Translator:
    torch.manual_seed(1)
    model = Transformer(SHAPE, tokenizers.src.vocab_size, tokenizers.tgt.vocab_size).eval()
    return Translator.of_models([model], tokenizers, SearchConfig(workers=1, max_extra_tokens=3), 50)


@pytest.fixture(scope="module")
def client(translator: Translator) -> Iterator[Client]:
    with Models() as models:
        models.add(translator, {("en", "de"): []}, 100_000)
        with listens(models, SETTINGS, Metrics()) as port:
            yield Client(port, Fake(), models)


def asked(client: Client, path: str, **fields: object) -> Any:
    status, answer = client.post(path, **WHOLE, **fields)
    assert status == 200, answer
    return answer


def test_the_translation_with_the_scores_of_tmt_translate(client: Client, translator: Translator) -> None:
    text = "The dog runs.\nA cat sleeps.\n"
    [expected] = translator.translate([text], log_probs=True, n_best=2)
    found = asked(client, "/explain", q=text, alternatives=1)
    assert found["translatedText"] == expected.text and client.translate(q=text)[1] == {"translatedText": expected.text}
    assert (
        found["alternatives"]
        == [expected.alternatives[1].text]
        == client.translate(q=text, alternatives=1)[1]["alternatives"]
    )
    assert asked(client, "/explain", q=text) == found | {"alternatives": []}
    assert [part["source"] for part in found["parts"]] == ["The dog runs.", "A cat sleeps."]
    tokens = [token for part in found["parts"] for token in part["tokens"]]
    assert [token["piece"] for token in tokens] == expected.tokens
    assert [token["logProb"] for token in tokens] == pytest.approx(expected.alternatives[0].log_probs, abs=1e-5)


def test_a_chosen_candidate_leads_the_rest(client: Client) -> None:
    whole = asked(client, "/explain", q="The dog runs.")["parts"][0]
    prefix = [token["piece"] for token in whole["tokens"][:2]]
    found = asked(client, "/candidates", q="The dog runs.", prefix=prefix, number=5)["candidates"]
    assert 2 <= len(found) <= 5 and sum(math.exp(one["logProb"]) for one in found) < 1
    assert [one["logProb"] for one in found] == sorted((one["logProb"] for one in found), reverse=True)
    chosen = asked(client, "/explain", q="The dog runs.", prefix=[*prefix, found[-1]["piece"]])
    assert chosen["translatedText"] == found[-1]["translatedText"] != whole["text"]
    [part] = chosen["parts"]
    assert [token["piece"] for token in part["tokens"][:3]] == [*prefix, found[-1]["piece"]]
    assert part["tokens"][2]["logProb"] == pytest.approx(found[-1]["logProb"], abs=1e-5)


def test_the_source_may_be_detected(client: Client) -> None:
    answer = client.post("/explain", q="The dog runs.", source="auto", target="de")[1]
    assert answer["detectedLanguage"]["language"] == "en"
    assert client.post("/candidates", q="The dog runs.", source="auto", target="de")[0] == 200


def test_what_is_refused(client: Client) -> None:
    text = "The dog runs."
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "missing q"),
        ({"q": [text]}, "q parameter is not text"),
        ({"q": text, "prefix": "The"}, "not a list of pieces"),
        ({"q": text, "prefix": [7]}, "prefix parameter is not text"),
        ({"q": text, "prefix": ["\ud800"]}, "not Unicode"),
        ({"q": text, "prefix": ["</s>"]}, "is no piece of a translation"),
        ({"q": text, "prefix": ["▁"] * 5000}, "may go on after"),
        ({"q": f"{text}\n{text}", "prefix": []}, "a text of 2 parts"),
        ({"q": text, "number": "many"}, "number parameter is not a number"),
        ({"q": text, "target": "xx"}, "xx is not supported"),
        ({"q": "x" * 2001}, "exceeds text limit"),
    ]
    for path in ("/explain", "/candidates"):
        for fields, message in wrong:
            status, answer = client.post(path, **(WHOLE | fields))
            assert status == 400 and message in answer["error"], answer
        assert client.ask("GET", path)[0].status == 405
    assert client.post("/candidates", q=f"{text}\n{text}", **WHOLE)[0] == 400
    assert len(asked(client, "/candidates", q=text, number=10**9)["candidates"]) <= 20


def test_keys_and_limits_are_those_of_translate(translator: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    explain = translator.explain

    def explain_late(*args: Any, **options: Any) -> Any:
        time.sleep(4)
        return explain(*args, **options)

    with Models() as models:
        models.add(translator, {("en", "de"): []}, 100_000)
        with monkeypatch.context() as patch, listens(models, Settings(20, 5, 2), Metrics()) as port:
            patch.setattr(translator, "explain", explain_late)
            response, answer = Client(port, Fake(), models).ask("POST", "/explain", json.dumps({"q": "a", **WHOLE}))
        assert response.status == 503 and "within" in answer["error"]
        with listens(models, Settings(20, 5, 20, api_keys=frozenset([b"x"])), Metrics()) as port:
            for path in ("/explain", "/candidates"):
                assert Client(port, Fake(), models).post(path, q="a", api_key="wrong", **WHOLE)[0] == 403
