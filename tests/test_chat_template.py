"""A chat template of one's own, for a model whose tokenizer has none: wherever it is opened."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from native_models import template, tool_tokenizer
from rightcall.cli import app
from rightcall.config import differing_keys, resolve
from rightcall.errors import ConfigError, DataError, RenderingError
from rightcall.models.local import LocalModel
from rightcall.models.spec import ModelSpec, open_model
from rightcall.models.weights import load_tokenizer
from rightcall.run import tuned
from rightcall.serving import export_model
from rightcall.train.trainer import Lora, TrainConfig, dry_run, train
from test_native import ADD, STOP, file_of, pair_of, played
from test_rendering_templates import GEMMA_2
from tiny_models import build_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokenizer has no chat template."""
    place = tmp_path_factory.mktemp("bare") / "model"
    tokenizer = tool_tokenizer("qwen2_5")
    build_tiny("qwen2", place, vocab=len(tokenizer), layers=1)
    tokenizer.chat_template = None
    (place / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(place)
    assert load_tokenizer(place).chat_template is None
    return place


@pytest.fixture
def own(tmp_path: Path) -> str:
    path = tmp_path / "own.jinja"
    path.write_text(template("qwen2_5"), encoding="utf-8")
    return str(path)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    right, wrong = played(ADD, STOP.replace("9", "7")), played(STOP, sample=1)
    return file_of(tmp_path / "pairs.jsonl", pair_of(right, wrong))


def test_a_model_without_a_template_is_opened_with_a_given_one(model: Path, own: str) -> None:
    with pytest.raises(RenderingError, match="no chat template"):
        open_model(str(model))
    spec = ModelSpec.parse(str(model), chat_template=own)
    with open_model(spec) as opened:
        assert isinstance(opened, LocalModel)
        chain = played(ADD)
        shown = opened.renderer.text(chain.prompt, reply_next=True, tools=chain.schemas)
    assert '"name": "add"' in shown


def test_chains_by_another_template_are_another_models(model: Path, own: str, tmp_path: Path) -> None:
    other = tmp_path / "other.jinja"
    other.write_text(f"{template('qwen2_5')}{{# another #}}", encoding="utf-8")
    names = []
    for file in (own, str(other)):
        with open_model(ModelSpec.parse(str(model), chat_template=file)) as opened:
            names.append(opened.name)
    assert len({*names}) == 2
    assert all(name.startswith(f"{model}@") and "(template " in name for name in names)
    with open_model(ModelSpec.parse(str(model), chat_template=own, name="mine")) as opened:
        assert opened.name == "mine"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (None, "the chat template cannot be read"),
        (b"\xff\xfe", "the chat template cannot be read"),
        (b"{% for m in messages %}", "is no Jinja template"),
        (b"You are a helpful assistant.", "does not write the conversation"),
    ],
)
def test_a_file_that_is_no_template_is_refused(
    model: Path, tmp_path: Path, text: bytes | None, fault: str
) -> None:
    path = tmp_path / "t.jinja"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(ConfigError, match=rf"{fault}.*t\.jinja.*Give a Jinja file"):
        open_model(ModelSpec.parse(str(model), chat_template=str(path)))


@pytest.mark.parametrize("other", ["http://127.0.0.1:1/v1#m", "gold"])
def test_a_template_belongs_to_models_that_are_opened_here(other: str) -> None:
    with pytest.raises(ConfigError, match="chat_template belongs to kind = 'local' or 'vllm'"):
        ModelSpec.parse(other, chat_template="t.jinja")


def test_it_is_trained_with_and_saved_with_the_result(
    model: Path, own: str, pairs: Path, tmp_path: Path
) -> None:
    config = TrainConfig(max_steps=1, lora=Lora(r=2), batch_size=1)
    with pytest.raises(RenderingError, match="no chat template"):
        dry_run(config, model, pairs)
    assert dry_run(config, model, pairs, chat_template=own).rows == 1
    out = tmp_path / "out"
    train(config, model, pairs, out, chat_template=own)
    assert load_tokenizer(out).chat_template == template("qwen2_5")
    Path(own).write_text(f"{template('qwen2_5')}{{# another #}}", encoding="utf-8")
    with pytest.raises(DataError, match="another training"):
        train(config, model, pairs, out, chat_template=own)


def test_a_tuned_student_keeps_its_template(model: Path, own: str, tmp_path: Path) -> None:
    student = ModelSpec.parse(str(model), chat_template=own)
    assert tuned(student, tmp_path).chat_template is None  # it lies with the full weights
    (tmp_path / "adapter_config.json").write_text("{}")
    assert tuned(student, tmp_path).chat_template == own


@pytest.fixture(scope="module")
def adapter(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter over the model without a template, trained with one that is no longer there."""
    place = tmp_path_factory.mktemp("adapter")
    file = place / "gone.jinja"
    file.write_text(template("qwen2_5"), encoding="utf-8")
    pairs = file_of(
        place / "pairs.jsonl", pair_of(played(ADD, STOP.replace("9", "7")), played(STOP, sample=1))
    )
    config = TrainConfig(epochs=2, save_every=1, lora=Lora(r=2), batch_size=1)
    train(config, model, pairs, place / "tuned", chat_template=file)
    file.unlink()
    return place / "tuned"


@pytest.mark.parametrize("saved", ["", "checkpoints/checkpoint-1"])
def test_an_adapter_is_opened_with_the_template_it_was_trained_with(
    model: Path, adapter: Path, own: str, saved: str
) -> None:
    spec = ModelSpec.parse(f"{model}+{adapter / saved}")
    with open_model(spec) as opened:
        assert isinstance(opened, LocalModel)
        assert opened.tokenizer.chat_template == template("qwen2_5")
    with open_model(spec.model_copy(update={"chat_template": own})) as given:
        assert given.name == opened.name
        assert "(template " in opened.name


def test_a_given_template_goes_before_the_adapters(model: Path, adapter: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jinja"
    other.write_text(f"{template('qwen2_5')}{{# another #}}", encoding="utf-8")
    spec = ModelSpec.parse(f"{model}+{adapter}", chat_template=str(other))
    with open_model(spec) as opened, open_model(f"{model}+{adapter}") as without:
        assert isinstance(opened, LocalModel)
        assert opened.tokenizer.chat_template == other.read_text()
        assert opened.name != without.name


def test_an_adapter_is_trained_further_with_its_template(
    model: Path, adapter: Path, pairs: Path, own: str, tmp_path: Path
) -> None:
    config = TrainConfig(max_steps=1, lora=Lora(r=2), batch_size=1)
    assert dry_run(config, model, pairs, adapter=adapter).rows == 1
    train(config, model, pairs, tmp_path / "out", adapter=adapter)
    assert load_tokenizer(tmp_path / "out").chat_template == template("qwen2_5")
    made = (tmp_path / "out" / "train.json").stat().st_mtime_ns
    train(config, model, pairs, tmp_path / "out", adapter=adapter, chat_template=own)  # the same one
    assert (tmp_path / "out" / "train.json").stat().st_mtime_ns == made


@pytest.mark.parametrize("alone", [False, True])
def test_an_adapter_is_exported_with_its_template(
    model: Path, adapter: Path, tmp_path: Path, alone: bool
) -> None:
    made = export_model(ModelSpec.parse(f"{model}+{adapter}"), tmp_path / "made", adapter_only=alone)
    assert load_tokenizer(made.folder).chat_template == template("qwen2_5")
    assert str(adapter / "chat_template.jinja") in (made.folder / "README.md").read_text()


def test_a_pair_is_shown_with_the_adapters_template(model: Path, adapter: Path, pairs: Path) -> None:
    made = CliRunner().invoke(app, ["pairs", "show", str(pairs), "--model", f"{model}+{adapter}"])
    assert made.exit_code == 0, made.output
    assert "<tool_call>" in made.output


def _adapter(base: Path, place: Path) -> Path:
    loaded = AutoModelForCausalLM.from_pretrained(base)
    get_peft_model(loaded, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(str(place))
    return place


@pytest.mark.parametrize("text", [GEMMA_2, f"{GEMMA_2}{{# {{{{ strftime_now('%d') }}}} #}}"])
def test_an_adapter_with_its_bases_template_keeps_its_name(
    model: Path, tmp_path: Path, text: str
) -> None:
    """Saved, or exported with what servers need before it."""
    base = tmp_path / "base"
    shutil.copytree(model, base)
    tokenizer = load_tokenizer(base)
    tokenizer.chat_template = text.replace("\n", "\r\n")
    tokenizer.save_pretrained(base, save_jinja_files=False)
    plain, saved = _adapter(base, tmp_path / "plain"), _adapter(base, tmp_path / "saved")
    tokenizer.save_pretrained(saved)
    export_model(ModelSpec.parse(f"{base}+{plain}"), tmp_path / "exported", adapter_only=True)
    assert (tmp_path / "exported" / "chat_template.jinja").read_text() != text
    for place in (plain, saved, tmp_path / "exported"):
        with open_model(f"{base}+{place}") as opened:
            assert "(template " not in opened.name


def _saved(place: Path, how: str) -> Path:
    """An adapter's tokenizer by another tool, with the template as versions of transformers keep it."""
    tokenizer = tool_tokenizer("qwen2_5")
    if how == "several":
        tokenizer.chat_template = {"tool_use": GEMMA_2, "default": template("qwen2_5")}
    tokenizer.save_pretrained(place, save_jinja_files=how in ("jinja", "both"))
    if how == "both":
        file = place / "tokenizer_config.json"
        fields = json.loads(file.read_text()) | {"chat_template": GEMMA_2}
        file.write_text(json.dumps(fields))
    return place


@pytest.mark.parametrize("how", ["jinja", "config", "several", "both"])
def test_an_adapter_of_another_tool_brings_its_template(model: Path, tmp_path: Path, how: str) -> None:
    place = _saved(_adapter(model, tmp_path / "lora"), how)
    with open_model(f"{model}+{place}") as opened:
        assert isinstance(opened, LocalModel)
        assert opened.tokenizer.chat_template == template("qwen2_5")
        assert "(template " in opened.name
    file = ModelSpec.parse(f"{model}+{place}").template
    assert file is not None
    with open_model(ModelSpec.parse(str(model), chat_template=file)) as same:
        assert same.name.rpartition("(")[2] == opened.name.rpartition("(")[2]


def test_a_tokenizers_config_that_cannot_be_read_or_has_no_template_is_told_apart(
    model: Path, tmp_path: Path
) -> None:
    place = _adapter(model, tmp_path / "lora")
    file = place / "tokenizer_config.json"
    file.write_text('{"model_max_length": 512}')
    assert ModelSpec.parse(f"{model}+{place}").template is None
    with pytest.raises(ConfigError, match=r"the file holds no chat template.*tokenizer_config\.json"):
        open_model(ModelSpec.parse(str(model), chat_template=str(file)))
    for text in ("{", "[]", '{"chat_template": [{"name": "default"}]}'):
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"template cannot be read.*tokenizer_config\.json"):
            open_model(f"{model}+{place}")


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, without the hub, that holds an adapter: the folder of its files."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    place = tmp_path / "hub" / "models--someone--lora"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(COMMIT)
    (place / "snapshots" / COMMIT).mkdir(parents=True)
    return place / "snapshots" / COMMIT


def test_an_adapter_of_the_hub_brings_its_template(model: Path, hub: Path) -> None:
    _saved(_adapter(model, hub), "config")
    with open_model(f"{model}+someone/lora") as opened:
        assert isinstance(opened, LocalModel)
        assert opened.tokenizer.chat_template == template("qwen2_5")
        assert f"+someone/lora@{COMMIT[:8]} (template " in opened.name
    (hub / "added_tokens.json").write_text("{}")  # fetched by something else
    with open_model(f"{model}+someone/lora") as again:
        assert again.name == opened.name
    made = Path(ModelSpec.parse(f"{model}+someone/lora").template or "")
    assert made.name == "tokenizer_config.json"


def test_an_adapters_template_that_is_none_is_refused(model: Path, tmp_path: Path) -> None:
    place = _adapter(model, tmp_path / "broken")
    (place / "chat_template.jinja").write_text("You are a helpful assistant.")
    with pytest.raises(ConfigError, match=r"does not write the conversation.*broken/chat_template"):
        open_model(f"{model}+{place}")


def test_it_is_exported_with_the_model(model: Path, own: str, tmp_path: Path) -> None:
    made = CliRunner().invoke(
        app, ["export", "model", str(model), str(tmp_path / "made"), "--chat-template", own]
    )
    assert made.exit_code == 0, made.output
    assert load_tokenizer(tmp_path / "made").chat_template == template("qwen2_5")
    assert "own.jinja" in (tmp_path / "made" / "README.md").read_text()
    with pytest.raises(RenderingError, match="no chat template"):
        export_model(ModelSpec.parse(str(model)), tmp_path / "refused")


def test_commands_take_it(model: Path, own: str, pairs: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        made = CliRunner().invoke(app, [*arguments])
        assert made.exit_code == 0, (made.output, made.exception)
        return made.output

    said = run("pairs", "show", str(pairs), "--model", str(model), "--chat-template", own)
    assert "<tool_call>" in said
    out = ("--out", str(tmp_path / "tuned"))
    said = run("train", str(pairs), "--model", str(model), *out, "--chat-template", own, "--dry-run")
    assert "rows" in said
    short = ("--count", "1", "--samples", "1", "--steps", "1", "--max-tokens", "4")
    chains = tmp_path / "c.jsonl"
    given = ("--with", f"chat_template={own}", "--dialect", "native")
    run("collect", "tiny-math", "--model", str(model), *short, *given, "--out", str(chains))
    assert "(template " in json.loads(chains.read_text().splitlines()[0])["model"]


def test_it_is_part_of_what_a_run_is(model: Path) -> None:
    def made(**student: Any) -> Any:
        models = {"student": {"model": str(model), **student}, "teacher": "gold"}
        return resolve({"name": "n", "tasks": {"math": {}}, "models": models})

    (key,) = differing_keys(made(), made(chat_template="own.jinja"))
    assert "chat_template" in key


@pytest.mark.parametrize("place", ["models.student", "models.teacher", "tasks.math.models.student"])
@pytest.mark.parametrize("text", [None, "You are a helpful assistant."])
def test_checking_a_run_file_reads_its_templates(
    model: Path, own: str, tmp_path: Path, place: str, text: str | None
) -> None:
    file = tmp_path / "r.toml"
    file.write_text('name = "n"\n[tasks.math]\ntask = "tiny-math"\n')

    def check(template: Path) -> Any:
        setting = f'{place}={{model = "{model}", chat_template = "{template}"}}'
        return CliRunner().invoke(app, ["run", str(file), "--check", "--set", setting])

    assert check(Path(own)).exit_code == 0
    bad = tmp_path / "bad.jinja"
    if text is not None:
        bad.write_text(text)
    made = check(bad)
    assert isinstance(made.exception, ConfigError)
    assert str(bad) in str(made.exception)
    assert made.stdout == ""
