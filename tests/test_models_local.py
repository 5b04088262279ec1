"""The local engine against `transformers.generate`, and its promises about sharing and sampling."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from scipy.stats import chisquare
from transformers import AutoModelForCausalLM, MambaConfig, MambaForCausalLM

from rightcall.chain import Message
from rightcall.errors import ConfigError
from rightcall.models import Reply, Request, Sampling
from rightcall.models.engine import Engine, Turn
from rightcall.models.local import LocalModel
from rightcall.models.sampling import sample, uniforms
from rightcall.models.weights import load_tokenizer
from rightcall.rollout import Budget, Job, Setting, rollouts
from tiny_models import CHAT_TEMPLATE, build_tiny
from toys import SumTask

SYSTEM = Message(
    role="system",
    content="You solve problems step by step with functions. Functions: add(a, b) stop(answer)",
)
WINDOW = 24


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3", "mistral", "mistral-windowed"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models") / request.param
    if request.param == "mistral-windowed":
        return build_tiny("mistral", place, sliding_window=WINDOW)
    return build_tiny(request.param, place, seed=3)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny("llama", tmp_path_factory.mktemp("models") / "llama")


def question(index: int) -> Message:
    return Message(role="user", content=f"Tom has {index * 37} apples" + " and buys more" * (index % 4))


def ask(model: LocalModel, requests: Iterable[Request]) -> dict[str, Reply]:
    """The replies of requests that are open together, by chain."""
    wanted = 0
    for request in requests:
        model.submit(request)
        wanted += 1
    replies: dict[str, Reply] = {}
    while len(replies) < wanted:
        for request, reply in model.poll():
            assert isinstance(reply, Reply)
            replies[request.chain] = reply
    return replies


def generated(model: object, ids: Sequence[int], count: int) -> tuple[int, ...]:
    """What `generate` says, greedily, one prompt at a time."""
    with torch.inference_mode():
        out = model.generate(  # type: ignore[attr-defined]
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=count,
            do_sample=False,
        )
    return tuple(out[0, len(ids) :].tolist())


def conversations(
    model: LocalModel, chains: int, turns: int, sampling: Sampling = Sampling()
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(prompt ids, reply ids) of every turn of chains in flight together, lengths ragged."""
    history = {f"c{i}": [SYSTEM, question(i // 2)] for i in range(chains)}
    said: dict[str, list[tuple[int, ...]]] = {c: [] for c in history}
    seen = []
    for turn in range(turns):
        replies = ask(
            model,
            [
                Request(
                    chain=c,
                    messages=tuple(history[c]),
                    completions=tuple(said[c]),
                    sampling=sampling.model_copy(update={"max_tokens": 3 + (i + 2 * turn) % 5}),
                    seed=1000 * turn + i,
                )
                for i, c in enumerate(history)
            ],
        )
        for index, (c, reply) in enumerate(replies.items()):
            assert reply.token_ids is not None
            prompt = model.renderer.render(history[c], said[c], reply_next=True).ids
            assert reply.prompt_tokens == len(prompt)
            seen.append((prompt, reply.token_ids))
            ended = reply.finish_reason == "stop"
            said[c].append(reply.token_ids if ended else (*reply.token_ids, 2))
            history[c].append(Message(role="assistant", content=reply.text))
            history[c].append(Message(role="user", content="The result is 42." * (1 + index % 2)))
    return seen


def test_greedy_replies_of_ragged_conversations_equal_generate_token_by_token(folder: Path) -> None:
    reference = AutoModelForCausalLM.from_pretrained(folder)
    with LocalModel.load(folder, capacity=10, device="cpu") as model:
        seen = conversations(model, chains=10, turns=3)
    assert len({reply for _, reply in seen}) > 10
    for prompt, reply in seen:
        assert reply == generated(reference, prompt, len(reply))
    if "windowed" in folder.name:
        assert min(len(prompt) for prompt, _ in seen) > WINDOW


def test_every_unique_prompt_token_is_computed_about_once(llama: Path) -> None:
    with LocalModel.load(llama, capacity=12) as model:
        seen = conversations(model, chains=12, turns=4)
        computed = model.stats.prefilled_tokens
    unique = len({prompt[:end] for prompt, _ in seen for end in range(1, len(prompt) + 1)})
    said = len({(*p, *r[:end]) for p, r in seen for end in range(1, len(r) + 1)})
    asked = sum(len(prompt) for prompt, _ in seen)
    assert model.stats.prompt_tokens == asked
    # A reply's last token is computed when its conversation goes on.
    assert computed <= 1.1 * (unique - said) + len(seen)
    assert computed < asked / 4


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prompts=st.lists(
        st.tuples(st.integers(0, 12), st.lists(st.integers(3, 60), max_size=9), st.integers(1, 6)),
        min_size=1,
        max_size=9,
    ),
    slots=st.integers(1, 4),
    shared_prefix=st.sampled_from([0, 16, 20]),
    prefill=st.sampled_from([5, 64]),
)
def test_any_schedule_of_rows_gives_what_generate_gives(
    llama: Path,
    prompts: list[tuple[int, list[int], int]],
    slots: int,
    shared_prefix: int,
    prefill: int,
) -> None:
    reference = AutoModelForCausalLM.from_pretrained(llama)
    borrowed = AutoModelForCausalLM.from_pretrained(llama)
    with LocalModel(borrowed, _tokenizer(llama), name="m"):
        engine = Engine(borrowed, slots=slots, max_context=99, stop_ids=[2], prefill_tokens=prefill)
        ids = {
            f"r{i}": tuple(range(3, 20 + head)) + tuple(tail)
            for i, (head, tail, _) in enumerate(prompts)
        }
        queue = [
            Turn(row, ids[row], shared_prefix, Sampling(max_tokens=prompts[i][2]), 0)
            for i, row in enumerate(ids)
        ]
        said: dict[str, tuple[int, ...]] = {}
        for turn in queue[:slots]:
            engine.enter(turn)
        waiting = queue[slots:]
        while engine.busy:
            for done in engine.step():
                said[done.row] = done.tokens
                engine.leave(done.row)
                if waiting:
                    engine.enter(waiting.pop(0))
    for index, (row, prompt) in enumerate(ids.items()):
        assert said[row] == generated(reference, prompt, prompts[index][2])


def _tokenizer(folder: Path):  # type: ignore[no-untyped-def]
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def test_a_sampled_chain_is_the_same_alone_and_in_a_batch(llama: Path) -> None:
    sampling = Sampling(temperature=1.0, top_p=0.9, max_tokens=8)
    requests = [
        Request(chain=f"c{i}", messages=(SYSTEM, question(i)), sampling=sampling, seed=i)
        for i in range(6)
    ]
    with LocalModel.load(llama, capacity=6) as model:
        together = ask(model, requests)
    with LocalModel.load(llama, capacity=1) as model:
        for request in requests:
            alone = ask(model, [request])[request.chain]
            model.release(request.chain)
            assert alone.token_ids == together[request.chain].token_ids
    assert len({reply.token_ids for reply in together.values()}) == 6


def test_samples_of_one_prompt_differ_by_seed_and_share_its_prefill(llama: Path) -> None:
    sampling = Sampling(temperature=1.0, max_tokens=4)
    with LocalModel.load(llama, capacity=8) as model:
        replies = ask(
            model,
            [
                Request(chain=f"c{i}", messages=(SYSTEM, question(3)), sampling=sampling, seed=i)
                for i in range(8)
            ],
        )
        prompt = replies["c0"].prompt_tokens
        assert model.stats.prefilled_tokens == prompt
    assert len({reply.token_ids for reply in replies.values()}) > 4


def test_a_conversation_resumes_in_a_fresh_model_and_branches_from_a_prefix(llama: Path) -> None:
    first = Request(chain="a", messages=(SYSTEM, question(5)), sampling=Sampling(max_tokens=6))
    with LocalModel.load(llama, capacity=4) as model:
        reply = ask(model, [first])["a"]
        assert reply.token_ids is not None
        longer = (*first.messages, Message(role="assistant", content=reply.text), question(6))
        said = ((*reply.token_ids, 2),)
        later = Request(chain="a", messages=longer, completions=said, sampling=Sampling(max_tokens=9))
        live = ask(model, [later])["a"]
        before = model.stats.prefilled_tokens
        branches = ask(model, [later.model_copy(update={"chain": f"b{i}"}) for i in range(3)])
        assert model.stats.prefilled_tokens == before
    with LocalModel.load(llama, capacity=1) as model:
        resumed = ask(model, [later])["a"]
    assert live.token_ids == resumed.token_ids
    assert all(branch.token_ids == live.token_ids for branch in branches.values())


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own call
@pytest.mark.parametrize("merge", [True, False])
def test_a_lora_adapter_speaks_as_peft_does(llama: Path, tmp_path: Path, merge: bool) -> None:
    torch.manual_seed(0)
    tuned = get_peft_model(
        AutoModelForCausalLM.from_pretrained(llama),
        LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False),
    )
    tuned.save_pretrained(tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(llama)
    reference = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(llama), tmp_path / "adapter"
    )
    with LocalModel.load(llama, adapter=tmp_path / "adapter", merge=merge) as model:
        seen = conversations(model, chains=4, turns=2)
    for prompt, reply in seen:
        assert reply == tuple(
            reference.generate(
                input_ids=torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=len(reply),
                do_sample=False,
            )[0, len(prompt) :].tolist()
        )
    assert any(reply != generated(base, prompt, len(reply)) for prompt, reply in seen)


def test_a_reply_ends_with_any_stop_token_of_the_model(llama: Path) -> None:
    request = Request(chain="a", messages=(SYSTEM, question(1)), sampling=Sampling(max_tokens=12))
    with LocalModel.load(llama) as model:
        free = ask(model, [request])["a"]
    assert free.token_ids is not None
    assert free.finish_reason == "length"
    stop = free.token_ids[5]
    borrowed = AutoModelForCausalLM.from_pretrained(llama)
    borrowed.generation_config.eos_token_id = [2, stop]
    with LocalModel(borrowed, _tokenizer(llama), name="m") as model:
        stopped = ask(model, [request])["a"]
    end = free.token_ids.index(stop)
    assert stopped.finish_reason == "stop"
    assert stopped.token_ids == free.token_ids[: end + 1]
    assert stopped.completion_tokens == end + 1
    assert free.text.startswith(stopped.text)


def test_a_conversation_that_outgrows_the_context_says_so(llama: Path) -> None:
    request = Request(chain="a", messages=(SYSTEM, question(1)), sampling=Sampling(max_tokens=12))
    with LocalModel.load(llama) as model:
        length = ask(model, [request])["a"].prompt_tokens
    with LocalModel.load(llama, max_context=length + 4) as model:
        cut = ask(model, [request])["a"]
        assert (cut.finish_reason, cut.completion_tokens) == ("context", 4)
    with LocalModel.load(llama, max_context=length) as model:
        assert ask(model, [request])["a"].finish_reason == "context"


def test_a_released_chain_leaves_the_others_alone(llama: Path) -> None:
    def requests(names: str) -> list[Request]:
        return [
            Request(chain=n, messages=(SYSTEM, question(ord(n))), sampling=Sampling(max_tokens=6))
            for n in names
        ]

    with LocalModel.load(llama, capacity=3) as model:
        for request in requests("abc"):
            model.submit(request)
        model.release("b")
        replies: dict[str, Reply] = {}
        while len(replies) < 2:
            replies |= {q.chain: r for q, r in model.poll() if isinstance(r, Reply)}
        assert model.poll() == []
    with LocalModel.load(llama, capacity=1) as model:
        for request in requests("ac"):
            assert ask(model, [request])[request.chain].token_ids == replies[request.chain].token_ids
            model.release(request.chain)


def test_rollouts_from_a_prefix_of_steps_compute_it_once(llama: Path) -> None:
    task = SumTask()
    setting = Setting(
        task, task.function_set(), "student", Sampling(temperature=1.0, max_tokens=40), Budget(steps=4)
    )
    prompts: list[tuple[int, ...]] = []
    said: list[tuple[int, ...]] = []

    class Watched(LocalModel):
        def submit(self, request: Request) -> None:
            ids = self.renderer.render(request.messages, request.completions, reply_next=True).ids
            prompts.append(ids)
            super().submit(request)

        def poll(self):  # type: ignore[no-untyped-def]
            answers = super().poll()
            for request, reply in answers:
                ids = self.renderer.render(request.messages, request.completions, reply_next=True).ids
                said.append((*ids, *reply.token_ids))
            return answers

    def model(capacity: int) -> LocalModel:
        borrowed = AutoModelForCausalLM.from_pretrained(llama)
        made = Watched(borrowed, _tokenizer(llama), name="m", capacity=capacity)
        made._engine._stop = np.arange(40)  # one token in ten ends a reply
        return made

    with model(4) as first:
        problems = list(task.problems("train", 3))
        recorded = list(rollouts(setting, first, [Job(problem) for problem in problems]))
    prefixes = {c.problem_id: c.steps[:2] for c in recorded if len(c.steps) >= 2}
    assert prefixes
    jobs = [
        Job(problem, sample, prefixes[problem.id])
        for problem in problems
        if problem.id in prefixes
        for sample in range(1, 9)
    ]
    prompts.clear()
    said.clear()
    with model(6) as second:
        branched = list(rollouts(setting, second, jobs))
        computed = second.stats.prefilled_tokens
    assert all(c.steps[:2] == prefixes[c.problem_id] for c in branched)
    # Every token of every prompt once, but those that a chain itself decoded and that are in its cache.
    nodes = {p[:end] for p in prompts for end in range(1, len(p) + 1)}
    begun = set(prompts)
    decoded = {
        s[:end]
        for s in said
        for end in range(max(len(p) for p in begun if s[: len(p)] == p) + 1, len(s))
    }
    assert computed <= 1.1 * len(nodes - decoded)
    assert computed < sum(map(len, prompts)) / 4


def test_first_tokens_of_the_engine_follow_the_models_distribution(llama: Path) -> None:
    count = 1500
    sampling = Sampling(temperature=0.7, max_tokens=1)
    with LocalModel.load(llama, capacity=count, device="cpu") as model:
        requests = [
            Request(chain=f"c{i}", messages=(SYSTEM, question(2)), sampling=sampling, seed=i)
            for i in range(count)
        ]
        replies = ask(model, requests)
        prompt = model.renderer.render(requests[0].messages, reply_next=True).ids
        assert model.stats.prefilled_tokens == len(prompt)
    reference = AutoModelForCausalLM.from_pretrained(llama)
    with torch.no_grad():
        logits = reference(torch.tensor([prompt])).logits[0, -1].double()
    wanted = torch.softmax(logits / 0.7, -1).numpy() * count
    seen = np.bincount([(r.token_ids or ())[0] for r in replies.values()], minlength=len(wanted))
    usual = wanted >= 5
    rest = [seen[~usual].sum()], [wanted[~usual].sum()]
    expected = np.concatenate([wanted[usual], rest[1]])
    observed = np.concatenate([seen[usual], rest[0]])
    assert chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-3


def test_rollouts_do_not_depend_on_how_many_are_in_flight(llama: Path) -> None:
    task = SumTask()
    setting = Setting(
        task, task.function_set(), "student", Sampling(temperature=1.0, max_tokens=60), Budget(steps=2)
    )
    jobs = [Job(problem, i) for problem in task.problems("train", 2) for i in range(2)]

    def run(capacity: int) -> dict[str, tuple[str, ...]]:
        with LocalModel.load(llama, name="m", capacity=capacity) as model:
            # One token in ten ends a reply.
            model._engine._stop = np.arange(40)
            return {c.key: tuple(s.reply for s in c.steps) for c in rollouts(setting, model, jobs)}

    assert run(1) == run(4)


def test_a_borrowed_model_gets_its_attention_and_mode_back(llama: Path) -> None:
    borrowed = AutoModelForCausalLM.from_pretrained(llama)
    borrowed.train()
    before = borrowed.config._attn_implementation
    with LocalModel(borrowed, _tokenizer(llama), name="m"):
        assert not borrowed.training
    assert borrowed.training
    assert borrowed.config._attn_implementation == before


def test_bfloat16_weights_run(llama: Path) -> None:
    request = Request(chain="a", messages=(SYSTEM, question(1)), sampling=Sampling(max_tokens=3))
    with LocalModel.load(llama, dtype="bfloat16", device="cpu") as model:
        assert ask(model, [request])["a"].completion_tokens == 3


def test_architectures_without_plain_attention_are_refused(llama: Path) -> None:
    config = MambaConfig(vocab_size=400, hidden_size=16, num_hidden_layers=1, state_size=4)
    with pytest.raises(ConfigError, match=r"attention layers only.*linear_attention"):
        LocalModel(MambaForCausalLM(config), _tokenizer(llama), name="m")


def test_weights_that_are_missing_or_not_safetensors_are_refused(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot load a model"):
        LocalModel.load(tmp_path / "nothing")
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for file in llama.iterdir():
        if file.suffix != ".safetensors":
            (pickled / file.name).write_bytes(file.read_bytes())
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="safetensors"):
        LocalModel.load(pickled)
    (tmp_path / "adapter").mkdir()
    with pytest.raises(ConfigError, match=r"adapter_model\.safetensors"):
        LocalModel.load(llama, adapter=tmp_path / "adapter")


def test_uniform_draws_are_flat_and_independent_of_neighbouring_seeds() -> None:
    seeds = np.repeat(np.arange(400, dtype=np.uint64), 50)
    drawn = uniforms(seeds, np.tile(np.arange(50), 400))
    assert ((drawn >= 0) & (drawn < 1)).all()
    assert chisquare(np.histogram(drawn, 64, (0, 1))[0]).pvalue > 1e-3
    table = drawn.reshape(400, 50)
    assert abs(np.corrcoef(table[:-1].ravel(), table[1:].ravel())[0, 1]) < 0.03
    assert abs(np.corrcoef(table[:, :-1].ravel(), table[:, 1:].ravel())[0, 1]) < 0.03


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.7)])
def test_samples_follow_the_tempered_and_cut_distribution(temperature: float, top_p: float) -> None:
    count = 20_000
    logits = torch.tensor([2.0, 1.0, 0.0, 1.5, -4.0, 0.5])
    wanted = torch.softmax(logits / temperature, -1)
    ordered, index = wanted.sort(descending=True)
    wanted[index[ordered.cumsum(-1) - ordered >= top_p]] = 0
    wanted /= wanted.sum()
    uniform = torch.from_numpy(uniforms(np.arange(count, dtype=np.uint64), np.zeros(count, np.int64)))
    drawn = sample(
        logits.expand(count, -1),
        torch.full((count,), temperature),
        torch.full((count,), top_p),
        uniform,
    )
    seen = torch.bincount(drawn, minlength=6).numpy()
    kept = wanted.numpy() > 0
    assert seen[~kept].sum() == 0
    expected = wanted.numpy()[kept].astype(np.float64)
    assert chisquare(seen[kept], count * expected / expected.sum()).pvalue > 1e-3


def test_rows_may_mix_greedy_and_sampled() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0]]).expand(3, -1)
    drawn = sample(
        logits, torch.tensor([0.0, 1.0, 1.0]), torch.ones(3), torch.tensor([0.999, 0.0, 0.999])
    )
    assert drawn.tolist() == [1, 0, 2]


def test_the_name_tells_other_weights_in_the_same_folder_apart(tmp_path):
    folder = tmp_path / "model"
    first = LocalModel.load(build_tiny("llama", folder, seed=0)).name
    assert LocalModel.load(folder).name == first
    assert LocalModel.load(build_tiny("llama", folder, seed=1)).name != first
    assert first.startswith(str(folder))
    template = folder / "chat_template.jinja"
    template.write_text("{# another #}" + template.read_text())
    assert LocalModel.load(folder).name != LocalModel.load(build_tiny("llama", folder, seed=1)).name


@pytest.mark.parametrize("jinja", [False, True], ids=["in the tokenizer's config", "as files"])
@pytest.mark.parametrize("which", ["default", "tool_use"])
def test_the_name_tells_other_templates_of_the_same_weights_apart(tmp_path, jinja, which):
    """Each of a tokenizer's: the one for tool calls stands in a folder of its own."""
    folder = build_tiny("llama", tmp_path / "model")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer = load_tokenizer(folder)
    own = dict.fromkeys(("default", "tool_use"), CHAT_TEMPLATE)
    names = set()
    for templates in (own, own | {which: f"{CHAT_TEMPLATE}{{# another #}}"}):
        tokenizer.chat_template = templates
        tokenizer.save_pretrained(folder, save_jinja_files=jinja)
        loaded = LocalModel.load(folder)
        assert loaded.tokenizer.chat_template == templates
        names.add(loaded.name)
    assert len(names) == 2


def test_a_hubs_adapter_is_fetched_without_pickles(llama, tmp_path, monkeypatch):
    asked = []
    empty = tmp_path / "snapshot"
    empty.mkdir()

    def snapshot_download(name, *, allow_patterns):
        assert name == "someone/adapter"
        asked.append(allow_patterns)
        return str(empty)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(ConfigError, match=r"adapter_model\.safetensors"):
        LocalModel.load(llama, adapter="someone/adapter")
    templates = ["chat_template.jinja", "tokenizer_config.json"]
    assert asked == [templates, ["adapter_config.json", "adapter_model.safetensors", *templates]]


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(llama, device):
    with pytest.raises(ConfigError, match="no such device"):
        LocalModel.load(llama, device=device)


def test_quantising_without_its_library_is_refused(llama, monkeypatch):
    monkeypatch.setattr("rightcall.models.weights.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="bitsandbytes, which is not installed"):
        LocalModel.load(llama, quantization="4bit")


def test_four_bit_weights_compute_in_the_dtype_asked_for(llama):
    pytest.importorskip("bitsandbytes")
    loaded = LocalModel.load(llama, quantization="4bit", dtype="float32", device="cpu").model
    kinds = {m.compute_dtype for m in loaded.modules() if hasattr(m, "compute_dtype")}
    assert kinds == {torch.float32}
