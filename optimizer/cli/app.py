"""Which commands are there, and what does each take?"""

from pathlib import Path
from typing import Annotated

import typer

from optimizer import __version__
from optimizer.cli.completion import complete_word

app = typer.Typer(
    name="optimizer",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Finds the compiler flags, quantisation, pruning and batch and context sizes that make compiled model "
    "inference fastest, and proves it.",
    epilog="Exit codes: 0 done, 1 failed on the way, 2 a wrong request, 130 interrupted.",
)

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Settings, in Hydra's grammar.",
        autocompletion=complete_word,
        show_default=False,
    ),
]
Places = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Where things lie: studies_dir=…, tracking.uri=….", show_default=False),
]
ConfigDir = Annotated[
    list[Path] | None,
    typer.Option(
        "--config-dir", help="A folder with configuration files of your own; may be repeated.", show_default=False
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout; progress goes to stderr.")]
Rounds = Annotated[
    int | None,
    typer.Option("--rounds", min=6, help="Interleaved rounds; unset: as it was proved.", show_default=False),
]
Seconds = Annotated[
    float | None,
    typer.Option("--seconds", min=0, help="For the rounds; unset: as it was proved.", show_default=False),
]
StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="A study's name, its folder or its journal.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def search(
    words: Words = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the space, the budget and the first configurations; run nothing.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the study that study=NAME names.")] = False,
    json: AsJson = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the composed configuration as YAML and exit.")
    ] = False,
    per_device: Annotated[
        bool,
        typer.Option("--per-device", help="A study of its own, NAME-DEVICE, for each kind of device that there is."),
    ] = False,
    config_dir: ConfigDir = None,
) -> None:
    """Search a space by really compiling and running, and prove the winner.

    \b
    Settings (search --print-config shows all, targets and spaces list what there is):
      target=gemm_cpu                what is compiled and run; unset: what this machine can do
      space=[gxx,gemm]               files of knobs, put together
      space.TILE_M='choice(8, 16)'   another domain for one knob; space.opt_level=3 pins it
      strategy=genetic               auto random grid tpe gp cmaes nsga2 genetic genetic_nsga2
      objective=latency              latency throughput latency_and_memory decoder
      measure=quick                  quick default thorough
      budget.trials=100              and budget.seconds=600: whichever is reached first
      seed=1 study=NAME studies_dir=DIR device=cpu
      tracking=none                  or tracking.uri=http://…: another store than STUDIES_DIR/mlflow.db
    """
    from optimizer.cli.search import command

    command(
        words or [],
        config_dir or [],
        dry_run=dry_run,
        resume=resume,
        as_json=json,
        print_config=print_config,
        each_device=per_device,
    )


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the files go.")] = Path(),
    kind: Annotated[
        str | None, typer.Option("--kind", help="command, kernel or torch; unset: asked for.", show_default=False)
    ] = None,
    name: Annotated[str, typer.Option("--name", help="What the target is called.")] = "mine",
    build: Annotated[
        str | None,
        typer.Option(
            "--build",
            help="The command that builds it (&& between several), a kernel's source, or FILE.py:FUNCTION; unset: a "
            "sample is written.",
            show_default=False,
        ),
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", help="The command that runs it, of --kind command.", show_default=False)
    ] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", help="What is to be best; unset: latency_s.", show_default=False)
    ] = None,
    measure: Annotated[
        str, typer.Option("--measure", help="Where the metric is: wall, json:PATH or regex:PATTERN.")
    ] = "wall",
    unit: Annotated[str, typer.Option("--unit", help="Of what is read: ms, MB, …", show_default=False)] = "",
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
) -> None:
    """Write a target, a space and an objective to begin with, for a program or model of your own.

    \b
    Three questions are asked, or none where --kind is given. What is written works at once:
      python -m optimizer init tuning --kind command --build 'make -j4' --run ./program
      python -m optimizer search --config-dir tuning target=mine
    """
    from optimizer.cli.init import command

    command(
        folder,
        kind=kind, name=name, build=build, run=run, metric=metric, measure=measure, unit=unit, force=force,
    )  # fmt: skip


@app.command()
def report(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="STUDY…",
            help="Names, folders or journals of studies, folders of studies, benchmark files, MLflow experiments "
            "(mlflow:NAME); and settings: studies_dir=…, tracking.uri=…, metric=… direction=….",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="The folder for report.md, report.json and report.html; unset: the study's own, of several "
            "reports/NAME.",
            show_default=False,
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", help="Another file for the page with the pictures.", show_default=False),
    ] = None,
    json: AsJson = False,
) -> None:
    """Report on a study, or on several together: what was found, how sure it is, and what spoils the data.

    \b
    Printed as Markdown, and written beside it as JSON and as one page (HTML) with pictures that needs no network.
    """
    from optimizer.cli.report import command

    command(words, out, html, as_json=json)


@app.command()
def compare(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="A B…",
            help="Studies, folders of studies, exports or benchmark files: each against the first; and settings: "
            "metric=…, studies_dir=….",
        ),
    ],
    json: AsJson = False,
) -> None:
    """Compare studies, exports or ingested files: the same metric of the same work, as ratios with intervals.

    \b
    What can't be compared is refused with the reason (exit code 2): other work, another metric.
    """
    from optimizer.cli.compare import command

    command(words, as_json=json)


@app.command()
def ingest(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH…",
            help="Files and folders; and settings: studies_dir=…, tracking=none, tracking.uri=…, device=NAME (where a "
            "file has none).",
        ),
    ],
    json: AsJson = False,
) -> None:
    """Read benchmark files that exist (of this or other tools) into journals and MLflow, as studies.

    \b
    A file is a study; the same file twice changes nothing; unknown files are listed. What can be read: the files of
    Chimera's benchmarks (JSON, CSV, Markdown), Kernel Tuner caches, T4, llama-bench, optimum-benchmark,
    Google Benchmark, pytest-benchmark, hyperfine.
    """
    from optimizer.cli.ingest import command

    command(words, as_json=json)


@app.command()
def export(
    study: StudyName,
    words: Places = None,
    to: Annotated[
        list[str] | None,
        typer.Option("--to", help="A kind of file; may be repeated; unset: all that fit.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The folder to write; unset: exports/STUDY.", show_default=False)
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Export the best trial though it was not proved better.")
    ] = False,
    tolerance_pct: Annotated[
        float, typer.Option("--tolerance-pct", min=0, max=100, help="What `verify` lets the proved ratio lose.")
    ] = 5.0,
    register: Annotated[
        bool, typer.Option("--register", help="Make the model the champion of MLflow's model registry.")
    ] = False,
) -> None:
    """Write the winner as files to ship, with a provenance.json that `verify` reads.

    \b
    Kinds (--to):
      flags         flags.rsp, for g++ @flags.rsp and nvcc --options-file
      header        config.h: the kernel's macros
      cmake         winner.cmake to include, and CMakePresets.json
      program       what was built
      model         a torch model with the load.py that loads it
      env           winner.env: variables to run with
      modelfile     a Modelfile for Ollama
      llama-server  arguments of llama.cpp's server
      vllm          a configuration of vllm serve
      hydra         an experiment file of this program
      json          all of it as one object
    """
    from optimizer.cli.export import command

    command(study, words or [], to or [], out, force=force, tolerance_pct=tolerance_pct, register=register)


@app.command()
def verify(
    export: Annotated[Path, typer.Argument(metavar="EXPORT", help="The folder of an export.")],
    rounds: Rounds = None,
    seconds: Seconds = None,
    json: AsJson = False,
) -> None:
    """Check answers and speed of an export on this machine against what was promised.

    \b
    Baseline and winner are built from the export alone, verified, and measured interleaved. Exit codes: 0 kept,
    1 broken (wrong answers, an edited file, or a ratio whose interval lies below the promised one less the
    tolerance), 2 it can't be measured here.
    """
    from optimizer.cli.verify import command

    command(export, rounds, seconds, as_json=json)


@app.command()
def convert(
    weights: Annotated[
        str,
        typer.Argument(
            metavar="WEIGHTS",
            help="gemma3_270m, package:NAME, a .gguf file, or a folder with config.json.",
        ),
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="target.cache=FOLDER, where it is kept.", show_default=False),
    ] = None,
    json: AsJson = False,
) -> None:
    """Convert a Gemma3 model for target=decoder_cpu target.model=WEIGHTS; a search does it by itself.

    \b
    It is done once, and kept in the cache by the content of the weights.
    """
    from optimizer.cli.convert import command

    command(weights, words or [], as_json=json)


@app.command()
def monitor(
    export: Annotated[str, typer.Argument(metavar="EXPORT|STUDY", help="An export's folder, or a study.")],
    words: Places = None,
    every: Annotated[
        str | None, typer.Option("--every", help="Check on a schedule: 30m, 6h, 1d.", show_default=False)
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Check once and end: for cron and CI; the default.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Where the history is kept; unset: monitoring/STUDY.", show_default=False),
    ] = None,
    rounds: Rounds = None,
    seconds: Seconds = None,
    research: Annotated[
        bool,
        typer.Option("--research", help="Search anew, from the champion, when the environment has changed."),
    ] = False,
    config_dir: ConfigDir = None,
    json: AsJson = False,
) -> None:
    """Measure a champion against its baseline again and again, and say when it stops being better.

    \b
    The history is kept in OUT/history.jsonl, drawn in OUT/history.png, and sent to MLflow. A regression is a broken
    promise, or a change of the ratio's level that a change-point test finds. Exit codes: 0 no regression,
    1 a regression (with --every too: it ends there), 2 it can't be measured here, 130 interrupted.
    """
    from optimizer.cli.monitor import Asked, command

    asked = Asked(every, out, rounds, seconds, research=research, once=once, folders=tuple(config_dir or ()))
    command(export, words or [], asked, as_json=json)


@app.command()
def track(
    journal: Annotated[str, typer.Argument(metavar="JOURNAL", help="A journal, a study's folder or its name.")],
    words: Places = None,
) -> None:
    """Send to MLflow what it does not have of a study yet; sending again changes nothing."""
    from optimizer.cli.studies import track_command

    track_command(journal, words or [])


@app.command()
def ui(
    words: Places = None,
    port: Annotated[int, typer.Option("--port", help="The port to listen on.")] = 5000,
    host: Annotated[
        str, typer.Option("--host", help="The address to listen on; the default is this machine alone.")
    ] = ("127.0.0.1"),
) -> None:
    """Start the MLflow UI on the store that searches write to."""
    from optimizer.cli.studies import ui_command

    ui_command(words or [], host, port)


@app.command()
def race(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE…", help="Recordings: cache files of Kernel Tuner, T4 results, journals; also gzip."
        ),
    ],
    strategies: Annotated[
        str,
        typer.Option(
            "--strategies",
            help="Names, with commas between them. NAME@4 asks for four points at a time; FILE.py:NAME is a racer of "
            "your own.",
        ),
    ] = "auto,tpe,genetic,random",
    budget: Annotated[int, typer.Option("--budget", min=1, help="Evaluations of a run.")] = 200,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Runs of each strategy on each space.")] = 20,
    out: Annotated[
        Path, typer.Option("--out", help="Where the runs are kept, to go on from, and the results are written.")
    ] = Path("race"),
    json: AsJson = False,
) -> None:
    """Race strategies on recorded spaces: how near to the optimum, after how many evaluations?"""
    from optimizer.cli.race import command

    names = [name.strip() for name in strategies.split(",") if name.strip()]
    command(files, names, budget, repeats, out, as_json=json)


@app.command()
def cache(
    act: Annotated[str, typer.Argument(metavar="[show|prune|clear]", help="What is to be done.")] = "show",
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="build_cache.folder=…, build_cache.max_bytes=…", show_default=False),
    ] = None,
    json: AsJson = False,
) -> None:
    """Show the build cache, prune it to its limit, or clear it."""
    from optimizer.cli.cache import command

    command(act, words or [], as_json=json)


@app.command()
def profile_build(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="As target=TARGET of a search.", show_default=False)],
    words: Words = None,
    json: AsJson = False,
    config_dir: ConfigDir = None,
) -> None:
    """Show where the compile time of a target goes, and what to do about it."""
    from optimizer.cli.profile_build import command

    command(target, words or [], config_dir or [], as_json=json)


@app.command()
def doctor(
    words: Words = None,
    noise: Annotated[
        bool, typer.Option("--noise", help="Measure a program (target=…) against itself: how small a gain can be told.")
    ] = False,
    json: AsJson = False,
    config_dir: ConfigDir = None,
) -> None:
    """Show what this machine has, what is missing and how to get it; or, with --noise, how unsteady it is."""
    if noise:
        from optimizer.cli.noise import command as measure

        measure(words or [], config_dir or [], as_json=json)
        return
    if words:
        raise typer.BadParameter("only --noise takes settings")
    from optimizer.cli.doctor import command

    command(as_json=json)


@app.command()
def targets(config_dir: ConfigDir = None, json: AsJson = False) -> None:
    """List what can be searched, a line each."""
    from optimizer.cli.listing import targets_command

    targets_command(config_dir or [], as_json=json)


@app.command()
def spaces(config_dir: ConfigDir = None, json: AsJson = False) -> None:
    """List the files of knobs that can be combined with space=[…], a line each."""
    from optimizer.cli.listing import spaces_command

    spaces_command(config_dir or [], as_json=json)
