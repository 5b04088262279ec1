"""Which model a config or a string means."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from rightcall import tiny
from rightcall.config import resolve
from rightcall.errors import ConfigError, RightCallError
from rightcall.models.spec import ModelSpec, open_model
from tiny_models import build_tiny
from toys import SumTask


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("gold", {"kind": "gold"}),
        ("tiny:student", {"model": "tiny:student"}),
        ("org/name", {"model": "org/name"}),
        ("org/name+runs/a/adapter", {"model": "org/name", "adapter": "runs/a/adapter"}),
        ("tiny:student+runs/a", {"model": "tiny:student", "adapter": "runs/a"}),
        (
            "http://localhost:8000/v1#my/model",
            {"kind": "openai", "model": "my/model", "base_url": "http://localhost:8000/v1"},
        ),
        ("openai#gpt", {"kind": "openai", "model": "gpt"}),
    ],
)
def test_the_short_forms_mean_what_they_say(text: str, fields: dict[str, str]) -> None:
    assert ModelSpec.parse(text) == ModelSpec(**fields)  # type: ignore[arg-type]


def test_an_existing_folder_with_a_plus_sign_is_one_folder(tmp_path: Path) -> None:
    (tmp_path / "a+b").mkdir()
    assert ModelSpec.parse(str(tmp_path / "a+b")).adapter is None


def test_settings_go_with_a_short_form_and_survive_a_round_trip() -> None:
    spec = ModelSpec.parse("http://h/v1#m", capacity=3, timeout=5)
    assert (spec.capacity, spec.timeout) == (3, 5.0)
    assert ModelSpec.model_validate(spec.model_dump()) == spec


@pytest.mark.parametrize(
    ("text", "settings", "said"),
    [
        ("http://localhost:8000/v1", {}, "needs a model's name"),
        ("", {}, "needs a name"),
        ("openai", {}, "not a model: 'openai'. A server: http"),
        ("http", {}, "not a model: 'http'"),
        ("openai#", {}, "not a model"),
        ("localhost:8000/v1#m", {}, "not a model"),
        ("m", {"adaptor": "x"}, "adaptor"),
        ("m", {"base_url": "http://x"}, "belongs to kind = 'openai'"),
        ("openai#m", {"dtype": "float32"}, "belongs to kind = 'local'"),
        ("m", {"capacity": 0}, "capacity"),
    ],
)
def test_senseless_settings_are_refused_with_a_reason(
    text: str, settings: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        ModelSpec.parse(text, **settings)


@pytest.mark.parametrize("place", ["http://me:hunter2@h/v1", "http://hunter2@h/v1"])
def test_a_password_in_a_url_is_refused_and_not_repeated(place: str) -> None:
    for read in (
        lambda: ModelSpec.parse(f"{place}#m"),
        lambda: ModelSpec(kind="openai", model="m", base_url=place),
        lambda: resolve({"name": "x", "models": {"teacher": f"{place}#m"}, "tasks": {"math": {}}}),
    ):
        with pytest.raises(ConfigError, match="api_key_env") as caught:
            read()
        assert "hunter2" not in str(caught.value) + repr(caught.value)


def test_unknown_keys_of_a_table_are_refused() -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        ModelSpec.model_validate({"model": "m", "tempo": 1})


def test_weights_are_a_place_for_local_models_only() -> None:
    assert ModelSpec(model="a/b").weights == "a/b"
    assert ModelSpec(model="tiny:teacher").weights == str(tiny.path("teacher"))
    with pytest.raises(RightCallError, match="tutor"):
        _ = ModelSpec(model="tiny:tutor").weights
    with pytest.raises(ConfigError, match="without weights"):
        _ = ModelSpec.parse("gold").weights


def test_each_kind_opens_its_backend(tmp_path: Path) -> None:
    folder = build_tiny("llama", tmp_path / "m")
    with open_model(ModelSpec(model=str(folder), capacity=2, name="mine")) as model:
        assert (type(model).__name__, model.name, model.capacity) == ("LocalModel", "mine", 2)
    with open_model("gold", SumTask().problems("train", 1)) as model:
        assert type(model).__name__ == "GoldPlayer"
    with open_model("http://127.0.0.1:9/v1#m") as model:
        assert (type(model).__name__, model.name) == ("OpenAICompatible", "m")
