"""The card of an exported model (README.md): what it is, what it was made of and what it is worth, by its records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from transformer_mt.checkpoints.description import Facts, describe
from transformer_mt.checkpoints.manifest import CONFIG
from transformer_mt.checkpoints.model_directory import LoadedModel
from transformer_mt.checkpoints.training_state import CODE
from transformer_mt.exchange.from_marian import code_of
from transformer_mt.system.origin import code_version
from transformer_mt.text.vocabulary import is_language_tag

_USE = """```python
from transformers import {model_class}, MarianTokenizer

tokenizer = MarianTokenizer.from_pretrained("DIR")
model = {model_class}.from_pretrained("DIR")
batch = tokenizer([{text}], return_tensors="pt", padding=True)
print(tokenizer.batch_decode(model.generate(**batch), skip_special_tokens=True))
```"""


def marian_card(path: Path, loaded: LoadedModel, model_class: str) -> str:
    """Return the card of a model that is exported for `transformers`, as a ``model_class`` of it.

    Raises:
        InputError: a record or the configuration is damaged.
    """
    facts = describe(path)
    codes = [f">>{code_of(tag)}<<" for tag in loaded.tokenizers.src.tags]
    return "\n".join([*_front_matter(facts), *_lines(facts, loaded, codes, model_class)]) + "\n"


def _front_matter(facts: Facts) -> Iterator[str]:
    languages = dict.fromkeys(language for pair in facts["languages"]["directions"] for language in pair)
    yield "---"
    yield f"language: {json.dumps(list(languages), ensure_ascii=False)}"  # YAML reads it, and "no" stays a language
    yield "library_name: transformers"
    yield "pipeline_tag: translation"
    yield "tags: [translation, transformer_mt]"
    yield "---"
    yield ""


def _lines(facts: Facts, loaded: LoadedModel, codes: list[str], model_class: str) -> Iterator[str]:
    directions = ", ".join(f"{src} to {tgt}" for src, tgt in facts["languages"]["directions"])
    shape, vocabulary = facts["shape"], facts["vocabulary"]
    yield f"# Translation from {directions}"
    yield ""
    yield (
        f"A Transformer of {facts['parameters']['total']:,} parameters ({shape['num_encoder_layers']} + "
        f"{shape['num_decoder_layers']} layers, d_model {shape['d_model']}), exported by "
        f"transformer_mt {code_version()}. Its vocabulary is {vocabulary['type']} with "
        f"{vocabulary['source']:,} source and {vocabulary['target']:,} target pieces"
        f"{' (one table)' if vocabulary['shared'] else ''}."
    )
    yield ""
    yield "## Use"
    yield ""
    text = json.dumps(f"{codes[0]} A dog runs." if codes else "A dog runs.")
    yield _USE.format(model_class=model_class, text=text)
    if codes:
        kind = (
            "the language wanted" if any(map(is_language_tag, loaded.tokenizers.src.tags)) else "its domain, or nothing"
        )
        yield ""
        yield f"A source starts with {kind}: {', '.join(f'`{code}`' for code in codes)}."
    yield ""
    yield (
        "`generate` searches with the beam and the length penalty of `generation_config.json` (a power of the length), "
        "and stops as `search.length_penalty_form: power` and `search.stop: beam_finished` do in transformer_mt."
    )
    yield from _training(facts)
    yield from _scores(facts)
    configuration = (Path(facts["model_directory"]) / CONFIG).read_text(encoding="utf-8")
    yield from ("", "## Configuration", "", "```yaml", configuration.rstrip("\n"), "```")


def _training(facts: Facts) -> Iterator[str]:
    yield from ("", "## Training", "")
    if (training := facts.get("training")) is None:
        yield "It was imported from another program; how it was trained is not known here."
        return
    updates = (
        f"{training['step']:,} of {training['max_steps']:,}"
        if "step" in training
        else f"up to {training['max_steps']:,}"
    )
    code = training.get("environment", {}).get(CODE)
    by = "" if code is None else f" by transformer_mt {code}"
    yield f"{updates} updates of at most {training['max_tokens']:,} target tokens, seed {training['seed']}{by}, on:"
    yield ""
    for source, of_text in zip(training["sources"], training["licenses"], strict=True):
        yield f"- {source}" + ("" if of_text is None else f" ({of_text})")
    if None in training["licenses"]:
        yield ""
        yield "The configuration does not say all licences of this text: see to them before you pass the model on."


def _scores(facts: Facts) -> Iterator[str]:
    scores = facts.get("scores", {})
    if not scores.get("values"):
        return
    yield from ("", "## Scores", "")
    yield f"On the validation text ({', '.join(scores['text'])}), beam {scores['beam_size']}, step {scores['step']:,}:"
    yield ""
    for name, value in scores["values"].items():
        signature = scores.get("signatures", {}).get(name)
        yield f"- {name}: {value:.4g}" + (f" (`{signature}`)" if signature else "")
