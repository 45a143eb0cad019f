"""The configuration: strict, all problems at once, YAML 1.2, overrides, environment, presets; the reference file."""

from __future__ import annotations

import itertools
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError
from ruamel.yaml import YAML

from transformer_mt.config.data_sections import SOURCE_KINDS, CleanConfig, DataConfig, NoiseConfig, SourceConfig
from transformer_mt.config.loading import load_config, override_search, to_yaml, tokenizer_config, validate
from transformer_mt.config.section import Section
from transformer_mt.config.sections import (
    BatchConfig,
    Config,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    SearchConfig,
    TokenizerConfig,
    TrainConfig,
)
from transformer_mt.errors import InputError

CONFIGS = Path(__file__).parents[3] / "configs"
DATA = "data: {src_lang: en, tgt_lang: de, train: [{src: a.en, tgt: a.de}]}\n"
SECTIONS: dict[str, type[Section]] = {
    "data": DataConfig,
    "clean": CleanConfig,
    "noise": NoiseConfig,
    "tokenizer": TokenizerConfig,
    "model": ModelConfig,
    "batch": BatchConfig,
    "optim": OptimConfig,
    "train": TrainConfig,
    "search": SearchConfig,
    "eval": EvalConfig,
}
INNER = ("clean", "noise")  # sections of the section data


@pytest.fixture
def load(tmp_path: Path) -> Any:
    def load(text: str, *overrides: str) -> Config:
        (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
        return load_config(tmp_path / "c.yaml", overrides)

    return load


@pytest.fixture
def refusal(load: Any) -> Any:
    def refusal(text: str, *overrides: str) -> str:
        with pytest.raises(InputError) as caught:
            load(text, *overrides)
        message = str(caught.value)
        assert "\n" not in message
        return message

    return refusal


# ---------------------------------------------------------------- strictness


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("modle: {}", "modle: unknown key; did you mean model?"),
        ("model: {dropuot: 0.1}", "model.dropuot: unknown key; did you mean dropout?"),
        ("train: {lr: 0.1}", "train.lr: unknown key; "),
        ("train: {zzzzzz: 1}", "train.zzzzzz: unknown key; known keys: max_steps, label_smoothing, eval_steps"),
        ("train: {max_steps: many}", "train.max_steps: input should be a valid integer, found 'many'"),
        ("train: {max_steps: 1e5}", "train.max_steps: input should be a valid integer, found 100000.0"),
        ("train: {max_steps: '100'}", "train.max_steps: input should be a valid integer, found '100'"),
        ("train: {max_steps: true}", "train.max_steps: input should be a valid integer, found True"),
        ("train: {max_steps: [1]}", "train.max_steps: input should be a valid integer, found a list"),
        ("train: {max_steps: {a: 1}}", "train.max_steps: input should be a valid integer, found a section"),
        ("train: {max_steps: }", "train.max_steps: input should be a valid integer, found nothing"),
        ("train: {max_steps: 0}", "train.max_steps: input should be greater than 0, found 0"),
        ("train: {deterministic: 1}", "train.deterministic: input should be a valid boolean, found 1"),
        ("model: {dropout: 1}", "model.dropout: input should be less than 1, found 1"),
        ("model: {norm: middle}", "model.norm: input should be 'post' or 'pre', found 'middle'"),
        ("optim: {clip_norm: .nan}", "optim.clip_norm: input should be a finite number, found nan"),
        ("optim: {weight_decay: .inf}", "optim.weight_decay: input should be a finite number, found inf"),
        ("tokenizer: {user_symbols: [<a>, 1]}", "tokenizer.user_symbols.1: input should be a valid string, found 1"),
        ("tokenizer: {user_symbols: <a>}", "tokenizer.user_symbols: should be a list, found '<a>'"),
        ("tokenizer: {vocab_size: 7}", "tokenizer.vocab_size: input should be greater than or equal to 8, found 7"),
        ("tokenizer: {max_lines: 100}", "tokenizer.max_lines: input should be greater than 100, found 100"),
        ("train:", "train: should be a section of keys, found nothing"),
        ("train: 3", "train: should be a section of keys, found 3"),
        ("batch: {max_tokens: 4}", "batch.max_tokens: input should be greater than or equal to 8, found 4"),
    ],
)
def test_one_problem_is_one_phrase(text: str, expected: str, refusal: Any, tmp_path: Path) -> None:
    message = refusal(DATA + text)
    assert message.startswith(f"{tmp_path}/c.yaml: {expected}")
    assert ";" not in message.removeprefix(f"{tmp_path}/c.yaml: {expected}")  # and no further one follows from it


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tokenizer: {}", "data: missing; add it"),
        ("data: {src_lang: en, tgt_lang: de}", "data.train: missing; add it"),
        ("data: {tgt_lang: de, train: [{src: a, tgt: b}]}", "data.src_lang: missing; add it"),
        ("data: {src_lang: en, tgt_lang: de, train: []}", "data: train needs at least one source"),
        (
            "data: {src_lang: en, tgt_lang: de, train: [], valid: [{src: a, tgt: b}], clean: {scripts: {en: [Latin]}}}",
            "data: train needs at least one source",
        ),
        (
            "data: {src_lang: en, tgt_lang: de, train: {src: a, tgt: b}}",
            "data.train: should be a list, found",
        ),
        (
            "data: {src_lang: en, tgt_lang: de, train: [{src: a, trg: b}]}",
            "2 problems: data.train.0.trg: unknown key; did you mean tgt?; data.train.0: src and tgt go together",
        ),
    ],
)
def test_data_is_required(text: str, expected: str, refusal: Any, tmp_path: Path) -> None:
    assert refusal(text).startswith(f"{tmp_path}/c.yaml: {expected}")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{}", "give exactly one of: src and tgt, moses"),
        ("{src: a, tgt: b, hub: c, split: train}", "give exactly one of: src and tgt, moses"),
        ("{src: a}", "src and tgt go together"),
        ("{tgt: a}", "src and tgt go together"),
        ("{hub: a}", "a hub dataset needs its split"),
        ("{builtin: grammar, split: train}", "builtin: grammar needs split (train, valid or test) and num_pairs"),
        ("{builtin: grammar, split: dev, num_pairs: 5}", "builtin: grammar needs split (train, valid or test)"),
        ("{src: a, tgt: b, split: train}", "split: of no use here; this kind of source has src, tgt"),
        (
            "{src: a, tgt: b, num_pairs: 9, seed: 2}",
            "num_pairs, seed: of no use here; this kind of source has src",
        ),
        ("{hub: a, split: train, num_pairs: 9}", "num_pairs: of no use here; this kind of source has hub, split"),
    ],
)
def test_source_is_of_one_kind(source: str, expected: str, refusal: Any) -> None:
    message = refusal(f"data: {{src_lang: en, tgt_lang: de, train: [{{src: a, tgt: b}}, {source}]}}")
    assert f"data.train.1: {expected}" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model: {d_model: 512, num_heads: 7}", "model: num_heads 7 does not divide d_model 512"),
        ("model: {num_heads: 7, d_k: 64}", "model: num_heads 7 does not divide d_model 512"),  # d_v is still open
        ("model: {d_model: 9, num_heads: 3}", "model: d_model 9 is odd; sinusoidal positions need an even one"),
        ("tokenizer: {shared: false}", "model.tie_embeddings: all needs tokenizer.shared: true"),
        ("tokenizer: {model: a, tgt_model: b}", "tokenizer.tgt_model needs tokenizer.shared: false"),
        (
            "tokenizer: {tgt_model: b, shared: false}\nmodel: {tie_embeddings: none}",
            "tokenizer: tgt_model needs model",
        ),
        ("tokenizer: {type: unigram, bpe_dropout: 0.1}", "tokenizer: bpe_dropout is for type: bpe; set unigram_alpha"),
        ("tokenizer: {unigram_alpha: 0.1}", "tokenizer: unigram_alpha is for type: unigram; set bpe_dropout"),
        (
            "tokenizer: {model: a, bpe_dropout: 0.1, unigram_alpha: 0.1}",
            "tokenizer: bpe_dropout and unigram_alpha are for different tokenizers",
        ),
        ("optim: {lr: 0.1}", "optim: lr has no meaning with schedule: paper"),
        ("train: {freeze: [encoder]}", "train: freeze would keep random weights; set init_from"),
        ("train: {init_from: m, freeze: [encoder, decoder, embeddings]}", "train: freeze: leaves nothing to train"),
        ("optim: {schedule: cosine}", "optim: schedule: cosine needs lr"),
        ("eval: {metrics: [chrf]}", "train.best_metric bleu is not among eval.metrics"),
        ("search: {n_best: 5, beam_size: 4}", "search: n_best 5 needs beam_size 5 at least, found 4"),
    ],
)
def test_impossible_together(text: str, expected: str, refusal: Any, tmp_path: Path) -> None:
    assert refusal(DATA + text).startswith(f"{tmp_path}/c.yaml: {expected}")


@pytest.mark.parametrize(
    "text",
    [
        "model: {num_heads: 7, d_k: 64, d_v: 32}",
        "model: {d_model: 9, num_heads: 3, positions: learned}",
        "tokenizer: {shared: false}\nmodel: {tie_embeddings: target}",
        "tokenizer: {model: a, tgt_model: b, shared: false}\nmodel: {tie_embeddings: none}",
        "optim: {schedule: cosine, lr: 1}",  # an integer is a number
        "eval: {metrics: [chrf]}\ntrain: {best_metric: chrf}",
        "eval: {metrics: []}\ntrain: {best_metric: loss}",
        "search: {n_best: 5, beam_size: 4, sampling: true}",
    ],
)
def test_possible_together(text: str, load: Any) -> None:
    load(DATA + text)


def test_sections_made_in_python_are_as_strict() -> None:
    with pytest.raises(ValidationError, match="num_heads 7 does not divide d_model 512"):
        ModelConfig(num_heads=7)
    with pytest.raises(ValidationError, match="frozen"):
        ModelConfig().dropout = 0.5  # type: ignore[misc]


def test_all_problems_at_once(refusal: Any, tmp_path: Path) -> None:
    message = refusal(
        "data: {src_lang: 1, train: [{src: a, tgt: b}, {hub: c}]}\n"  # 3: type, missing, conflict
        "modle: {}\n"  # 4: unknown section
        "model: {dropuot: 0.1, num_heads: 7}\n"  # 6: unknown key, conflict in the same section
        "tokenizer: {shared: false}\n"  # 7: conflict of two sections
        "optim: {lr: 0.1, warmup_steps: 0}\n"  # 9: conflict and limit in one section
        "eval: {metrics: [chrf]}\n"  # 10: a second conflict of two sections
    )
    assert message.startswith(f"{tmp_path}/c.yaml: 10 problems: ")
    for part in (
        "data.src_lang: input should be a valid string",
        "data.tgt_lang: missing",
        "data.train.1: a hub dataset needs its split",
        "modle: unknown key",
        "model.dropuot: unknown key",
        "model: num_heads 7",
        "model.tie_embeddings: all needs",
        "optim: lr has no meaning",
        "optim.warmup_steps: input should be greater than 0",
        "train.best_metric bleu is not among",
    ):
        assert message.count(part) == 1, part


@pytest.mark.parametrize(
    "text",
    [
        "optim: {schedule: cosine, lr: high}",  # not also: cosine needs lr
        "eval: {metrics: [chrf, blue]}",  # not also: bleu is not among them
        "model: {d_model: wide, num_heads: 7}",
        "model: {d_model: 0}",  # not also: d_k and d_v, which were computed from it
        "search: {n_best: 5, beam_size: four}",
        "batch: {max_tokens: many}",  # not also: max_source_tokens, which was copied from it
    ],
)
def test_what_follows_from_a_problem_is_not_another(text: str, refusal: Any) -> None:
    assert "problems" not in refusal(DATA + text)


# ---------------------------------------------------------------- YAML


def test_yaml_is_version_1_2(load: Any) -> None:
    config = load(
        "data: {src_lang: no, tgt_lang: on, train: [{src: yes, tgt: off}]}\n"
        "optim: {eps: 1e-9, schedule: cosine, lr: 5E-4}\n"
        "train: {seed: 010}\n"
    )
    source = config.data.train[0]
    assert [config.data.src_lang, config.data.tgt_lang, source.src, source.tgt] == ["no", "on", "yes", "off"]
    assert (config.optim.eps, config.optim.lr, config.train.seed) == (1e-9, 0.0005, 10)


# Ten aliases of ten aliases of …: a thousand characters for a hundred million values.
LAUGHS = "a: &a [x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in itertools.pairwise("abcdefghi")
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [", "c.yaml, line 1: not valid YAML"),
        ("a: 1\nb: 2\na: 3\n", 'c.yaml, line 3: not valid YAML (found duplicate key "a"'),
        ("a: 1\n\tb: 2\n", "c.yaml, line 2: not valid YAML"),
        ("", "c.yaml: not a configuration (found nothing, expected sections"),
        ("hello", "c.yaml: not a configuration (found 'hello', expected sections"),
        ("some text " * 20, f"c.yaml: not a configuration (found '{('some text ' * 20)[:79]}…', expected sections"),
        ("- a", "c.yaml: not a configuration (found a list, expected sections"),
        ("a: !!python/object:os.system ls", "c.yaml, line 1: not valid YAML"),
        ("a: !!bool 7", "c.yaml: not valid YAML ("),
        ("[" * 1000, "c.yaml: not valid YAML ("),
        ("a: &a [*a]", "c.yaml: not valid YAML (its aliases make more than 100,000 values of it)"),
        (LAUGHS, "c.yaml: not valid YAML (its aliases make more than 100,000 values of it)"),
    ],
)
def test_bad_yaml_is_refused(text: str, expected: str, refusal: Any) -> None:
    assert expected in refusal(text)


@pytest.mark.parametrize("key", ["model.d_model", "model.num_encoder_layers", "search.top_k"])
def test_numbers_that_nothing_can_hold_are_refused(key: str, refusal: Any) -> None:
    section, name = key.split(".")
    assert f"{key}: input should be less than or equal to 1" in refusal(f"{DATA}{section}: {{{name}: {10**30}}}\n")


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: cannot be read \(No such file"):
        load_config(tmp_path / "none.yaml")


# ---------------------------------------------------------------- --set and the environment


def test_overrides_replace_and_add_in_order(load: Any) -> None:
    config = load(
        DATA + "train: {max_steps: 5, seed: 3}\n",
        "train.max_steps=2000",
        "optim.schedule=cosine",
        "optim.lr=1e-3",
        "data.clean.max_src_tokens=9",
        "data.train=[{src: x=y, tgt: z}]",
        "data.src_lang=no",
        "train.eval_steps=7",
        "train.eval_steps=8",
    )
    assert (config.train.max_steps, config.train.seed, config.train.eval_steps) == (2000, 3, 8)
    assert (config.optim.schedule, config.optim.lr, config.data.clean.max_src_tokens) == ("cosine", 0.001, 9)
    assert (config.data.train[0].src, config.data.src_lang) == ("x=y", "no")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.max_steps", "--set train.max_steps: expected key.path=value"),
        ("=3", "--set =3: expected key.path=value"),
        ("train..seed=3", "--set train..seed=3: expected key.path=value"),
        ("train.sed=3", "train.sed: unknown key; did you mean seed?"),
        ("train.seed.x=3", "--set train.seed.x=3: train.seed is 1, not a section"),
        ("data.train.0.src=a", "--set data.train.0.src=a: data.train is a list, not a section"),
        ("train.seed=[", "--set train.seed, line 1: not valid YAML"),
        ("train.seed=x", "train.seed: input should be a valid integer, found 'x'"),
    ],
)
def test_bad_override_is_refused(override: str, expected: str, refusal: Any) -> None:
    assert expected in refusal(DATA + "train: {seed: 1}\n", override)


def test_overrides_of_one_section() -> None:
    assert override_search(SearchConfig(beam_size=7), ["search.n_best=3"]) == SearchConfig(beam_size=7, n_best=3)
    assert tokenizer_config({"type": "unigram"}, ["tokenizer.vocab_size=99"]) == TokenizerConfig(
        type="unigram", vocab_size=99
    )
    settings = {"tgt_lang": "no", "n_best": 4}  # no is Norwegian, and nothing is parsed here
    expected = SearchConfig(tgt_lang="no", n_best=2)
    assert override_search(SearchConfig(), ["search.n_best=2"], settings) == expected
    with pytest.raises(InputError, match=r"^search\.beam_sice: unknown key; did you mean beam_size\?$"):
        override_search(SearchConfig(), ["search.beam_sice=3"])
    with pytest.raises(InputError, match=r"^search\.beam_sice: unknown key; did you mean beam_size\?$"):
        override_search(SearchConfig(), settings={"beam_sice": 3})
    with pytest.raises(InputError, match=r"^search\.top_k=3: has an effect only with search\.sampling=true"):
        override_search(SearchConfig(), settings={"top_k": 3})
    with pytest.raises(InputError, match=r"^2 problems: search\.seed: .*; search: n_best 9 needs beam_size 9"):
        override_search(SearchConfig(), ["search.n_best=9", "search.seed=x"])
    with pytest.raises(InputError, match=r"only search\.\* keys can be set for a trained model"):
        override_search(SearchConfig(), ["model.d_model=3"])


def test_a_model_with_settings_beyond_the_limits_loads_and_is_mended_by_an_override() -> None:
    """Version 0.1.0 had no limits."""
    tree = {"data": {"src_lang": "en", "tgt_lang": "de", "train": [{"moses": "x"}]}, "search": {"beam_size": 2000}}
    with pytest.raises(InputError, match=r"search: beam_size should be from 1 to 1,000, found 2000"):
        validate(tree, "config.yaml")
    search = validate(tree, "config.yaml", of_model=True).search
    with pytest.raises(InputError, match=r"search: beam_size should be from 1 to 1,000, found 2000"):
        override_search(search, [])
    assert override_search(search, ["search.beam_size=4"]).beam_size == 4


def test_overrides_that_this_way_of_searching_does_not_look_at_are_refused() -> None:
    assert override_search(SearchConfig(top_k=5), ["search.sampling=true", "search.seed=2"]).top_k == 5
    assert not override_search(SearchConfig(sampling=True, top_k=5), ["search.sampling=false"]).sampling
    for override in ("top_k=5", "top_p=0.5", "temperature=2.0", "seed=2"):
        with pytest.raises(InputError, match=rf"^--set search\.{override}: has an effect only with search\.sampling"):
            override_search(SearchConfig(), [f"search.{override}"])
    for override in ("beam_size=5", "stop=beam_finished"):
        with pytest.raises(InputError, match=rf"^--set search\.{override}: has an effect only without search\.sampl"):
            override_search(SearchConfig(), [f"search.{override}", "search.sampling=true"])


@pytest.mark.parametrize("override", ["vocab_size=290", "tokeniser.type=unigram", "train.seed=3", "tokenizer=4"])
def test_only_keys_of_the_tokenizer_can_be_set_for_it(override: str) -> None:
    with pytest.raises(InputError, match=rf"^--set {override}: only tokenizer\.\* keys can be set here$"):
        tokenizer_config({}, [override])


@pytest.mark.parametrize("key", ["model", "tgt_model", "shared", "bpe_dropout", "unigram_alpha"])
def test_keys_of_a_run_are_refused_for_a_tokenizer(key: str) -> None:
    with pytest.raises(InputError, match=rf"^--set tokenizer\.{key}=1: is for `tmt train`, and has no effect"):
        tokenizer_config({}, [f"tokenizer.{key}=1"])


def test_environment_in_values(load: Any, refusal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "data:\n  src_lang: en\n  tgt_lang: de\n  cache_dir: $CACHE/{x}\n"
        "  train: [{src: '${TMT_X:-data}/a-${TMT_Y}', tgt: '${TMT_X:-}b'}]\n"
    )
    monkeypatch.setenv("TMT_Y", "y")
    monkeypatch.delenv("TMT_X", raising=False)
    source = load(text).data.train[0]
    assert (source.src, source.tgt) == ("data/a-y", "b")
    monkeypatch.setenv("TMT_X", "/d")
    config = load(text)
    assert (config.data.train[0].src, config.data.train[0].tgt) == ("/d/a-y", "/db")
    assert config.data.cache_dir == "$CACHE/{x}"  # this and nothing else is expanded
    monkeypatch.setenv("TMT_X", "")  # as in the shell, :- takes the default for an empty value too
    assert load(text).data.train[0].src == "data/a-y"
    assert load(DATA, "train.init_from=${TMT_Y}").train.init_from == "y"
    monkeypatch.delenv("TMT_Y")
    nested = text.replace("${TMT_X:-data}/a-${TMT_Y}", "${TMT_X:-${TMT_Y}}")
    assert "${TMT_X:-${TMT_Y}}: a default has no ${ of its own; write the value" in refusal(nested)
    assert "${TMT_Y} is used in the configuration but not set, or empty; export TMT_Y=..." in refusal(text)
    for wrong in ("${TMT-Y}", "${a.b}", "${}", "${TMT_Y"):
        assert f"{wrong}: write ${{NAME}} or ${{NAME:-default}}, or $${{ for ${{" in refusal(
            text.replace("$CACHE/{x}", wrong)
        )


def test_a_models_configuration_takes_nothing_from_the_environment(load: Any, tmp_path: Path) -> None:
    """Who publishes what it translates would publish the secret."""
    (tmp_path / "config.yaml").write_text(DATA + "train: {init_from: '${HOME}/$${HOME}/${NONE}'}\n")
    config = load_config(tmp_path / "config.yaml", of_model=True)
    assert config.train.init_from == "${HOME}/${HOME}/${NONE}"
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert load_config(tmp_path / "config.yaml") == config
    assert load_config(tmp_path / "config.yaml", of_model=True) == config


def test_two_dollars_are_one(load: Any) -> None:
    assert load(DATA + "train: {init_from: 'a$${HOME}b$$'}").train.init_from == "a${HOME}b$$"


# ---------------------------------------------------------------- presets and derived values


@pytest.mark.parametrize(
    ("preset", "shape"),
    [
        ("base", (512, 2048, 8, 64, 64, 6, 6, 0.1)),  # the paper's Table 3
        ("big", (1024, 4096, 16, 64, 64, 6, 6, 0.3)),
        ("tiny", (128, 256, 4, 32, 32, 4, 4, 0.3)),  # Wu et al. 2021, section 3
        ("student", (256, 1536, 8, 32, 32, 6, 2, 0.1)),
    ],
)
def test_presets(preset: str, shape: tuple[float, ...], load: Any) -> None:
    m = load(DATA + f"model: {{preset: {preset}}}").model
    found = m.d_model, m.d_ff, m.num_heads, m.d_k, m.d_v, m.num_encoder_layers, m.num_decoder_layers, m.dropout
    assert found == shape


def test_base_is_the_default_and_keys_override_presets(load: Any) -> None:
    assert load(DATA).model == load(DATA + "model: {preset: base}").model
    model = load(DATA + "model: {preset: big, num_heads: 4, dropout: 0.2, d_v: 5}").model
    assert (model.d_model, model.num_heads, model.d_k, model.d_v, model.dropout) == (1024, 4, 256, 5, 0.2)


def test_source_budget_follows_the_target_budget(load: Any) -> None:
    assert load(DATA).batch.max_source_tokens == 4096
    assert load(DATA + "batch: {max_tokens: 99}").batch.max_source_tokens == 99
    assert load(DATA + "batch: {max_tokens: 99, max_source_tokens: 50}").batch.max_source_tokens == 50


# ---------------------------------------------------------------- the resolved file

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.text(st.sampled_from("$${}HOME:-"))
numbers = st.floats(0, 1e6, exclude_min=True)
trees = st.fixed_dictionaries(
    {
        "data": st.fixed_dictionaries(
            {
                "src_lang": texts | st.sampled_from(["no", "null", "1e-9", "010", "~", "", " x ", "a: b", "- x", "#"]),
                "tgt_lang": texts,
                "train": st.lists(st.fixed_dictionaries({"src": texts, "tgt": texts}), min_size=1, max_size=3),
            }
        )
    },
    optional={
        "tokenizer": st.fixed_dictionaries({"user_symbols": st.lists(texts, max_size=3)}),
        "model": st.fixed_dictionaries(
            {"preset": st.sampled_from(["tiny", "student", "base", "big"]), "dropout": st.just(0)}
        ),
        "optim": st.fixed_dictionaries({"eps": numbers, "lr": numbers, "schedule": st.just("cosine")}),
        "train": st.fixed_dictionaries({"init_from": texts, "seed": st.integers(0, 2**63)}),
    },
)


@given(trees)
@example({"data": {"src_lang": "$${HOME}", "tgt_lang": "$$${", "train": [{"src": "${HOME:-x}", "tgt": "${NONE}"}]}})
@example({"data": {"src_lang": "\x85", "tgt_lang": "a\u2028b", "train": [{"src": "a\nb\t", "tgt": "\0\x7f\ufeff"}]}})
def test_resolved_file_loads_to_the_same(tree: dict[str, Any]) -> None:
    config = validate(tree, "tree", of_model=True)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "config.yaml"
        path.write_bytes(to_yaml(config).encode())
        again = load_config(path)
        assert load_config(path, of_model=True) == config
    assert again == config
    assert to_yaml(again) == to_yaml(config)


def test_resolved_file_names_every_value_in_force(load: Any) -> None:
    tree = YAML(typ="safe").load(to_yaml(load(DATA)))
    assert list(tree) == ["data", "tokenizer", "model", "batch", "optim", "train", "search", "eval"]
    assert (tree["model"]["d_k"], tree["batch"]["max_source_tokens"], tree["train"]["seed"]) == (64, 4096, 1)
    assert tree["optim"]["lr"] is None  # not set, and said so: another default must not take its place


# ---------------------------------------------------------------- the files in configs/


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_loads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMT_DATA", raising=False)
    load_config(path)


def reference_blocks() -> dict[str, list[str]]:
    """The lines of each section of the reference file, `clean` and `noise` apart from `data`."""
    blocks: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in (CONFIGS / "reference.yaml").read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"(\w+):", line) or re.fullmatch(r"  (clean|noise):", line):
            if match[1] in INNER:
                blocks["data"].append(line)
            lines = blocks.setdefault(match[1], [])
        elif line.startswith("  cache_dir:"):
            blocks["data"].append(line)
        else:
            lines.append(line)
    return blocks


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("temperature: 5, train: [{src: a, tgt: b, weight: 2}]", "data: temperature takes the place of weights"),
        ("temperature: 5, stages: [{weights: {}}], train: [{src: a, tgt: b}]", "data: temperature takes the place"),
        ("train: [{src: a, tgt: b, weight: 0}]", "data: train: every weight is 0"),
        ("train: [{src: a, tgt: b, name: x}, {tsv: c, name: x}]", "data: train: two sources have the name x"),
        ("train: [{tsv: c, name: x}], stages: [{weights: {y: 1}}]", "data: stages.0: no source has the name y"),
        (
            "train: [{tsv: c}], stages: [{steps: 5, weights: {}}]",
            "data: stages.0: give steps to each stage but the last",
        ),
        ("train: [{tsv: c}], stages: [{weights: {}}, {weights: {}}]", "data: stages.0: give steps to each stage"),
        ("train: [{tsv: c, name: x}], stages: [{weights: {x: 0}}]", "data: stages.0: every weight is 0"),
        ("train: [{tsv: c}], stages: [{steps: 0, weights: {}}]", "data.stages.0.steps: input should be greater than 0"),
        ("train: [{tsv: c}], stages: [{step: 5}]", "data.stages.0.step: unknown key; did you mean steps?"),
        ("train: [{tsv: c, tag: 2de}]", "data.train.0: tag should be a letter"),
        ("train: [{tsv: c}], valid: [{tsv: d, tag: x}]", "data.valid: no training source has the tag x"),
        ("train: [{tsv: c}], valid: [{tsv: d, tgt_lang: fr}]", "data.valid: no training source has the tgt_lang fr"),
        ("train: [{tsv: c}], test: [{tsv: d, tag: x}]", "data.test: no training source has the tag x"),
        (
            "train: [{distill: c, model: m, search: {beam_size: {a: 1}}}]",
            "data.train.0.search.beam_size: input should be a valid boolean or a valid integer or a valid number or a",
        ),
        ("train: [{csv: c, src_column: 1.5}]", "data.train.0.src_column: input should be a valid string or a valid "),
        (
            "train: [{distill: c, model: m, search: {beam_size: [1]}}]",
            "data.train.0.search.beam_size: input should be a valid boolean or a valid integer or a valid number or a",
        ),
        ("train: [{tsv: c, tag: 'a b'}]", "data.train.0: tag should be a letter"),
        ("train: [{tsv: c, src_column: en, tgt_column: 2, header: false}]", "data.train.0: src_column 'en' is a name"),
        (
            "train: [{csv: c, src_column: 0, tgt_column: 2}]",
            "data.train.0: src_column is a column's name, or",
        ),
        (
            "train: [{tsv: 5}]",
            "data.train.0.tsv: should be a file, a pattern as in parts/*.en, or a list",
        ),
        ("train: [{tsv: []}]", "data.train.0.tsv: should be a file, a pattern as in parts/*.en, or a list of those"),
        ("train: [{tsv: c, src_column: 2}]", "data.train.0: src_column and tgt_column of a table go together"),
        ("train: [{csv: c, delimiter: ', '}]", "data.train.0: delimiter is one character, or the word tab"),
        ("train: [{tsv: c, delimiter: ;}]", "data.train.0: delimiter: of no use here; this kind of source has tsv"),
        ("train: [{csv: c, tgt_lang: en}]", "data: train.0: both sides would be the column 'en'"),
        ("train: [{tsv: c, src_column: 2, tgt_column: 2}]", "data.train.0: src_column and tgt_column are both 2"),
        ("train: [{jsonl: c, src_column: x, tgt_column: x}]", "data.train.0: src_column and tgt_column are both 'x'"),
        ("train: [{jsonl: c, src_column: de}]", "data: train.0: both sides would be the column 'de'"),
        ("train: [{tsv: c}], valid: [{parquet: c, tgt_lang: en}]", "data: valid.0: both sides would be the column"),
        ("train: [{tsv: c, tag: s}]", "data.train.0: tag s: <s> is a symbol of the tokenizer's own"),
        ("train: [{tsv: c, tag: unk}]", "data.train.0: tag unk: <unk> is a symbol of the tokenizer's own"),
        ("train: [{tsv: c, tag: pad}]", "data.train.0: tag pad: <pad> is a symbol of the tokenizer's own"),
        ("train: [{back_translate: c}]", "data.train.0: back_translate needs model"),
        ("train: [{tsv: c, model: m}]", "data.train.0: model: of no use here; this kind of source has tsv"),
        ("train: [{tsv: c}], clean: {scripts: {ko: [Hangul]}}", "data: clean.scripts: no source is in ko"),
    ],
)
def test_sources_weights_and_stages_fit_together(keys: str, expected: str, refusal: Any) -> None:
    assert expected in refusal(f"data: {{src_lang: en, tgt_lang: de, {keys}}}")


def test_symbols_that_tags_are_already_are_refused(refusal: Any, load: Any) -> None:
    data = "data: {src_lang: en, tgt_lang: de, train: [{tsv: a, tag: x}, {tsv: b, tgt_lang: LANG}]}\n"
    symbols = "tokenizer: {user_symbols: [<2de>, <x>, <y>]}\n"
    assert "tokenizer.user_symbols <2de>, <x>: tags and" in refusal(data.replace("LANG", "fr") + symbols)
    assert "tokenizer.user_symbols <x>: tags and" in refusal(data.replace("LANG", "de") + symbols)
    load(data.replace("LANG", "fr") + symbols.replace("{", "{model: m, "))  # they are of no use there, as before


def test_patience_without_validation_is_refused(refusal: Any) -> None:
    assert "train.patience counts validations, and there is no data.valid" in refusal(DATA, "train.patience=3")


def test_what_a_model_was_trained_with_is_settled(tmp_path: Path) -> None:
    """A key that this version refuses to train with makes no older model unusable; the model's own keys are checked."""
    (tmp_path / "config.yaml").write_text(DATA + "train: {patience: 3}\n")
    assert load_config(tmp_path / "config.yaml", of_model=True).train.patience == 3
    (tmp_path / "config.yaml").write_text(DATA + "model: {num_heads: 7}\nsearch: {n_best: 9}\n")
    with pytest.raises(InputError, match=r"config\.yaml: model: num_heads 7 "):
        load_config(tmp_path / "config.yaml", of_model=True)


def test_weights_of_stages_are_the_sources_own_unless_named() -> None:
    text = "train: [{tsv: a, name: web, weight: 0.5}, {tsv: b, name: law}, {tsv: c}]"
    stages = "stages: [{steps: 10, weights: {law: 2}}, {weights: {web: 0}}]"
    data = DataConfig.model_validate(YAML(typ="safe").load(f"{{src_lang: en, tgt_lang: de, {text}, {stages}}}"))
    assert data.weights() == [0.5, 1, 1]
    assert [data.weights(stage) for stage in (0, 1)] == [[0.5, 2, 1], [0, 1, 1]]


def test_reference_has_every_section() -> None:
    assert list(YAML(typ="safe").load((CONFIGS / "reference.yaml").read_text())) == list(Config.model_fields)
    assert set(reference_blocks()) == set(SECTIONS)


@pytest.mark.parametrize("name", SECTIONS)
def test_reference_has_every_key_with_its_default(name: str) -> None:
    kind = SECTIONS[name]
    tree = YAML(typ="safe").load((CONFIGS / "reference.yaml").read_text(encoding="utf-8"))
    shown = tree["data"][name] if name in INNER else tree[name]
    indent = "    " if name in INNER else "  "
    out = [m[1] for line in reference_blocks()[name] if (m := re.match(rf"{indent}# (\w+): \S+  # \w", line))]
    for key, field in kind.model_fields.items():
        if field.is_required() or (name, key) in [("data", "valid"), ("data", "clean"), ("data", "noise")]:
            assert key in shown  # with an example
        elif field.default is None:
            assert key in out and key not in shown, f"{name}.{key} has no value by default: `# {key}: example  # …`"
        else:
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            assert shown.get(key) == default, f"{name}.{key}"
            assert type(shown[key]) is type(default), f"{name}.{key}"
    assert sorted([*shown, *out]) == sorted(kind.model_fields)  # nothing twice, nothing else


def test_reference_explains_every_key() -> None:
    lines = (CONFIGS / "reference.yaml").read_text(encoding="utf-8").splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        if re.match(r" *(# )?\w+: \S", line) and "TMT_DATA" not in line and not re.match(r" {4}# ", line):
            assert re.search(r"\S  # \w.{10}", line), f"no explanation: {line}"
        elif re.match(r" *\w+:$", line):
            assert before.lstrip().startswith("#") or line in ("data:", "optim:", "train:"), f"no explanation: {line}"


def test_reference_shows_every_key_of_every_kind_of_source() -> None:
    block = reference_blocks()["data"]
    start, end = block.index("  train:"), block.index("  valid:")
    lines = [re.sub(r"^    # (- |  )", r"    \1", line) for line in block[start:end]]
    listed = YAML(typ="safe").load("\n".join(line for line in lines if not line.lstrip().startswith("#")))["train"]
    sources = [SourceConfig(**source) for source in listed]
    assert [source.kind for source in sources] == list(SOURCE_KINDS)
    assert {key for source in listed for key in source} == set(SourceConfig.model_fields)


def test_limits_that_are_switched_off_survive_the_resolved_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("data: {src_lang: en, tgt_lang: de, train: [{src: a, tgt: b}], clean: {max_chars: null}}\n")
    config = load_config(file)
    assert config.data.clean.max_chars is None
    file.write_text(to_yaml(config))
    assert load_config(file) == config
