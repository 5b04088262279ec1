"""One DPO step on the same pairs: as a prefix tree, padded with a compact head, and by TRL.

    python -m benchmarks.dpo_step                      # the table, a few minutes a shape
    python -m benchmarks.dpo_step --shape low          # little to share
    python -m benchmarks.dpo_step --pairs runs/demo/fol/pairs.jsonl  # real chains
    python -m benchmarks.dpo_step --quick              # a minute or two of CPU time

A step is forward, backward and AdamW over all pairs, full weights, the reference precomputed for
everybody, each contestant in micro-batches of the size that suits it. Contestants take turns in one run
and the ratios are medians over rounds, of CPU time except on a GPU: what others do on the machine
changes it little. `limit` is the arithmetic that no layout can avoid, each unique token once, at the
speed of a matrix product of the model's own width, measured in the same run by the same clock. On a GPU
padded sequences and TRL take flash attention where flash-attn is installed; the JSON file says which
attention everybody had, and whether TRL went without padding.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import typer
from benchmarks.measure import (
    Clock,
    Contestant,
    Figures,
    Run,
    gemm_flops,
    interleaved,
    machine,
    median,
    ratio,
    table,
    write_json,
)

if TYPE_CHECKING:
    from rightcall.train.data import Row

VOCABULARY = 8192


@dataclass(frozen=True)
class Shape:
    """Chains of one problem and the pairs made of them."""

    prompt: int
    chains: int
    steps: int
    reply: int
    observation: int
    step_pairs: bool
    """An alternative reply at each step, paired with the reply."""


SHAPES = {
    "high": Shape(prompt=800, chains=8, steps=6, reply=30, observation=10, step_pairs=True),
    "low": Shape(prompt=800, chains=8, steps=6, reply=30, observation=10, step_pairs=False),
    "quick": Shape(prompt=200, chains=4, steps=3, reply=20, observation=10, step_pairs=True),
}

Side = tuple[np.ndarray, np.ndarray]
"""Ids and train mask."""

Pair = tuple[int, Side, Side]
"""Prompt length, chosen, rejected."""

Source = Shape | str
"""Made-up pairs of a shape, or a file of real ones."""

REAL = 48
"""Pairs taken from a file."""


def pairs(source: Source) -> Iterator[Pair]:
    """Made up, or from a file."""
    return made_up(source) if isinstance(source, Shape) else real(source)


def real(path: str) -> Iterator[Pair]:
    """The first pairs of a file, in the tokens of the tiny student."""
    from itertools import islice

    from rightcall.models.weights import load_tokenizer
    from rightcall.rendering import Renderer
    from rightcall.tiny import path as tiny
    from rightcall.train.data import load_rows

    rows = load_rows(
        path, Renderer(load_tokenizer(tiny("student"))), method="dpo", max_length=4096
    ).rows
    for row in islice(rows, REAL):
        chosen, rejected = ((np.array(s.ids), np.array(s.trained)) for s in row.sequences)
        yield min(int(trained.argmax()) for _, trained in (chosen, rejected)), chosen, rejected


def rows_of(made: Iterable[Pair]) -> Iterator[Row]:
    """Pairs of one problem as training has them."""
    from rightcall.rendering import Rendered
    from rightcall.train.data import Row

    def rendered(side: Side) -> Rendered:
        return Rendered(tuple(side[0].tolist()), tuple(side[1].tolist()))

    for i, (_, chosen, rejected) in enumerate(made):
        yield Row(f"pair {i}", rendered(chosen), rendered(rejected), "problem")


def made_up(shape: Shape, seed: int = 0) -> Iterator[Pair]:
    """The step pairs of all chains, then pairs of whole chains."""
    random = np.random.default_rng(seed)

    def tokens(count: int) -> np.ndarray:
        return random.integers(8, VOCABULARY, count)

    prompt = tokens(shape.prompt)
    whole: list[Side] = []
    for _ in range(shape.chains):
        prefix, trained = prompt, np.zeros(shape.prompt, bool)
        for _ in range(shape.steps):
            chosen, rejected = tokens(shape.reply), tokens(shape.reply)
            if shape.step_pairs:
                mask = np.arange(len(prefix) + shape.reply) >= len(prefix)
                good, bad = ((np.concatenate([prefix, reply]), mask) for reply in (chosen, rejected))
                yield len(prefix), good, bad
            prefix = np.concatenate([prefix, chosen, tokens(shape.observation)])
            said = np.arange(shape.reply + shape.observation) < shape.reply
            trained = np.concatenate([trained, said])
        whole.append((prefix, trained))
    for chosen_chain, rejected_chain in zip(whole[::2], whole[1::2], strict=True):
        yield shape.prompt, chosen_chain, rejected_chain


@dataclass(frozen=True)
class Width:
    """Of a Llama with as many heads for keys as for queries."""

    hidden: int
    layers: int
    heads: int
    inner: int


SIZES = {"small": Width(256, 4, 4, 688), "large": Width(1024, 24, 16, 4096)}


def model_folder(folder: Path, size: str) -> Path:
    """Random weights: the study's 3-million-parameter Llama, or half a billion for a GPU."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from rightcall.models.weights import load_tokenizer
    from rightcall.tiny import path

    wide = SIZES[size]
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=wide.hidden,
            num_hidden_layers=wide.layers,
            num_attention_heads=wide.heads,
            num_key_value_heads=wide.heads,
            intermediate_size=wide.inner,
            max_position_embeddings=4096,
        )
    ).save_pretrained(folder)
    load_tokenizer(path("student")).save_pretrained(folder)
    return folder


# --- contestants: each makes its trainer, and returns the step ----------------------------------------


def make_ours(
    model: str, source: Source, packing: Literal["tree", "padded"], batch: int, device: str
) -> Any:
    from transformers import AutoTokenizer

    from rightcall.train.data import Rows
    from rightcall.train.loop import build
    from rightcall.train.policy import load_policy
    from rightcall.train.trainer import TrainConfig

    made = tuple(rows_of(pairs(source)))
    count = len(made)
    config = TrainConfig(
        tune="full",
        packing=packing,
        batch_size=min(batch, count),
        accumulation=-(-count // min(batch, count)),
        learning_rate=1e-6,
        reference_cache=False,
    )
    core = load_policy(config, model, device=device)
    folder = Path(tempfile.mkdtemp())
    trainer = build(
        config, core, AutoTokenizer.from_pretrained(model), Rows(made), folder, device=device
    )
    assert trainer.packing == packing
    return _step(trainer, lambda: trainer.get_train_dataloader(), _tokens_of(trainer))


def _tokens_of(trainer: Any) -> Figures:
    made = [batch for item in trainer.get_train_dataloader() for batch in item["batches"]]
    return {
        "raw": sum(batch["raw"] for batch in made),
        "computed": sum(batch["computed"] for batch in made),
        "pairs": sum(len(batch["chosen"]) for batch in made),
        "attention": trainer.core.config._attn_implementation,
    }


def make_trl(model: str, source: Source, batch: int, device: str) -> Any:
    import warnings

    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    warnings.simplefilter("ignore")
    rows = [
        {
            "prompt_ids": chosen[0][:start].tolist(),
            "chosen_ids": chosen[0][start:].tolist(),
            "rejected_ids": rejected[0][start:].tolist(),
            "ref_chosen_logps": 0.0,
            "ref_rejected_logps": 0.0,
        }
        for start, chosen, rejected in pairs(source)
    ]
    options: Any = {"use_cpu": True, "bf16": False} if device == "cpu" else {"bf16": True}
    attention, padding_free = fastest(device)
    size = min(batch, len(rows))
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, attn_implementation=attention),
        processing_class=AutoTokenizer.from_pretrained(model),
        args=DPOConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=-(-len(rows) // size),
            max_length=4096,
            learning_rate=1e-6,
            precompute_ref_log_probs=True,
            gradient_checkpointing=False,
            padding_free=padding_free,
            report_to=[],
            disable_tqdm=True,
            **options,
        ),
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": " b", "rejected": " c"}]),
    )
    model_of: Any = trainer.model
    model_of.train()

    def batches() -> Iterator[Any]:
        for first in range(0, len(rows), size):
            yield trainer.data_collator(rows[first : first + size])

    had = {
        "attention": model_of.config._attn_implementation,
        "padding_free": bool(trainer.padding_free),  # some releases pad whatever is asked
    }
    return _step(trainer, batches, {"pairs": len(rows), **had})


def fastest(device: str) -> tuple[str, bool]:
    """The attention that TRL is fastest with, and whether it should go without padding."""
    flash = device != "cpu" and find_spec("flash_attn") is not None
    return ("flash_attention_2" if flash else "sdpa"), flash


def _step(trainer: Any, batches: Callable[[], Any], figures: Figures) -> Any:
    """Forward, backward and update over all batches, the trainer's own way."""
    trainer.create_optimizer_and_scheduler(num_training_steps=1000)
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps

    def step() -> Figures:
        loss: float = 0.0
        for batch in batches():
            loss += float(trainer.training_step(trainer.model, batch))
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        return {**figures, "loss": loss}

    return step


# --- the limit ----------------------------------------------------------------------------------------


def floor_flops(source: Source, wide: Width) -> tuple[float, int]:
    """Floating-point operations of forward and backward over each unique token once (a multiplication
    and an addition are two), and how many unique tokens there are. Attention is counted exactly: each
    query with each key that it sees."""
    from rightcall.train.packing import pack

    packed = pack([side for _, chosen, rejected in pairs(source) for side in (chosen, rejected)])
    hidden, layers = wide.hidden, wide.layers
    linear = layers * (4 * hidden * hidden + 3 * hidden * wide.inner)
    seen = float((packed.depth + 1).sum())
    forward: float = 2 * linear * packed.unique + 2 * hidden * VOCABULARY * len(packed.target)
    forward += 4 * layers * hidden * seen
    return 3 * forward, packed.unique


def main(
    shape: Annotated[str, typer.Option(help="high (23.5x shared), low (3.1x) or quick.")] = "high",
    file: Annotated[Path | None, typer.Option("--pairs", help="Real pairs instead of a shape.")] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    size: Annotated[str, typer.Option(help="small, or large for a GPU.")] = "small",
    without_trl: Annotated[bool, typer.Option("--without-trl")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Small shape, two rounds.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of the JSON file.")] = Path("build/benchmarks"),
) -> None:
    """Measure and print."""
    if quick:
        shape, rounds = "quick", 2
    wanted: Source = SHAPES[shape] if file is None else str(file)
    shape = shape if file is None else "real"
    with tempfile.TemporaryDirectory() as folder:
        model = str(model_folder(Path(folder), size))
        line = [
            Contestant("tree", make_ours, model, wanted, "tree", 1000, device, threads=threads),
            Contestant("padded", make_ours, model, wanted, "padded", 4, device, threads=threads),
        ]
        if not without_trl:
            few = 1 if device == "cpu" else 4  # all logits of more leave the caches: a sixth slower
            line.append(Contestant("TRL", make_trl, model, wanted, few, device, threads=threads))
        speeds: list[float] = []
        clock: Clock = "cpu" if device == "cpu" else "wall"

        def follow(name: str, number: int, run: Run) -> None:
            if name == "tree":
                speeds.append(_speed(SIZES[size], threads, device, clock))
            typer.echo(f"round {number} {name:<7} {run.wall:8.2f} s  {run.cpu:8.2f} CPU-s", err=True)

        runs = interleaved(line, rounds, on_run=follow)
        for contestant in line:
            contestant.close()
    losses = {name: made[0].figures["loss"] for name, made in runs.items() if name != "TRL"}
    if abs(losses["tree"] - losses["padded"]) > 1e-3:
        raise SystemExit(f"the layouts disagree: {losses}")
    flops, unique = floor_flops(wanted, SIZES[size])
    limit = flops / statistics.median(speeds)
    raw = runs["tree"][0].figures["raw"]
    typer.echo(
        f"\n{runs['tree'][0].figures['pairs']} pairs, {raw:,} raw tokens, {unique:,} unique "
        f"({raw / unique:.1f}x shared), {threads} thread(s), {machine()['cpu']}\n"
    )
    typer.echo(
        table(
            ("layout", "s/step", "CPU-s", "x slower than tree", "x the limit", "peak MiB"),
            [
                (
                    name,
                    median(made, "wall"),
                    median(made, "cpu"),
                    ratio(made, runs["tree"], clock),
                    median(made, clock) / limit,
                    max(run.peak_mb if run.device_mb is None else run.device_mb for run in made),
                )
                for name, made in runs.items()
            ],
        )
    )
    speed = f"{flops / 1e9:.0f} GFLOP at {flops / limit / 1e9:.0f} GFLOP/s"
    typer.echo(f"\nlimit {limit:.3f} {clock} s: {speed}")
    for name, made in runs.items():
        typer.echo(f"{name}: {made[0].figures['attention']}")
    written = out / f"dpo_step.{shape}.{device}.json"
    write_json(written, "dpo_step", runs, shape=shape, size=size, limit=limit)


def _speed(wide: Width, threads: int, device: str, clock: Clock) -> float:
    """FLOP/s of a product such as the model's: 4096 tokens by three of its square matrices at once."""
    import torch

    torch.set_num_threads(threads)
    kind = "float32" if device == "cpu" else "bfloat16"
    shape = (4096, wide.hidden, 3 * wide.hidden)
    return gemm_flops(shape, dtype=kind, device=device, seconds=0.3, clock=clock)


if __name__ == "__main__":
    typer.run(main)
