"""The configuration: ranges, choices, switches, and the way through JSON."""

import dataclasses
import json
import re
from typing import Any

import jaxtyping
import pytest

from slif_jax.config import GRAPH_NAMES, Config
from slif_jax.metrics import METRIC_NAMES
from slif_jax.protocols import PROTOCOLS

FIELDS = {field.name: field for field in dataclasses.fields(Config)}


def with_rule(rule):
    return [name for name in FIELDS if rule in FIELDS[name].metadata and name != "topk"]


def test_defaults_are_valid_and_explained():
    config = Config()
    assert config.select_on in [f"{name}@{k}" for name in METRIC_NAMES for k in config.topk]
    for field in FIELDS.values():
        assert field.metadata["help"].endswith("."), field.name


def test_a_config_is_frozen_and_compares_by_value():
    config = Config(seed=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 4  # pyright: ignore[reportAttributeAccessIssue]
    assert config == Config(seed=3) != Config()
    assert len({config, Config(seed=3)}) == 1


@pytest.mark.parametrize("name", with_rule("minimum"))
def test_minimum(name):
    least = FIELDS[name].metadata["minimum"]
    kept = getattr(Config(**{name: least}), name)
    assert kept == (getattr(PROTOCOLS["strict"], name) if name in ("patience", "eval_every") else least)
    with pytest.raises(ValueError, match=f"`{name}` must be at least {least}: got {least - 1}"):
        Config(**{name: least - 1})


@pytest.mark.parametrize("name", with_rule("above"))
def test_above(name):
    bound = FIELDS[name].metadata["above"]
    assert getattr(Config(**{name: bound + 1e-9}), name) > bound
    for wrong in (bound, bound - 1.0):
        with pytest.raises(ValueError, match=f"`{name}` must be above {bound}: got {wrong}"):
            Config(**{name: wrong})


def test_momentum_and_share_have_an_upper_end():
    assert Config(feature_correlation=1.0, correlation_momentum=0.999).feature_correlation == 1.0
    with pytest.raises(ValueError, match=r"`feature_correlation` must be at most 1.0: got 1.5"):
        Config(feature_correlation=1.5)
    with pytest.raises(ValueError, match=r"`correlation_momentum` must be below 1.0: got 1.0"):
        Config(correlation_momentum=1.0)


@pytest.mark.parametrize("name", [name for name in FIELDS if FIELDS[name].type is float])
def test_no_number_may_be_nan(name):
    nan: Any = float("nan")
    with pytest.raises(ValueError, match=f"`{name}` must be .*: got nan"):
        Config(**{name: nan})


@pytest.mark.parametrize("name", ["loss", "correlation_warm_up", "protocol", "correlation_into"])
def test_choices(name):
    choices = FIELDS[name].metadata["choices"]

    def make(value: Any):
        if name == "correlation_into":
            value = (value,)
        return Config(**{name: value})

    for choice in choices:
        make(choice)
    with pytest.raises(ValueError, match=f"`{name}` must be one of {', '.join(choices)}: got 'other'"):
        make("other")


def test_metrics_must_fit_the_cut_offs():
    assert Config(topk=(7,), select_on="ndcg@7").topk == (7,)
    with pytest.raises(ValueError, match=r"`select_on` must be one of recall@7, .*: got 'recall@20'"):
        Config(topk=(7,))
    with pytest.raises(ValueError, match="got 'recal@20'"):
        Config(select_on="recal@20")
    with pytest.raises(ValueError, match="`topk` must name at least one cut-off"):
        Config(topk=())
    with pytest.raises(ValueError, match="`topk` must be at least 1: got 0"):
        Config(topk=(20, 0))


def test_what_is_not_set_is_as_the_protocol_says():
    assert (Config().patience, Config().eval_every, Config().select_on) == (30, 1, "recall@20")
    kgat = Config(protocol="kgat")
    assert (kgat.patience, kgat.eval_every, kgat.select_on) == (10, 10, "recall@20")
    assert Config(protocol="recbole").select_on == "mrr@10"
    assert Config(protocol="recbole", select_on="ndcg@20", patience=3).patience == 3
    assert Config.from_dict(kgat.to_dict()) == kgat
    with pytest.raises(ValueError, match=r"`select_on` must be one of recall@20, .*: got 'mrr@10'"):
        Config(protocol="recbole", topk=(20,))


def test_where_the_correlation_graph_goes():
    assert all(Config().correlates(graph) for graph in GRAPH_NAMES)
    some = Config(correlation_into=("knowledge",))
    assert [some.correlates(graph) for graph in GRAPH_NAMES] == [False, True, False]
    assert some.uses_correlation()
    for off in (Config(self_loop=False), Config(side_information=False), Config(correlation_into=())):
        assert not off.uses_correlation()
        assert not any(off.correlates(graph) for graph in GRAPH_NAMES)


def test_through_json_and_back():
    config = Config(topk=(3, 20), modalities=("text", "visual"), correlation_into=(), learning_rate=3e-4, epochs=7)
    text = json.dumps(config.to_dict())
    assert Config.from_dict(json.loads(text)) == config
    assert set(json.loads(text)) == set(FIELDS)


def test_missing_fields_take_their_default_and_values_are_checked():
    assert Config.from_dict({}) == Config()
    assert Config.from_dict({"width": 8}) == Config(width=8)
    with pytest.raises(ValueError, match="`width` must be at least 1: got 0"):
        Config.from_dict({"width": 0})


def test_unknown_fields_are_named_with_the_closest_one():
    with pytest.raises(ValueError, match=r"^Config has no field 'learning_rat'\. Did you mean 'learning_rate'\?$"):
        Config.from_dict({"learning_rat": 1e-3})
    with pytest.raises(ValueError, match=r"^Config has no field 'zzzzzzzz'\.$"):
        Config.from_dict({"zzzzzzzz": 1})


@pytest.mark.parametrize(
    ("field", "value", "example"),
    [
        ("width", 3.5, "64"),
        ("width", True, "64"),
        ("self_loop", "no", "True"),
        ("topk", 20, "(5, 10, 20, 50)"),
        ("topk", ["a"], "5"),
        ("learning_rate", "0.1", "0.004"),
        ("modalities", "visual", "('all',)"),
        ("dataset", 3, "'ml-100k'"),
    ],
)
def test_values_of_another_type_are_refused_with_an_example(
    field: str, value: object, example: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the tests' own check of types comes first
    with pytest.raises(ValueError, match=re.escape(f"`{field}` must be such as {example}: got ")):
        Config.from_dict({field: value})


def test_integers_beyond_32_bits_are_refused():
    with pytest.raises(ValueError, match=r"`knowledge_batch` must be below 2,147,483,648: got 99999999999"):
        Config(knowledge_batch=99_999_999_999)
