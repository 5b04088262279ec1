"""The command line: parse, call one function, print.

Everything beyond typer is imported inside the command that needs it, so that `rightcall --help`
answers at once. A user's mistake prints one message on standard error and exits with 2.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from rightcall.errors import ConfigError, DataError, RightCallError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rightcall.chain import Chain, ChainFiles, Problem
    from rightcall.cluster import ClusterConfig
    from rightcall.estimate import Estimate
    from rightcall.exporting import Written
    from rightcall.pairs import PreferencePair
    from rightcall.rollout import Enough
    from rightcall.task import Task
    from rightcall.train.config import TrainPlan, TrainResult

app = typer.Typer(
    name="rightcall",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Teach a small language model to reason with functions, and prove that it got better.",
    epilog="Start with: rightcall solve tiny-math --model tiny:teacher",
)
tasks_app = typer.Typer(help="List, show and check tasks.", invoke_without_command=True)
pairs_app = typer.Typer(help="Make and inspect preference pairs.", no_args_is_help=True)
export_app = typer.Typer(help="Write chains or pairs for other programs.", no_args_is_help=True)
app.add_typer(tasks_app, name="tasks")
app.add_typer(pairs_app, name="pairs")
app.add_typer(export_app, name="export")

ENDLESS = 2000
"""Problems that are looked at where a task generates them without end."""

TaskName = Annotated[
    str,
    typer.Argument(metavar="TASK", help="fol, math, gsm8k, tiny-fol, ..., or my_task.py:MyTask."),
]
Option = Annotated[
    list[str] | None,
    typer.Option("--option", "-o", metavar="KEY=VALUE", help="An argument of the task."),
]
Functions = Annotated[
    str | None, typer.Option(help="A named subset of the task's functions, or names with commas.")
]
Dialect = Annotated[
    str,
    typer.Option(
        help="python: functions in the prompt, calls in Python syntax. native: the model's own tool "
        "calling."
    ),
]
Model = Annotated[
    str,
    typer.Option("--model", "-m", help="tiny:teacher, tiny:student, a folder, a hub id, a server URL."),
]
With = Annotated[
    list[str] | None,
    typer.Option("--with", metavar="KEY=VALUE", help="A setting of the model: price, cap, ..."),
]
Template = Annotated[
    Path | None,
    typer.Option(
        "--chat-template", metavar="FILE", help="A chat template in place of the model's own."
    ),
]
ChainsFiles = Annotated[
    list[Path], typer.Argument(metavar="CHAINS", help="Chains files: of teacher, student, a search.")
]
RightBy = Annotated[
    str, typer.Option("--by", help="Chains end well by process (and answer), or by answer alone.")
]
Problems = Annotated[
    list[Path] | None,
    typer.Option(
        "--problems", metavar="FILE", help="Problems beside the task's own, as import writes them."
    ),
]
Unseen = Annotated[
    Path | None,
    typer.Option("--test", metavar="FILE", help="Problems (JSONL) that must not be learned from."),
]
PairsFile = Annotated[Path, typer.Argument(metavar="PAIRS", help="A pairs file.")]
Split = Annotated[str, typer.Option(help="train, validation or test.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same problems and chains.")]
Count = Annotated[int, typer.Option(min=1, help="How many problems.")]
Steps = Annotated[
    int | None,
    typer.Option(min=1, help="Calls per chain at most; the task's largest budget by default."),
]
Temperature = Annotated[float, typer.Option(min=0.0, help="0 is greedy.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Override a setting (TOML literal)."),
]
Budgets = Annotated[
    list[int] | None,
    typer.Option(min=1, help="A step budget; may be repeated. Those of the evaluation by default."),
]
OnCluster = Annotated[
    list[str] | None,
    typer.Option(
        "--cluster",
        metavar="KEY=VALUE",
        help="On Ray: workers=4, gpus=1 (of each), address=auto. This process alone by default.",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only say what it would take: calls, tokens, money.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")]


def main() -> NoReturn:
    """Run the command line and exit: 0 done, 1 checked and found wrong, 2 a user's mistake."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a batch system's end is as soft
    os.environ.setdefault("TQDM_DISABLE", "1")  # the libraries' bars: what a run does it says itself
    try:
        app(prog_name="rightcall")
    except RightCallError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    sys.exit(0)


def _version(wanted: bool) -> None:
    if wanted:
        from rightcall import __version__

        print(f"rightcall {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


# --- tasks --------------------------------------------------------------------------------------


@tasks_app.callback()
def _tasks(context: typer.Context) -> None:
    """List, show and check tasks."""
    if context.invoked_subcommand is None:
        tasks_list()


@tasks_app.command("list")
def tasks_list(as_json: AsJson = False) -> None:
    """The built-in tasks, their functions and presets."""
    from rightcall import terminal
    from rightcall.task import BUILT_IN, PRESETS, load_task

    tasks = [load_task(name) for name in BUILT_IN]
    presets = {
        task.name: {name: options for name, (of, options) in PRESETS.items() if of == task.name}
        for task in tasks
    }
    if as_json:
        _print_json(
            {
                t.name: {
                    "instruction": t.instruction,
                    "functions": {f.name: f.signature for f in t.functions},
                    "subsets": {"all": [f.name for f in t.functions], **t.subsets},
                    "presets": presets[t.name],
                }
                for t in tasks
            }
        )
        return
    console = terminal.out()
    for task in tasks:
        console.print(f"[bold]{task.name}[/bold]", (type(task).__doc__ or "").split("\n")[0])
        for function in task.functions:
            console.print(f"  {function.role.value:<7}", function.signature, markup=False)
        for subset, names in task.subsets.items():
            console.print(f"  subset  {subset}: {', '.join(names)}", markup=False)
        for preset, options in presets[task.name].items():
            given = ", ".join(f"{name} = {_plain(value)}" for name, value in options.items())
            console.print(f"  preset  {preset}: {given}", markup=False)


@tasks_app.command("show")
def tasks_show(
    task: TaskName,
    problems: Annotated[
        list[str] | None, typer.Argument(help="Ids or numbers; the first by default.")
    ] = None,
    split: Split = "test",
    seed: Seed = 0,
    functions: Functions = None,
    option: Option = None,
) -> None:
    """A task and its options, its prompt, then problems with their gold chains, executed."""
    from rightcall import terminal
    from rightcall.dialects import DIALECTS

    loaded = _load(task, option)
    chosen = loaded.function_set(_names(functions))
    console = terminal.out()
    for number, text in enumerate(problems or ["0"]):
        problem = _problem(loaded, text, split, seed)
        if number == 0:
            terminal.show_task(console, loaded)
            system = DIALECTS["python"].prompt(loaded.instruction, chosen, problem)[0]
            console.print(terminal.printable(system["content"]), style="dim", markup=False)
            console.print()
        terminal.show_problem(console, problem)
        states = loaded.begin(problem)
        for step, call in enumerate(loaded.gold(problem, chosen), 1):
            terminal.show_step(console, step, call, chosen.reply(call, states).observation.text)
        console.print(f"\ngold answer: {problem.answer}\n", markup=False)


@tasks_app.command("check")
def tasks_check(
    task: TaskName,
    count: Count = 200,
    seed: Seed = 0,
    functions: Functions = None,
    option: Option = None,
    as_json: AsJson = False,
) -> None:
    """Verify a task without a model; exits with 1 if something is wrong."""
    from rightcall import terminal
    from rightcall.check import check_task

    report = check_task(_load(task, option), count, seed, _names(functions))
    if as_json:
        print(report.model_dump_json(indent=2))
    else:
        terminal.out().print(report.table())
    if not report.ok:
        raise typer.Exit(1)


@tasks_app.command("leaks")
def tasks_leaks(
    task: TaskName,
    train: Annotated[str, typer.Option(help="A split, or a file of pairs or problems.")] = "train",
    test: Annotated[str, typer.Option(help="The split that must not be learned from.")] = "test",
    count: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"Problems of a split at most. All there are; {ENDLESS:,} where they are generated.",
        ),
    ] = None,
    threshold: Annotated[float, typer.Option(help="From 0.5 to 1; 1 finds no near ones.")] = 0.9,
    any_numbers: Annotated[
        bool, typer.Option("--any-numbers", help="Numbers need not agree: finds twins of a template.")
    ] = False,
    seed: Seed = 0,
    option: Option = None,
    as_json: AsJson = False,
) -> None:
    """Test questions that training has, exactly or nearly; exits with 1 if there is an exact one."""
    from rightcall import terminal
    from rightcall.errors import EndlessSplit
    from rightcall.leaks import find_leaks
    from rightcall.task import SPLITS

    loaded = _load(task, option)

    def of(split: str) -> Iterator[Problem]:
        try:
            yield from loaded.problems(split, count, seed)
        except EndlessSplit:  # before its first problem
            yield from loaded.problems(split, ENDLESS, seed)

    learned = of(train) if train in SPLITS else _asked(_existing(Path(train)))
    report = find_leaks(learned, of(test), threshold=threshold, numbers=not any_numbers)
    if as_json:
        print(report.model_dump_json(indent=2))
    else:
        terminal.out().print(report.table())
    if not report.ok:
        raise typer.Exit(1)


# --- solve and collect --------------------------------------------------------------------------


@app.command()
def solve(
    task: TaskName,
    model: Model = "tiny:teacher",
    problem: Annotated[str, typer.Option("--problem", "-p", help="An id, or a number from 0.")] = "0",
    question: Annotated[
        str | None, typer.Option("--question", "-q", help="Your own question instead.")
    ] = None,
    split: Split = "test",
    functions: Functions = None,
    dialect: Dialect = "python",
    steps: Steps = None,
    temperature: Temperature = 0.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens per reply at most.")] = 256,
    seed: Seed = 0,
    option: Option = None,
    chat_template: Template = None,
    as_json: AsJson = False,
) -> None:
    """Solve one problem and show the chain as it grows."""
    from rightcall import rollout, terminal
    from rightcall.chain import Problem
    from rightcall.models import Sampling
    from rightcall.models.spec import ModelSpec, open_model

    loaded = _load(task, option)
    spec = ModelSpec.parse(model, chat_template=_text(chat_template))
    if question is None:
        chosen = _problem(loaded, problem, split, seed)
    else:
        chosen = Problem(id="question", question=question, answer="")
    console = terminal.out()
    shown: set[int] = set()

    def on_step(number: int, reply: str, observation: str) -> None:
        shown.add(number)
        if not as_json:
            terminal.show_step(console, number, reply, observation)

    if not as_json:
        terminal.show_problem(console, chosen)
    held = rollout.Setting(loaded, loaded.function_set(_names(functions)), "model", dialect=dialect)
    with open_model(spec, held.playable([chosen])) as opened:
        chain = rollout.solve(
            loaded if question is None else terminal.Unjudged(loaded),
            chosen,
            terminal.Watched(opened, on_step),
            functions=_names(functions),
            source="solve",
            seed=seed,
            sampling=Sampling(temperature=temperature, max_tokens=max_tokens),
            budget=rollout.Budget(steps=steps or max(loaded.budgets)),
            dialect=dialect,
        )
    if as_json:
        print(chain.model_dump_json(indent=2))
        return
    if chain.steps and len(chain.steps) not in shown:
        last = chain.steps[-1]
        terminal.show_step(console, len(chain.steps), last.reply, last.observation.text)
    terminal.show_verdict(console, chain, judged=question is None)
    if chain.error:
        raise typer.Exit(1)


@app.command()
def collect(
    task: TaskName,
    out: Annotated[Path, typer.Option(help="The chains file; what is in it already is not redone.")],
    model: Model = "tiny:teacher",
    source: Annotated[str, typer.Option(help="The model's role: teacher, student, ...")] = "teacher",
    split: Split = "train",
    count: Count = 100,
    samples: Annotated[int, typer.Option("--samples", "-k", min=1, help="Chains per problem.")] = 4,
    temperature: Temperature = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens per reply at most.")] = 256,
    steps: Steps = None,
    enough: Annotated[
        str | None,
        typer.Option(
            metavar="RIGHT,WRONG",
            help="Sample a problem until it has so many right and wrong chains.",
        ),
    ] = None,
    functions: Functions = None,
    dialect: Dialect = "python",
    seed: Seed = 0,
    option: Option = None,
    setting_of_model: With = None,
    on_cluster: OnCluster = None,
    dry_run: DryRun = False,
) -> None:
    """Chains of a model on a task's problems, appended to a file; resumable."""
    from rightcall import cluster, rollout, terminal
    from rightcall.chain import ChainStore
    from rightcall.models import Sampling
    from rightcall.models.spec import ModelSpec

    if samples > 1 and not temperature:
        raise ConfigError(
            "at temperature 0 all samples of a problem are the same",
            value=f"--samples {samples}",
            remedy="Set a --temperature, or take one sample.",
        )
    loaded = _load(task, option)
    sampling = Sampling(temperature=temperature, max_tokens=max_tokens)
    wanted = loaded.function_set(_names(functions))
    budget = rollout.Budget(steps=steps or max(loaded.budgets))
    setting = rollout.Setting(loaded, wanted, source, sampling, budget, seed, dialect)
    problems = list(loaded.problems(split, count, seed))
    spec, wished = ModelSpec.parse(model, **_table(setting_of_model)), _enough(enough)
    if dry_run:
        from rightcall.estimate import estimate

        label = f"{source} on {task}"
        _say_estimates([estimate(label, setting, problems, samples, spec, out, wished)])
        return
    counted = out.with_suffix(".usage.jsonl")
    place = cluster.TaskSpec(task, _table(option), _names(functions))
    workers = _workers(on_cluster)
    with cluster.collector(workers, spec, place, setting, problems, usage_path=counted) as by:
        cluster.gather(out)
        finished = rollout.finished(setting, by.name, problems, samples, out)
        try:
            with terminal.progress(
                f"{source} on {task}", len(problems) * samples, finished
            ) as on_chain:
                by.collect(setting, problems, samples, out, on_chain, enough=wished)
        finally:  # also where a cap ends it
            terminal.out().print(terminal.outcome_table(str(out), ChainStore(out).latest()))
            if by.used:
                terminal.out().print(by.used, markup=False)
            terminal.say_errors(ChainStore(out))
        if problems and not rollout.finished(setting, by.name, problems, samples, out):
            raise DataError(
                "every chain errored", value=str(out), remedy="Mend what is said above; run it again."
            )


# --- import and export --------------------------------------------------------------------------


@app.command("import")
def import_(
    importer: Annotated[
        str,
        typer.Argument(help="openai_chat, gsm8k_annotated, logic_lm, or my_importer.py:function."),
    ],
    logs: Annotated[
        list[Path], typer.Argument(metavar="LOG", help="JSON lines, one JSON list, or Parquet.")
    ],
    task: Annotated[str, typer.Option(help="A built-in task, a preset, or my_task.py:MyTask.")],
    out: Annotated[Path, typer.Option(help="The chains file; what is in it already is not redone.")],
    source: Annotated[str, typer.Option(help="The models' role: teacher, student, ...")] = "teacher",
    model: Annotated[
        str | None, typer.Option(help="The model's name, where the log does not tell.")
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(help="Where to look for problems; may be repeated. All by default."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Problems of each split to look through.")] = 20_000,
    problems: Problems = None,
    own_problems: Annotated[
        bool,
        typer.Option("--own-problems", help="A record with a gold answer may be the problem itself."),
    ] = False,
    problems_out: Annotated[
        Path | None,
        typer.Option(help="The problems of the chains (JSONL); beside OUT if some are the log's own."),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="List records that cannot be read, and go on.")
    ] = False,
    prover: Annotated[
        bool, typer.Option("--prover", help="Logic: say what classical logic finds, too.")
    ] = False,
    functions: Functions = None,
    dialect: Dialect = "python",
    seed: Seed = 0,
    option: Option = None,
    report_file: Annotated[
        Path | None, typer.Option("--report", help="The whole report, as JSON.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Chains from logs of large models: every call executed again, every answer judged; resumable."""
    from itertools import chain as joined

    from rightcall import importing, terminal
    from rightcall.files import write_whole
    from rightcall.importing.proving import ClassicalTally
    from rightcall.task import SPLITS

    loaded, chosen = _load(task, option), _names(functions)
    reader = importing.load_importer(importer)
    splits = split or list(SPLITS)
    classical = ClassicalTally(loaded.function_set(chosen)) if prover else None
    given = _given(problems)
    used: dict[str, Problem] = {}
    with terminal.progress(f"import into {task}", None) as advance:

        def on_chain(problem: Problem, chain: Chain) -> None:
            used[problem.id] = problem
            if classical is not None:
                classical.add(problem, chain)
            advance(chain)

        made = importing.import_chains(
            importing.read_logs(reader, logs, model=model, skip_bad=skip_bad),
            loaded,
            joined(given, importing.every_problem(loaded, splits, count, seed)),
            out,
            source=source,
            functions=chosen,
            own_problems=own_problems,
            skip_bad=skip_bad,
            on_chain=on_chain,
            looked_in=f"among the first {count} of {', '.join(splits)}",
            dialect=dialect,
        )
    if problems_out is None and made.own_problems:
        problems_out = out.with_suffix(".problems.jsonl")
    if problems_out is not None and used:
        lines = (f"{problem.model_dump_json()}\n" for problem in used.values())
        write_whole(problems_out, "".join(lines))
    if classical is not None:
        made = made.model_copy(update={"classical": classical.figures()})
    text = made.model_dump_json(indent=2)
    if report_file is not None:
        write_whole(report_file, text + "\n")
    if as_json:
        print(text)
    else:
        for shown in [*made.tables(), *([classical.table()] if classical else [])]:
            terminal.out().print(terminal.table(*shown))
    if (error := made.nothing()) is not None:
        print(f"error: {terminal.printable(str(error))}", file=sys.stderr)
        raise typer.Exit(1)


Form = Annotated[str, typer.Option("--as", help="openai, trl or parquet.")]
ExportOut = Annotated[
    Path, typer.Option(help="A file; or a folder for a data set with its card (README.md).")
]
ExportTask = Annotated[
    str | None, typer.Option(help="The task of the chains, if it is not a built-in one.")
]


@export_app.command("chains")
def export_chains(
    chains: ChainsFiles,
    out: ExportOut,
    form: Form = "openai",
    keep: Annotated[
        str, typer.Option(help="all, correct, or right (for the right reason, as far as is known).")
    ] = "all",
    problems: Problems = None,
    task: ExportTask = None,
    option: Option = None,
) -> None:
    """Conversations with tool calls: to read, to share, or for fine-tuning (with --keep right)."""
    from collections import Counter
    from itertools import chain as joined

    from rightcall import exporting

    every = iter(_every(chains))
    first = next(every, None)
    if first is None:
        raise DataError("there are no chains", value=[str(path) for path in chains])
    skipped: Counter[str] = Counter()
    loaded = _load(task or first.task, option)
    asked = _given(problems) if problems else None
    rows = exporting.chain_rows(joined([first], every), loaded, keep, skipped, asked)
    if (row := next(rows, None)) is None:
        raise DataError(
            "no chain is left to export",
            value=dict(skipped),
            remedy="Keep more of them (--keep all); errored ones must be collected again.",
        )
    rows = joined([row], rows)
    made = f"Chains of {loaded.name}, {keep} of them, by one function call after the other."
    _show_export(exporting.write(rows, out, form=form, what="chains", made=made), skipped)


@export_app.command("pairs")
def export_pairs(
    file: PairsFile,
    out: ExportOut,
    form: Form = "trl",
    task: ExportTask = None,
    option: Option = None,
) -> None:
    """Preference pairs with tool calls, as TRL takes them."""
    from itertools import chain as joined

    from rightcall import exporting, pairs

    every = pairs.read_pairs(file)
    first = next(every, None)
    if first is None:
        raise DataError("there are no pairs", value=str(file))
    loaded = _load(task or first.task, option)
    rows = exporting.pair_rows(joined([first], every), loaded)
    made = f"Preference pairs from right and wrong chains of {loaded.name}."
    _show_export(exporting.write(rows, out, form=form, what="pairs", made=made), {})


@export_app.command("model")
def export_model_(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A folder, a hub id, MODEL+ADAPTER.")],
    out: Annotated[Path, typer.Argument(help="The folder to make.")],
    adapter_only: Annotated[
        bool, typer.Option("--adapter-only", help="The adapter beside its template, not merged.")
    ] = False,
    dtype: Annotated[str, typer.Option(help="Of the weights: auto, float32, bfloat16, ...")] = "auto",
    chat_template: Template = None,
) -> None:
    """A folder for `vllm serve` and `transformers serve`: weights, template, generation config."""
    from rightcall import serving, terminal
    from rightcall.models.spec import ModelSpec

    spec = ModelSpec.parse(model, chat_template=_text(chat_template))
    made = serving.export_model(spec, out, adapter_only=adapter_only, dtype=dtype)
    terminal.out().print(f"{made.folder}: {made.notation or 'no'} tool calling")
    for command in made.commands:
        terminal.out().print(f"  {command}", markup=False, soft_wrap=True)


@app.command()
def parity(
    chains: ChainsFiles,
    model: Model,
    other: Annotated[str, typer.Option("--with", help="The other: a folder, URL#name, ...")],
    turns: Annotated[int, typer.Option(min=1, help="Turns to ask at most.")] = 200,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens per reply at most.")] = 64,
    chat_template: Template = None,
) -> None:
    """The prompts of the same chains through two models, such as a folder and the server that runs it:
    do both read and say the same?"""
    from rightcall import serving, terminal
    from rightcall.models.spec import ModelSpec, open_model

    mine = ModelSpec.parse(model, chat_template=_text(chat_template))
    specs = mine, ModelSpec.parse(other)
    with open_model(specs[0]) as one, open_model(specs[1]) as two:
        readers = serving.prompt_reader(one, specs[0]), serving.prompt_reader(two, specs[1])
        made = serving.parity(
            one, two, _every(chains), turns=turns, max_tokens=max_tokens, readers=readers
        )
    terminal.out().print(made.table())
    for found in made.differences[:5]:
        terminal.out().print(str(found), markup=False)
    if not made.holds:
        raise typer.Exit(1)


def _show_export(made: Written, skipped: Mapping[str, int]) -> None:
    from rightcall import terminal

    rows: list[tuple[str, object]] = [("rows", made.rows)]
    rows += [(f"left out: {why}", number) for why, number in skipped.items()]
    rows += [("file", path) for path in made.files]
    terminal.out().print(terminal.table("Export", ["", "value"], rows))


# --- augment ------------------------------------------------------------------------------------


@app.command()
def augment(
    task: TaskName,
    chains: ChainsFiles,
    operation: Annotated[
        list[str] | None,
        typer.Option(help="NAME or NAME=RATIO (variants per problem, 1 if not said); again for more."),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="The file of augmented chains; what is in it already stays.")
    ] = Path("augmented.jsonl"),
    problems_out: Annotated[
        Path | None, typer.Option(help="The file of the problems that they are of; likewise.")
    ] = None,
    problems: Annotated[
        list[Path] | None,
        typer.Option(help="Files of the problems (JSONL); otherwise they are the task's own."),
    ] = None,
    test: Annotated[
        Path | None, typer.Option(help="Problems (JSONL) that nothing may be made of.")
    ] = None,
    split: Split = "train",
    count: Count = 100,
    functions: Functions = None,
    dialect: Dialect = "python",
    seed: Seed = 0,
    draw: Annotated[int, typer.Option(min=0, help="Other variants of the same problems.")] = 0,
    option: Option = None,
    as_json: AsJson = False,
) -> None:
    """Chains of changed problems, and wrong chains of the same: all executed again, none believed.

    Without --operation it lists what the task's chains can undergo.
    """
    from rightcall import augment as augmentation
    from rightcall import terminal
    from rightcall.settings import checked

    loaded = _load(task, option)
    if not operation:
        known = augmentation.operations_of(loaded)
        rows = [(name, _summary(made)) for name, made in known.items()]
        listed = terminal.table(f"operations for {task}", ["name", "what it does"], rows)
        listed.columns[1].justify = "left"
        terminal.out().print(listed)
        return
    ratios = dict(_ratio(text) for text in operation)
    config = checked(augmentation.AugmentConfig, {"operations": ratios, "seed": draw})
    _check_apart([out, problems_out], [*chains, *(problems or ()), test])
    report = augmentation.augment(
        loaded,
        loaded.function_set(_names(functions)),
        _given(problems) if problems else loaded.problems(split, count, seed),
        _every(chains),
        config,
        out,
        problems_out=problems_out,
        test=_given([test] if test else None),
        dialect=dialect,
    )
    if as_json:
        _print_json(report.model_dump(mode="json"))
    else:
        terminal.out().print(report)


# --- search and tree ----------------------------------------------------------------------------


@app.command()
def search(
    task: TaskName,
    chains: ChainsFiles,
    out: Annotated[
        Path, typer.Option(help="The file of rollouts; what is in it already is not redone.")
    ],
    model: Model = "tiny:student",
    source: Annotated[str, typer.Option(help="The role whose wrong chains are searched.")] = "student",
    split: Split = "train",
    count: Count = 100,
    rollouts: Annotated[int, typer.Option("--rollouts", "-k", min=1, help="From each prefix.")] = 4,
    per_problem: Annotated[
        int, typer.Option("--chains", min=1, help="Wrong chains of a problem at most.")
    ] = 2,
    any_model: Annotated[
        bool, typer.Option("--any-model", help="Also from chains that another model made.")
    ] = False,
    by: RightBy = "process",
    temperature: Temperature = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens per reply at most.")] = 256,
    steps: Steps = None,
    functions: Functions = None,
    dialect: Dialect = "python",
    seed: Seed = 0,
    option: Option = None,
    chat_template: Template = None,
) -> None:
    """Where was the first error of wrong chains? Rollouts from their prefixes; resumable.

    Model and settings are those of `collect`: give the same ones. The rollouts are chains; give
    their file to `pairs make` beside the others.
    """
    from rightcall import rollout, terminal
    from rightcall import search as searching
    from rightcall.models import Sampling
    from rightcall.models.spec import ModelSpec, open_model

    if not temperature:
        raise ConfigError("a search needs rollouts that differ", remedy="Set a --temperature above 0.")
    loaded = _load(task, option)
    sampling = Sampling(temperature=temperature, max_tokens=max_tokens)
    wanted = loaded.function_set(_names(functions))
    budget = rollout.Budget(steps=steps or max(loaded.budgets))
    setting = rollout.Setting(loaded, wanted, source, sampling, budget, seed, dialect)
    problems = list(loaded.problems(split, count, seed))
    config = searching.SearchConfig(rollouts=rollouts, chains=per_problem, any_model=any_model)
    spec = ModelSpec.parse(model, chat_template=_text(chat_template))
    with (
        open_model(spec, setting.playable(problems)) as opened,
        terminal.progress(f"search {task}", None) as on_chain,
    ):
        result = searching.search(
            setting,
            opened,
            problems,
            _every(chains),
            config,
            out,
            require_process=_by_process(by),
            on_chain=on_chain,
        )
    rows = list(result.figures().items())
    terminal.out().print(terminal.table(str(out), ["", "count"], rows))


@app.command()
def tree(
    chains: ChainsFiles,
    problem: Annotated[
        str | None, typer.Option("--problem", "-p", help="Its id; the one with most chains by default.")
    ] = None,
    by: RightBy = "process",
    svg: Annotated[Path | None, typer.Option(help="Write a picture instead.")] = None,
) -> None:
    """The chains of a problem merged by their steps: how many ended well from where."""
    from rightcall import terminal, tree_view
    from rightcall.errors import nearest
    from rightcall.files import write_whole
    from rightcall.tree import step_trees

    sizes: dict[str, int] = {}
    for chain in _every(chains):
        sizes[chain.problem_id] = sizes.get(chain.problem_id, 0) + 1
    wanted = problem or max(sizes, key=lambda name: sizes[name], default="")
    own = (chain for chain in _every(chains) if chain.problem_id == wanted)
    found = step_trees(own, require_process=_by_process(by))
    if not found:
        raise DataError("no chains of that problem", value=wanted, remedy=nearest(wanted, sizes))
    for made in found:
        if svg is None:
            console = terminal.out()
            terminal.show_prompt(console, made.prompt)
            console.print(tree_view.tree_text(made))
        else:
            write_whole(svg, tree_view.tree_svg(made, made.prompt[-1]["content"]))
            print(svg)


# --- pairs --------------------------------------------------------------------------------------


@pairs_app.command("make")
def pairs_make(
    chains: ChainsFiles,
    out: Annotated[Path, typer.Option(help="The pairs file.")],
    setting: Set = None,
    test: Unseen = None,
) -> None:
    """Preference pairs from right and wrong chains of the same problems."""
    from collections import Counter

    from rightcall import pairs, terminal
    from rightcall.settings import checked

    _check_apart([out], [*chains, test])
    config = checked(pairs.PairConfig, _table(setting))
    every = _every(chains)
    dropped: Counter[str] = Counter()
    unseen = _given([test] if test else None)
    if not pairs.write_pairs(pairs.make_pairs(every, config, dropped), out, test=unseen):
        out.unlink()
        raise DataError(
            "the chains made no pair",
            value=dict(dropped),
            remedy="Collect more samples per problem, or at a higher temperature.",
        )
    terminal.out().print(pairs.pair_statistics(pairs.read_pairs(out), dropped).table())


@pairs_app.command("compare")
def pairs_compare(
    chains: ChainsFiles,
    strategy: Annotated[
        list[str] | None, typer.Option(help="A strategy; may be repeated. All by default.")
    ] = None,
    setting: Set = None,
    as_json: AsJson = False,
) -> None:
    """The sets that the strategies make of the same chains, side by side; nothing is written."""
    from rightcall import pairs, terminal
    from rightcall.settings import checked

    config = checked(pairs.PairConfig, _table(setting))
    found = pairs.compare_strategies(_every(chains), config, strategy or ())
    if as_json:
        _print_json({name: made.model_dump(mode="json") for name, made in found.items()})
    else:
        terminal.out().print(pairs.comparison_table(found))


@pairs_app.command("stats")
def pairs_stats(file: PairsFile, as_json: AsJson = False) -> None:
    """Lengths, length bias, classes of error: to be read before training."""
    from rightcall import pairs, terminal

    statistics = pairs.pair_statistics(pairs.read_pairs(file))
    if as_json:
        print(statistics.model_dump_json(indent=2))
    else:
        terminal.out().print(statistics.table())


@pairs_app.command("show")
def pairs_show(
    file: PairsFile,
    index: Annotated[int, typer.Argument(min=0, help="Which pair, from 0.")] = 0,
    model: Model = "tiny:student",
    chat_template: Template = None,
) -> None:
    """One pair in a model's tokens, coloured by whether they are trained.

    Off a terminal the trained tokens stand between ⟦ and ⟧ instead.
    """
    from itertools import islice

    from rightcall import terminal
    from rightcall.models.spec import ModelSpec
    from rightcall.models.weights import load_tokenizer
    from rightcall.rendering import Renderer
    from rightcall.train.data import read_records, render_side
    from rightcall.train.view import token_texts, tokens_text

    name, record = next(islice(read_records(file), index, None), (None, None))
    if name is None or record is None:
        raise DataError(f"{file} has fewer pairs", value=index)
    spec = ModelSpec.parse(model, chat_template=_text(chat_template))
    tokenizer = load_tokenizer(spec.weights, spec.template)
    console = terminal.out()
    for label, side in zip(("chosen", "rejected"), record.sides("dpo"), strict=True):
        rendered = render_side(Renderer(tokenizer), side, mask_observations=True, name=name)
        console.print(
            f"\n[bold]{label}[/bold]: {sum(rendered.trained)} of {len(rendered.ids)} tokens trained"
        )
        if console.is_terminal:
            console.print(tokens_text(rendered, tokenizer))
        else:
            print(terminal.bracketed(token_texts(rendered, tokenizer)))


# --- train --------------------------------------------------------------------------------------


@app.command()
def train(
    file: PairsFile,
    out: Annotated[Path, typer.Option(help="The folder of the tuned model or adapter.")],
    model: Model = "tiny:student",
    method: Annotated[str, typer.Option(help="dpo, or sft on the chosen side.")] = "dpo",
    setting: Set = None,
    test: Unseen = None,
    fresh: Annotated[bool, typer.Option(help="Begin anew instead of going on.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what it would take: rows, steps, memory.")
    ] = False,
    chat_template: Template = None,
) -> None:
    """Tune a model on pairs; killed and called again, it goes on from its last checkpoint. Several
    processes, by accelerate launch: see docs/your-student.md."""
    from rightcall import terminal
    from rightcall.models.spec import ModelSpec
    from rightcall.settings import checked
    from rightcall.train import trainer

    config = checked(trainer.TrainConfig, {"method": method, **_table(setting)})
    spec = ModelSpec.parse(model, chat_template=_text(chat_template))
    unseen = _given([test] if test else None)
    if dry_run:
        made = trainer.dry_run(
            config, spec.weights, file, adapter=spec.adapter, chat_template=spec.chat_template,
            test=unseen,
        )  # fmt: skip
        rows = list(_rows_taken(made).items())
        terminal.out().print(terminal.table("Nothing was loaded", ["", "value"], rows))
        terminal.out().print(terminal.memory_table(made.memory))
        return
    with terminal.training(method) as on_log:
        result = trainer.train(
            config, spec.weights, file, out, adapter=spec.adapter, chat_template=spec.chat_template,
            test=unseen, resume=not fresh, on_log=on_log, on_estimate=terminal.say_memory,
        )  # fmt: skip
    if os.environ.get("RANK", "0") != "0":  # of several processes the first one speaks
        return
    figures = _rows_taken(result)
    figures |= {name: f"{value:.4g}" for name, value in result.metrics.items()}
    terminal.out().print(terminal.table(str(result.output), ["", "value"], list(figures.items())))


def _rows_taken(made: TrainPlan | TrainResult) -> dict[str, object]:
    """What a training takes of its file and what it leaves out, why, and where that begins."""
    from rightcall.train.data import by_reason, first_of

    left = {"too long": list(made.too_long), **by_reason(made.unfit)}
    figures: dict[str, object] = {"rows": made.rows, "steps": made.steps}
    return figures | {
        f"left out, {why}": f"{len(names)} ({first_of(names)})" if names else 0
        for why, names in left.items()
    }


# --- evaluate, compare, report --------------------------------------------------------------------


@app.command()
def evaluate(
    task: TaskName,
    out: Annotated[Path, typer.Option(help="The file of greedy chains; resumable.")],
    model: Model = "tiny:student",
    source: Annotated[str, typer.Option(help="The model's role: base, tuned, ...")] = "model",
    split: Split = "test",
    count: Count = 300,
    setting: Set = None,
    functions: Functions = None,
    dialect: Dialect = "python",
    seed: Seed = 0,
    option: Option = None,
    setting_of_model: With = None,
    on_cluster: OnCluster = None,
    as_json: AsJson = False,
) -> None:
    """Accuracy on held-out problems at every step budget, and how the functions were used."""
    from rightcall import cluster, compare, rollout, terminal
    from rightcall import evaluate as evaluation
    from rightcall.chain import ChainStore
    from rightcall.models.spec import ModelSpec
    from rightcall.settings import checked

    config = checked(evaluation.EvaluateConfig, _table(setting))
    spec = ModelSpec.parse(model, **_table(setting_of_model))
    loaded = _load(task, option)
    problems = list(loaded.problems(split, count, seed))
    wanted = loaded.function_set(_names(functions))
    held = rollout.Setting(loaded, wanted, source, seed=seed, dialect=dialect)
    place = cluster.TaskSpec(task, _table(option), _names(functions))
    workers = _workers(on_cluster)
    with (
        cluster.collector(workers, spec, place, held, problems) as by,
        terminal.progress(
            source, len(problems) * (1 + config.samples) + min(config.counterfactual, len(problems))
        ) as on_chain,
    ):
        try:
            result = evaluation.evaluate(held, by, problems, out, config, on_chain)
        finally:
            for file in (out, evaluation.samples_path(out), evaluation.counterfactual_path(out)):
                terminal.say_errors(ChainStore(file))
    if as_json:
        print(result.model_dump_json(indent=2))
    else:
        terminal.out().print(compare.evaluation_table([result]))
        terminal.out().print(terminal.usage_table("How the functions were used", [result]))


@app.command("compare")
def compare_(
    a: Annotated[Path, typer.Argument(help="Greedy chains of the first model, such as the base.")],
    b: Annotated[Path, typer.Argument(help="Of the second, on the same problems.")],
    budget: Budgets = None,
    drop_errored: Annotated[bool, typer.Option(help="Leave errored problems out.")] = False,
    as_json: AsJson = False,
) -> None:
    """Is the second better than the first? Paired by problem: interval, McNemar, Wilcoxon."""
    from rightcall import compare, terminal

    result = compare.compare(
        _existing(a), _existing(b), budgets=budget or (), drop_errored=drop_errored
    )
    if as_json:
        print(result.model_dump_json(indent=2))
        return
    console = terminal.out()
    console.print(compare.comparison_table([result]))
    needed = ", ".join(f"{n} for {float(gain):.0%}" for gain, n in result.needed.items())
    console.print(f"Problems needed to see a gain with 80% power: {needed}.")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run folder, finished or not.")],
    out: Annotated[Path | None, typer.Option(help="The page; FOLDER/report.html by default.")] = None,
    title: Annotated[str | None, typer.Option(help="Of the page; the run file's by default.")] = None,
    examples: Annotated[
        int | None,
        typer.Option(min=0, help="Chains shown side by side per task; the run file's by default."),
    ] = None,
) -> None:
    """One self-contained HTML page of a run."""
    import tomllib

    from rightcall.config import Report
    from rightcall.report import load_run, write_report
    from rightcall.settings import checked

    data = load_run(_existing(folder))
    try:
        table = tomllib.loads(data.config).get("report", {})
    except tomllib.TOMLDecodeError:  # a page is made of whatever can be read
        table = {}
    given = {"title": title, "examples": examples}
    table = {**table, **{key: value for key, value in given.items() if value is not None}}
    settings = checked(Report, table, at="report")
    page = out or folder / "report.html"
    print(write_report(data, page, title=settings.title, examples=settings.examples))


# --- run ----------------------------------------------------------------------------------------


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="A run file (TOML).")],
    setting: Set = None,
    root: Annotated[Path, typer.Option(help="Where run folders lie.")] = Path("runs"),
    fresh: Annotated[bool, typer.Option(help="Move the old run aside and begin anew.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only print the resolved config.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Every stage from one run file; called again, it goes on where it stopped."""
    from rightcall.config import dump_config, load_config

    loaded = load_config(config, setting or ())
    if check:
        from rightcall.task import load_task

        for place in loaded.tasks.values():
            load_task(place.task, **place.options).function_set(place.functions)
            for model in (place.models.teacher, place.models.student):
                if model.chat_template is not None:
                    from rightcall.models.weights import read_template

                    read_template(model.chat_template)
        print(dump_config(loaded), end="")
        return
    from rightcall import compare, terminal

    if dry_run:
        from rightcall.estimate import estimate_run, memory_notes

        _say_estimates(estimate_run(loaded, root))
        for note in memory_notes(loaded):
            terminal.out().print(note, markup=False)
        return
    from rightcall.run import run_all

    result = run_all(loaded, root, fresh=fresh)
    console = terminal.out()
    evaluations = [e for task in result.data.tasks for e in task.evaluations.values()]
    console.print(compare.evaluation_table(evaluations))
    for task in result.data.tasks:
        title = f"How the functions were used: {task.name}"
        console.print(terminal.usage_table(title, list(task.evaluations.values())))
    console.print(compare.comparison_table([c for task in result.data.tasks for c in task.comparisons]))
    console.print(terminal.seconds_table(result.seconds))
    console.print(f"Report: {result.report}", markup=False)


# --- helpers of commands ------------------------------------------------------------------------


def _load(spec: str, options: list[str] | None) -> Task:
    from rightcall.task import load_task

    return load_task(spec, **_table(options))


def _table(overrides: list[str] | None) -> dict[str, Any]:
    from rightcall.settings import set_key

    table: dict[str, Any] = {}
    for override in overrides or ():
        set_key(table, override)
    return table


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _workers(settings: list[str] | None) -> ClusterConfig:
    from rightcall.cluster import ClusterConfig
    from rightcall.settings import checked

    return checked(ClusterConfig, _table(settings), at="cluster")


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _existing(path: Path) -> Path:
    if not path.exists():
        raise DataError("no such file or folder", value=str(path))
    return path


def _every(paths: list[Path]) -> ChainFiles:
    """The chains of files, each attempt once; the files must be there before any is read."""
    from rightcall.chain import ChainFiles

    for path in paths:
        if _existing(path).is_dir():
            remedy = "Give the files of chains in it."
            raise DataError("chains are read from files", value=str(path), remedy=remedy)
    return ChainFiles(paths)


def _given(files: list[Path] | None) -> list[Problem]:
    """The problems of files, which must be there."""
    from rightcall.chain import Problem
    from rightcall.files import read_lines

    return [one for path in files or () for one in read_lines(_existing(path), Problem)]


def _check_apart(written: Sequence[Path | None], read: Sequence[Path | None]) -> None:
    """No file is to be written over one that is read, or over another one."""
    taken = {path.resolve() for path in read if path is not None}
    for path in written:
        if path is not None and path.resolve() in taken:
            raise DataError(
                "this file would be written over one that is read, or twice",
                value=str(path),
                remedy="Give each of the files to write a name of its own.",
            )
        if path is not None:
            taken.add(path.resolve())


def _summary(made: Callable[..., Any]) -> str:
    """The first paragraph of a docstring as one line."""
    return " ".join((inspect.getdoc(made) or "").partition("\n\n")[0].split())


def _ratio(text: str) -> tuple[str, float]:
    """Of NAME=RATIO; a name such as `file.py:function` may hold no `=`."""
    name, _, ratio = text.partition("=")
    try:
        return name, float(ratio or 1)
    except ValueError:
        raise ConfigError(
            "not a ratio", value=text, remedy=f"Give a number of variants per problem: {name}=0.5."
        ) from None


def _enough(text: str | None) -> Enough | None:
    """Of RIGHT,WRONG."""
    from rightcall.rollout import Enough

    if text is None:
        return None
    right, _, wrong = text.partition(",")
    if not (right.strip().isdecimal() and wrong.strip().isdecimal()):
        raise ConfigError(
            "not two numbers of chains", value=text, remedy="Give right and wrong ones: --enough 2,2."
        )
    return Enough(right=int(right), wrong=int(wrong))


def _say_estimates(estimates: list[Estimate]) -> None:
    from rightcall import terminal
    from rightcall.estimate import estimate_table, notes

    terminal.out().print(estimate_table(estimates))
    for note in notes(estimates):
        terminal.out().print(note, markup=False)


def _by_process(by: str) -> bool:
    if by not in ("process", "answer"):
        raise ConfigError("chains end well by process or by answer", value=by)
    return by == "process"


def _names(functions: str | None) -> str | list[str] | None:
    if functions is None or "," not in functions:
        return functions
    return [name.strip() for name in functions.split(",")]


def _asked(file: Path) -> Iterator[Problem | PreferencePair]:
    """What a file asks: pairs where its lines have a chosen side, otherwise problems."""
    from rightcall.chain import Problem
    from rightcall.files import read_lines
    from rightcall.pairs import PreferencePair

    with file.open("rb") as lines:
        pairs = b'"chosen"' in next(lines, b"")
    yield from read_lines(file, PreferencePair) if pairs else read_lines(file, Problem)


def _problem(task: Task, wanted: str, split: str, seed: int) -> Problem:
    """A problem by number, or by id among the first thousand."""
    from difflib import get_close_matches

    if wanted.isdigit():
        found = list(task.problems(split, int(wanted) + 1, seed))
        if len(found) <= int(wanted):
            raise DataError(f"the {split} split of {task.name} has {len(found)} problems", value=wanted)
        return found[int(wanted)]
    seen = []
    for problem in task.problems(split, 1000, seed):
        if problem.id == wanted:
            return problem
        seen.append(problem.id)
    close = ", ".join(get_close_matches(wanted, seen, n=3, cutoff=0.0))
    raise DataError(
        f"no such problem in {task.name}, {split}", value=wanted, remedy=f"The nearest are {close}."
    )


def _print_json(value: object) -> None:
    import json

    print(json.dumps(value, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
