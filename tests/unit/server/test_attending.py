"""`POST /attention`: the numbers of `tmt plot attention`, of one sentence, within the bounds of all requests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest
import torch

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from test_interface import Client, served

from transformer_mt.config.sections import ModelConfig, SearchConfig
from transformer_mt.decoding.attention_maps import AttentionMap
from transformer_mt.decoding.translator import Translator
from transformer_mt.model.transformer import Transformer
from transformer_mt.server.app import Settings
from transformer_mt.server.attending import LONGEST
from transformer_mt.text.tokenizer import Tokenizers

SHAPE = ModelConfig(d_model=16, d_ff=32, num_heads=2, num_encoder_layers=1, num_decoder_layers=2)


def untrained(tokenizers: Tokenizers) -> Translator:
    """A model of ours, into German or Korean."""
    torch.manual_seed(1)
    tagged = tokenizers.with_tags(["<2de>", "<2ko>"])
    model = Transformer(SHAPE, tagged.src.vocab_size, tagged.tgt.vocab_size).eval()
    config = SearchConfig(workers=1, beam_size=2, max_extra_tokens=3, precision="float32")
    return Translator.of_models([model], tagged, config, LONGEST + 20, tags=tagged.tag_ids("de", None))


@pytest.fixture(scope="module")
def translator(tokenizers: Tokenizers) -> Translator:
    return untrained(tokenizers)


@pytest.fixture(scope="module")
def client(translator: Translator) -> Iterator[Client]:
    """A model of ours from Icelandic into Korean, beside translators that tell no attention."""
    with served() as client:
        client.models.add(translator, {("is", "ko"): translator.tags_into("ko")}, 100_000)
        yield client


def told(client: Client, **fields: object) -> Any:
    status, answer = client.post("/attention", **({"q": "A dog runs.", "source": "is", "target": "ko"} | fields))
    assert status == 200, answer
    return answer


def test_weights_are_those_of_the_model(client: Client, translator: Translator) -> None:
    answer = told(client, translation="Ein Hund rennt.")
    maps = translator.attention_maps("A dog runs.", "Ein Hund rennt.", tags=translator.tags_into("ko"))
    assert list(answer) == ["encoder", "decoder", "cross"]
    for use, found in answer.items():
        expected = cast(AttentionMap, getattr(maps, use))
        weights = np.array(found["weights"]) / 1000
        np.testing.assert_allclose(weights, expected.weights_YHLM.numpy(), atol=0.000501)
        np.testing.assert_allclose(weights.sum(-1), 1, atol=0.0005 * weights.shape[-1])
        for name, side in (("queries", expected.queries), ("keys", expected.keys)):
            words = [{"text": one.text, "start": one.pieces.start, "end": one.pieces.stop} for one in side.words]
            assert found[name] == {"pieces": side.pieces, "words": words}
    assert answer["cross"]["keys"]["pieces"][0] == "<2ko>"


def test_without_a_translation_it_is_the_models_own(client: Client, translator: Translator) -> None:
    [own] = translator.translate(["A dog."], tags=translator.tags_into("ko"))
    for nothing in ({}, {"translation": None}, {"translation": ""}):
        assert told(client, q="A dog.", **nothing)["cross"]["queries"]["pieces"] == [*own.tokens, "</s>"]


def test_where_there_is_none(client: Client) -> None:
    fields = {"q": "a", "source": "en", "target": "de"}
    status, answer = client.post("/attention", **fields)
    assert status == 501 and answer["error"].startswith("The model from en to de tells no attention")
    assert client.ask("GET", "/frontend/settings")[1]["attention"] is True  # that of another model
    with served() as other:
        assert other.ask("GET", "/frontend/settings")[1]["attention"] is False


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"q": ""}, "missing q"),
        ({"q": ["a"]}, "q parameter is not text"),
        ({"translation": 7}, "translation parameter is not text"),
        ({"source": "ko"}, "ko is not supported"),
        ({"q": " "}, "source: no text"),
        ({"q": "a\nb"}, "source: several lines"),
        ({"translation": "a\nb"}, "target: several lines"),
        ({"q": "z" * 2000, "translation": "b"}, "2001 characters"),
        ({"q": "Hund " * (LONGEST - 2)}, f"source: {2 * LONGEST - 2} tokens, attention is told of at most {LONGEST}"),
        ({"translation": "Hund " * LONGEST}, f"attention is told of at most {LONGEST}"),
    ],
)
def test_what_is_refused(client: Client, fields: dict[str, object], message: str) -> None:
    whole = {"q": "A dog.", "source": "is", "target": "ko"} | fields
    status, answer = client.post("/attention", **whole)
    assert status == 400 and message in answer["error"]


def test_the_longest_and_its_bytes(client: Client) -> None:
    line = " ".join(["a"] * (LONGEST - 2))  # and a tag and </s>
    body = json.dumps({"q": line, "translation": line, "source": "is", "target": "ko"})
    response, answer = client.ask("POST", "/attention", body)
    assert len(answer["cross"]["keys"]["pieces"]) == LONGEST
    num_weights = sum(np.array(one["weights"]).size for one in answer.values())
    assert int(response.getheader("Content-Length") or 0) < 3 * num_weights


def test_keys(translator: Translator) -> None:
    keys = frozenset([hashlib.sha256(b"secret").digest()])
    with served(Settings(2000, 5, 20, api_keys=keys)) as client:
        client.models.add(translator, {("is", "ko"): translator.tags_into("ko")}, 100_000)
        assert told(client, api_key="secret")["cross"]
        fields = {"q": "a", "source": "is", "target": "ko"}
        assert client.post("/attention", **fields)[0] == 400
        assert client.post("/attention", **fields, api_key="wrong") == (403, {"error": "Invalid API key"})


def test_it_waits_in_the_queue_of_its_model() -> None:
    """Behind what came before, as long as the server allows, and where it is full it is refused."""
    with served(Settings(2000, 5, timeout_seconds=0.5), max_waiting=10) as client:
        client.models._routes["en", "de"][0].tells_attention = True
        [working] = client.models.submit(["wait"], "en", "de")
        assert client.translator.begun.acquire(timeout=30)
        [waiting] = client.models.submit(["a" * 9], "en", "de")
        fields = {"q": "ab", "source": "en", "target": "de"}
        assert client.post("/attention", **fields)[0] == 429
        waiting.cancel()
        status, answer = client.post("/attention", **fields)
        assert status == 503 and "0.5 seconds" in answer["error"]
        client.translator.may_go.set()
        assert working.result(timeout=30).text == "de:WAIT"
        assert client.post("/attention", **fields) == (500, {"error": "The server failed"})  # a failure is one's own
        assert client.translate(q="a")[0] == 200
