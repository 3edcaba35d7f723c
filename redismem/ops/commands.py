"""The commands of ``redismem``. Each asks `redismem.ops.api` or plays a `Replay`, and leaves showing to the screen.

Exit status: 0; 1 when something is wrong with what was looked at (lost values, a failing check, no such session); 2
when the command could not be carried out.
"""

import sys
from collections import Counter
from dataclasses import asdict
from importlib.resources import as_file, files
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from redismem import __version__
from redismem.errors import DecodeError
from redismem.keys import Keys
from redismem.memory import Memory
from redismem.ops import api, screen
from redismem.ops.doctor import Status
from redismem.ops.replay.job import Plan, Replay
from redismem.ops.replay.recording import Recording, read
from redismem.ops.replay.site import Site
from redismem.stores.record import Migrated
from redismem.stores.sessions import SessionInfo

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
server = typer.Typer(no_args_is_help=True, help="Embedded servers.")
app.add_typer(server, name="server")

Url = Annotated[str | None, typer.Option("--url", help="The server; default: REDISMEM_URL, else embedded://.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"redismem {__version__}")
        raise typer.Exit


@app.callback()
def redismem(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Shared memory for fleets of AI-agent workers, on the Redis or Valkey a team already runs."""


@app.command()
def replay(
    recordings: Annotated[list[Path], typer.Argument(metavar="FILE...", help="tau-bench JSON, or JSON lines.")],
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 4,
    agents: Annotated[int, typer.Option(min=1, help="Runs that each worker replays at a time.")] = 8,
    kill: Annotated[int, typer.Option(min=0, help="Workers to kill with SIGKILL on the way.")] = 0,
    seed: Annotated[int, typer.Option(help="Chooses which workers are killed.")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the keys, to look at them.")] = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """Replay recorded agent runs through worker processes that share one memory, then check every value.

    A recording is a line {"session_id": ..., "user_id": ..., "task_id": ..., "reward": ..., "messages": [...]}, or a
    run of a tau-bench file. Runs become sessions and episodes, messages history, tools skills, and what tools answer
    entities and facts.
    """
    runs, err = read(recordings), screen.console(sys.stderr)
    plan = Plan(workers, agents, kill, seed)
    with Site(url) as site, Replay(site, runs, plan, keep=keep) as played:
        with screen.ProgressBar(err) as bar:
            played.play(bar)
        verdict = played.check()
    if keep and site.name != "embedded://":
        err.print(f"the keys stay on {site.name}; to look at them, set REDISMEM_PREFIX={played.prefix}")
    outcome = played.outcome(verdict)
    screen.print_discrepancies(err, verdict.findings)
    if json:
        screen.print_json(asdict(outcome))
    else:
        screen.print_outcome(screen.console(sys.stdout), outcome)
    raise typer.Exit(0 if outcome.ok else 1)


@app.command()
def demo() -> None:
    """Worker processes share one memory through a server of their own, one of them is killed, and nothing is lost."""
    out = screen.console(sys.stdout)
    with as_file(files("redismem.ops.replay") / "sample.jsonl") as sample:
        runs = read([sample])
    plan = Plan(workers=3, agents=4, kill=1, think=0.05)
    people = len({run.user_id for run in runs})
    out.print(
        f"{len(runs)} recorded conversations of {people} people, played again by {plan.workers} worker processes\n"
        "that share one memory. Each message is saved, counted and flagged, is a turn of a\n"
        "history, and teaches facts, entities and the use of skills; what one person's\n"
        "conversations share is updated by all of them. Half-way through, one worker is\n"
        "killed; the others and its successor go on with what it was doing.\n"
    )
    with Site("embedded://") as site, Replay(site, runs, plan, prefix="redismem") as played:
        with screen.ProgressBar(out) as bar:
            played.play(bar)
        verdict = played.check()
        outcome = played.outcome(verdict)
        out.print()
        screen.print_outcome(out, outcome)
        screen.print_discrepancies(out, verdict.findings)
        out.print()
        _show_keys(out, site, played, runs[0])
    out.print(
        "\nNext: `redismem replay FILE` for runs of your own, `redismem doctor`, or in Python:\n"
        "  from redismem import Memory\n"
        '  Memory("redis://localhost:6379").sessions.save("chat-1", "flags", "open", True)'
    )
    raise typer.Exit(0 if outcome.ok else 1)


@app.command()
def sessions(
    limit: Annotated[int, typer.Option(min=1, help="Show so many at most.")] = 100, url: Url = None, json: Json = False
) -> None:
    """List the sessions: whose they are, how old, how long they live, and what namespaces they hold."""
    with Memory(url) as memory:
        found = list(islice(api.sessions(memory), limit + 1))
    infos = [info for info in found[:limit] if isinstance(info, SessionInfo)]
    for error in found[:limit]:
        if isinstance(error, DecodeError):
            typer.echo(screen.safe(str(error)), err=True)
    if json:
        screen.print_json([asdict(info) for info in infos])
        return
    screen.print_sessions(screen.console(sys.stdout), infos)
    if not found:
        typer.echo("no sessions here; --url, REDISMEM_URL and REDISMEM_PREFIX choose where to look", err=True)
    elif len(found) > limit:
        typer.echo(f"there are more than {limit}: raise --limit", err=True)


@app.command()
def show(
    session: Annotated[str, typer.Argument(help="The id of the session.")], url: Url = None, json: Json = False
) -> None:
    """Show all that a session holds, decoded, each key with its TTL."""
    with Memory(url) as memory:
        content = api.show(memory, session)
    if content is None:
        typer.echo(f"there is no session {session!r}", err=True)
        raise typer.Exit(1)
    if json:
        screen.print_json(screen.session_document(content))
    else:
        screen.print_session(screen.console(sys.stdout), content)


@app.command()
def doctor(url: Url = None, json: Json = False) -> None:
    """Look at the server: its version, its features, and whether it is set up to keep what agents remember."""
    with Memory(url) as memory:
        findings = api.doctor(memory)
    if json:
        screen.print_json([asdict(finding) for finding in findings])
    else:
        screen.print_findings(screen.console(sys.stdout), findings)
    raise typer.Exit(1 if any(finding.status is Status.FAIL for finding in findings) else 0)


@app.command()
def locks(
    limit: Annotated[int, typer.Option(min=1, help="Show so many at most.")] = 100, url: Url = None, json: Json = False
) -> None:
    """List the locks that are held: by whom, for how long their leases still last, and how many wait for them."""
    with Memory(url) as memory:
        held = list(islice(api.locks(memory), limit + 1))
    if json:
        screen.print_json([asdict(one) for one in held[:limit]])
        return
    screen.print_locks(screen.console(sys.stdout), held[:limit])
    if not held:
        typer.echo("no lock is held here; --url, REDISMEM_URL and REDISMEM_PREFIX choose where to look", err=True)
    elif len(held) > limit:
        typer.echo(f"there are more than {limit}: raise --limit", err=True)


@app.command()
def migrate(
    model: Annotated[str, typer.Argument(metavar="MODULE:MODEL", help="The model, which has migrations.")],
    name: Annotated[
        str | None, typer.Option(help="Which records, as in memory.records(NAME, MODEL); without it, contexts.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only look what there is to migrate.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Records at a time.")] = 100,
    url: Url = None,
    json: Json = False,
) -> None:
    """Bring all records of a name, or all contexts, to the model's version. Workers of both versions may run.

    It may be broken off and begun again. Records that cannot be read or migrated are named, and stay as they are.
    """
    found, err = api.model(model), screen.console(sys.stderr)
    counts: Counter[str] = Counter(dict.fromkeys((*Migrated, "unreadable"), 0))
    with Memory(url) as memory, screen.ProgressBar(err, "records") as bar:
        total = api.migratable(memory, found, name) if err.is_terminal else None
        for one in api.migrate(memory, found, name, dry_run=dry_run, batch_size=batch_size):
            if isinstance(one, DecodeError):
                bar.happened(screen.safe(str(one)))
            counts["unreadable" if isinstance(one, DecodeError) else one] += 1
            bar.advanced(counts.total(), total and max(total, counts.total()))
    if json:
        screen.print_json(counts)
    else:
        screen.print_counts(screen.console(sys.stdout), counts)
    if not api.is_migrated(found):
        typer.echo(f"{model} has no migrations: they must be in the module that is named, or imported there", err=True)
    if counts[Migrated.OUTDATED] and not dry_run:
        typer.echo("some were being written to all the time: they are migrated when read, or run this again", err=True)
    raise typer.Exit(1 if counts["unreadable"] else 0)


@server.command()
def stop(
    place: Annotated[str, typer.Argument(metavar="DIRECTORY", help="The directory, or embedded:///directory.")],
) -> None:
    """End the shared embedded server of a directory; its data stay there."""
    typer.echo("stopped" if api.stop_server(place) else "no server runs there")


def _show_keys(out: Console, site: Site, played: Replay, run: Recording) -> None:
    """Some keys of a run and of its user, as an operator finds them."""
    keys, shown = Keys(played.prefix), [(run.session_id, "flags"), (run.user_session_id or run.session_id, "shared")]
    out.print("Some of the keys, as an operator finds them on the server:")
    if info := played.memory.sessions.info(run.session_id):
        meta = {"user_id": info.user_id, "created_at": str(info.created_at), "last_active": str(info.last_active)}
        meta |= {f"ns:{namespace}": "" for namespace in info.namespaces}
        name = keys.session_meta(run.session_id)
        screen.print_key(out, name, site.type_of(name), [api.Entry(key, value, None) for key, value in meta.items()])
    for session_id, namespace in shown:
        name = keys.session_namespace(session_id, namespace)
        if content := api.show(played.memory, session_id):
            screen.print_key(out, name, site.type_of(name), content.namespaces.get(namespace, []))
