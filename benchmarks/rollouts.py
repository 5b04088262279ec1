"""Rollouts with a local model: chains of a task, every call really executed.

    python -m benchmarks.rollouts            64 problems x 8 chains of fol and math, sampled and greedy
    python -m benchmarks.rollouts --quick    a minute or two

The same agent loop (`rightcall.rollout.rollouts`) drives every contestant: they differ in how a
conversation becomes a reply, and in nothing else.

engine        `LocalModel`: observations are appended to a live cache, prefixes are shared
one-by-one    `generate` on one conversation at a time, each step computed from its first token
batched       `generate` on all open conversations, padded on the left, from the first token
continuous    transformers' continuous batching, its prefix cache on

All use a KV cache within a reply, the same stop tokens and length limits. Functions are executed and
answers verified within the clock; the process of a chain is not judged there. One conversation at a
time costs the same however many there are, so that contestant makes a share of the chains, and all
ratios are of seconds per chain. Greedy chains must be the same, token by token, for all contestants.

Prefilled ÷ unique: tokens that were computed as part of a prompt, over the nodes of the trie of all
requests' token ids that no chain decoded by itself. A prompt shared by two requests counts once.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import (
    Contestant,
    Figures,
    Run,
    Work,
    gemm_flops,
    interleaved,
    median,
    ratio,
    table,
    write_json,
)

from rightcall.chain import Chain, Judgement, digest
from rightcall.dialects import DIALECTS, conversation
from rightcall.errors import ModelError
from rightcall.models import ChatModel, Reply, Request, Sampling
from rightcall.models.spec import ModelSpec
from rightcall.rendering import Renderer
from rightcall.rollout import Budget, Job, Setting, rollouts
from rightcall.task import Task, load_task

TASKS: dict[str, dict[str, Any]] = {"fol": {"words": 32, "made_up": 0.0}, "math": {}}
"""Task → options: the vocabulary that the tiny models know."""
TEMPERATURES = (1.0, 0.0)
MAX_TOKENS = 96
BUDGET = Budget(steps=20, tokens=1024)


def make(kind: str, model: str, capacity: int, samples: int) -> Work:
    """The work of a contestant: chains of a task at a temperature."""
    opened = LOAD[kind](ModelSpec(model=model).weights, capacity)
    loaded = {name: _unjudged(load_task(name, **options)) for name, options in TASKS.items()}
    questions = {name: list(task.problems("test", 64)) for name, task in loaded.items()}

    def work(task: str, temperature: float, problems: int) -> Callable[[], Figures]:
        jobs = [Job(p, sample) for p in questions[task][:problems] for sample in range(samples)]
        setting = Setting(
            loaded[task],
            loaded[task].function_set(),
            "student",
            Sampling(temperature=temperature, max_tokens=MAX_TOKENS),
            BUDGET,
        )
        model, renderer, prefilled = opened()
        made = list(rollouts(setting, model, jobs))
        model.close()
        return lambda: described(made, renderer, prefilled())

    return work


def _unjudged(task: Task) -> Task:
    """The task without its view of *how* an answer was reached: no part of a rollout."""
    task.judge = lambda problem, chain: Judgement()  # type: ignore[method-assign]
    return task


Opened = tuple[ChatModel, Renderer, Callable[[], int | None]]
"""A model with nothing in its caches, what renders for it, and how many prompt tokens it computed."""


def described(chains: Sequence[Chain], renderer: Renderer, prefilled: int | None) -> Figures:
    """What was made, and how often each prompt token was computed (None: nobody counted)."""
    asked = list(_requests(chains, renderer))
    decoded = sum(len(reply) for _, reply in asked)
    unique = unique_prompt_tokens(asked)
    return {
        "chains": len(chains),
        "correct": sum(chain.outcome == "correct" for chain in chains),
        "steps": sum(len(chain.steps) for chain in chains),
        "prompt_tokens": sum(len(prompt) for prompt, _ in asked),
        "prefilled_tokens": prefilled,
        "unique_prompt_tokens": unique,
        "prefilled_per_unique": None if prefilled is None else prefilled / unique,
        "decoded_tokens": decoded,
        "said": {f"{c.problem_id}/{c.sample}": digest([s.token_ids for s in c.steps]) for c in chains},
    }


def _requests(
    chains: Sequence[Chain], renderer: Renderer
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(prompt ids, reply ids) of every turn."""
    for chain in chains:
        for index, step in enumerate(chain.steps):
            before = chain.steps[:index]
            messages = conversation(chain.prompt, before, DIALECTS[chain.dialect])
            said = tuple(s.token_ids for s in before)
            assert step.token_ids is not None
            yield renderer.render(messages, said, reply_next=True).ids, step.token_ids


def unique_prompt_tokens(asked: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> int:
    """Nodes of the trie of all prompts, less those that were computed in decoding: every token of a
    reply but its last, which nothing was drawn from."""
    children: dict[tuple[int, int], int] = {}

    def walk(ids: Sequence[int]) -> list[int]:
        node, path = 0, []
        for token in ids:
            node = children.setdefault((node, token), len(children) + 1)
            path.append(node)
        return path

    prompts, decoded = set(), set()
    for prompt, reply in asked:
        path = walk((*prompt, *reply))
        prompts.update(path[: len(prompt)])
        decoded.update(path[len(prompt) : -1])
    return len(prompts - decoded)


# --- contestants --------------------------------------------------------------------------------


def load_engine(path: str, capacity: int) -> Callable[[], Opened]:
    from rightcall.models.local import LocalModel

    loaded = LocalModel.load(path, device="cpu", capacity=1)

    def opened() -> Opened:
        made = LocalModel(loaded.model, loaded.tokenizer, name="engine", capacity=capacity)
        return made, made.renderer, lambda: made.stats.prefilled_tokens

    return opened


class Peer(ChatModel):
    """Conversations in, replies out, every step from the first token; `_reply` is the contestant."""

    def __init__(self, path: str, capacity: int) -> None:
        from transformers import AutoModelForCausalLM

        from rightcall.models.weights import load_tokenizer

        self.name = "peer"
        self.capacity = capacity
        self.lm: Any = AutoModelForCausalLM.from_pretrained(path, dtype="float32")
        self.tokenizer = load_tokenizer(path)
        self.stop = self.lm.generation_config.eos_token_id
        self.renderer = Renderer(self.tokenizer, [self.stop])
        self.prefilled: int | None = 0
        self._open: dict[str, tuple[Request, tuple[int, ...]]] = {}

    def submit(self, request: Request) -> None:
        ids = self.renderer.render(request.messages, request.completions, reply_next=True).ids
        self.prefilled = (self.prefilled or 0) + len(ids)
        self._open[request.chain] = request, ids

    def poll(self) -> list[tuple[Request, Reply | ModelError]]:
        asked, self._open = list(self._open.values()), {}
        said = self._replies(asked)
        return [
            (request, self.read(request, ids, tokens))
            for (request, ids), tokens in zip(asked, said, strict=True)
        ]

    def read(self, request: Request, ids: Sequence[int], tokens: Sequence[int]) -> Reply:
        ended = self.stop in tokens
        tokens = tokens[: tokens.index(self.stop) + 1] if ended else tokens
        words = tokens[:-1] if ended else tokens
        return Reply(
            text=self.tokenizer.decode(list(words)),
            finish_reason="stop" if ended else "length",
            prompt_tokens=len(ids),
            completion_tokens=len(tokens),
            token_ids=tuple(tokens),
        )

    def _replies(self, asked: Sequence[tuple[Request, tuple[int, ...]]]) -> list[list[int]]:
        """One `generate` for all: all samplings are the same here."""
        import torch

        width = max(len(ids) for _, ids in asked)
        padded = torch.zeros(len(asked), width, dtype=torch.long)
        mask = torch.zeros_like(padded)
        for row, (_, ids) in enumerate(asked):
            padded[row, width - len(ids) :] = torch.tensor(ids)
            mask[row, width - len(ids) :] = 1
        with torch.inference_mode():
            made = self.lm.generate(
                padded,
                attention_mask=mask,
                max_new_tokens=max(request.sampling.max_tokens for request, _ in asked),
                **_sampling(asked[0][0].sampling),
            )
        return [
            row[: request.sampling.max_tokens]
            for row, (request, _) in zip(made[:, width:].tolist(), asked, strict=True)
        ]


def _sampling(sampling: Sampling) -> dict[str, Any]:
    if sampling.temperature == 0:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": sampling.temperature, "top_k": 0, "top_p": 1.0}


class Continuous(Peer):
    """transformers' own continuous batching, in its own thread."""

    _manager: Any = None

    def submit(self, request: Request) -> None:
        ids = self.renderer.render(request.messages, request.completions, reply_next=True).ids
        self._open[request.chain] = request, ids
        self._running(request.sampling).add_request(
            list(ids), request.chain, request.sampling.max_tokens, eos_token_id=self.stop
        )

    def poll(self) -> list[tuple[Request, Reply | ModelError]]:
        answers: list[tuple[Request, Reply | ModelError]] = []
        while not answers:
            made = self._manager.get_result(timeout=1)
            fatal = self._manager.background_thread_status.fatal_error
            if fatal is not None:
                raise RuntimeError("continuous batching stopped") from fatal
            if made is not None and made.error is not None:
                raise RuntimeError(made.error)
            if made is not None and made.is_finished():
                request, ids = self._open.pop(made.request_id)
                answers.append((request, self.read(request, ids, made.generated_tokens)))
        return answers

    def _running(self, sampling: Sampling) -> Any:
        """The manager, which knows one sampling, and lives until `close`."""
        from transformers import ContinuousBatchingConfig, GenerationConfig

        config: Any = GenerationConfig

        if self._manager is None:
            self._manager = self.lm.init_continuous_batching(
                config(
                    max_new_tokens=MAX_TOKENS,
                    eos_token_id=self.stop,
                    pad_token_id=0,
                    **_sampling(sampling),
                ),
                ContinuousBatchingConfig(
                    page_size=32,
                    num_blocks=4096,
                    max_batch_tokens=max(512, self.capacity),
                    max_requests_per_batch=self.capacity,
                    seed=0,
                ),
            )
            self._manager.start()
        return self._manager

    def close(self) -> None:
        if self._manager is not None:
            self._manager.stop(block=True)
            self._manager = None


def _loader(kind: type[Peer]) -> Callable[[str, int], Callable[[], Opened]]:
    def load(path: str, capacity: int) -> Callable[[], Opened]:
        peer = kind(path, capacity)

        def opened() -> Opened:
            peer.prefilled = None if kind is Continuous else 0  # it does not say what its cache had
            return peer, peer.renderer, lambda: peer.prefilled

        return opened

    return load


LOAD: dict[str, Callable[[str, int], Callable[[], Opened]]] = {
    "engine": load_engine,
    "one-by-one": _loader(Peer),
    "batched": _loader(Peer),
    "continuous": _loader(Continuous),
}


# --- the comparison -----------------------------------------------------------------------------


def started(options: argparse.Namespace) -> tuple[list[Contestant], dict[str, str]]:
    """The contestants that can run here, warm, and why the others cannot."""
    line: list[Contestant] = []
    failed: dict[str, str] = {}
    for kind in options.contestants:
        capacity = 1 if kind == "one-by-one" else getattr(options, f"{kind}_capacity")
        samples = 1 if kind == "one-by-one" else options.samples
        try:
            contestant = Contestant(
                kind, make, kind, options.model, capacity, samples, threads=options.threads
            )
            for temperature in options.temperatures:
                contestant.run(options.tasks[0], temperature, 2)
        except RuntimeError as error:
            failed[kind] = str(error)
            print(f"{kind} cannot run here: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
        else:
            line.append(contestant)
    return line, failed


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Every workload's runs and its table's rows."""
    line, failed = started(options)
    runs: dict[str, list[Run]] = {}
    rows: list[dict[str, Any]] = []
    try:
        for task, temperature in itertools.product(options.tasks, options.temperatures):
            made = interleaved(
                line, options.rounds, task, temperature, options.problems, warm_up=0, on_run=_shown
            )
            rows += [_row(task, temperature, name, made) for name in made]
            runs |= {f"{task} {temperature:g} {name}": each for name, each in made.items()}
    finally:
        for contestant in line:
            contestant.close()
    return {"runs": runs, "rows": rows, "failed": failed}


def _shown(name: str, number: int, run: Run) -> None:
    print(f"  round {number + 1} {name}: {run.cpu:.1f} s of CPU, {run.wall:.1f} s", file=sys.stderr)


def _row(task: str, temperature: float, name: str, made: dict[str, list[Run]]) -> dict[str, Any]:
    runs, ours = made[name], made["engine"]
    chains = median(runs, "chains")
    return {
        "task": task,
        "temperature": temperature,
        "contestant": name,
        "chains": int(chains),
        "chains per CPU-second": chains / median(runs, "cpu"),
        "chains per second": chains / median(runs, "wall"),
        "decoded tokens per CPU-second": median(runs, "decoded_tokens") / median(runs, "cpu"),
        "prefilled ÷ unique": None
        if runs[0].figures["prefilled_per_unique"] is None
        else median(runs, "prefilled_per_unique"),
        "peak MiB": median(runs, "peak_mb"),
        "CPU time ÷ engine's": ratio(runs, ours, "cpu", per="chains"),
        "wall ÷ engine's": ratio(runs, ours, "wall", per="chains"),
        "other greedy chains": _different(runs, ours) if temperature == 0 else None,
    }


def _different(runs: Sequence[Run], ours: Sequence[Run]) -> int:
    """How many of the chains that both made differ in a token."""
    theirs, mine = runs[0].figures["said"], ours[0].figures["said"]
    return sum(said != mine[key] for key, said in theirs.items())


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="8 problems x 4 chains, two rounds")
    parser.add_argument("--model", default="tiny:student", help="as behind --model of rightcall")
    parser.add_argument("--problems", type=int, default=64, help="64 at most")
    parser.add_argument("--samples", type=int, default=8, help="chains per problem")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of torch, for each contestant")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--temperatures", nargs="+", type=float, default=TEMPERATURES)
    parser.add_argument("--contestants", nargs="+", default=list(LOAD), choices=list(LOAD))
    parser.add_argument("--engine-capacity", type=int, default=64, help="chains in flight")
    parser.add_argument("--batched-capacity", type=int, default=64)
    parser.add_argument("--continuous-capacity", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/rollouts.json"))
    options = parser.parse_args(arguments)
    if options.quick:
        options.problems, options.samples, options.rounds = 8, 4, 2
    if "engine" not in options.contestants:
        parser.error("the engine is what the others are compared with: name it too")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parsed(arguments)
    made = compare(options)
    rows = made["rows"]
    head = list(rows[0])
    print(table(head, [list(row.values()) for row in rows]))
    peers = [row["CPU time ÷ engine's"] for row in rows if row["contestant"] != "engine"]
    best = min(peers, default=float("nan"))
    print(f"\nThe best peer takes at least {best:.2f} times the engine's CPU time on every workload.")
    for name, why in made["failed"].items():
        print(f"\n{name} did not run:\n{why}")
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
    write_json(
        options.out,
        "rollouts",
        made["runs"],
        settings=settings,
        rows=rows,
        failed=made["failed"],
        gemm_flops=gemm_flops(),
    )
    print(f"\n{options.out}")
    wrong = sum(row["other greedy chains"] or 0 for row in rows)
    if wrong:
        print(f"{wrong} greedy chains differ from the engine's", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
