"""`temper jobs`: what was asked, how far it is, what came of it."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.client import Client
from app.cli.follow import TERMINAL, describe, follow, require_success
from app.cli.options import DEFAULT_HOME, Home, Json, Limit, Url, connect
from app.cli.output import moment, out, print_json, print_table, print_verdict, row, say, table

app = typer.Typer(help="List, follow and cancel jobs.", no_args_is_help=True)
FACTS = ("id", "status", "model", "training_file", "task", "prediction_length", "context_length", "freq", "seed")
JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of a job.")]


@app.command("list")
def list_jobs(limit: Limit = 20, url: Url = None, home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """Jobs, newest first."""
    with connect(url, home) as api:
        found = api.pages("/v1/jobs", limit=limit)
    if as_json:
        print_json(found)
        return
    shown = table("job", "status", "method", "horizon>", "made", "model")
    for job in found:
        method = (job.get("method") or {}).get("type")
        row(
            shown,
            job["id"],
            describe(job) if job["status"] == "running" else job["status"],
            method,
            job["prediction_length"],
            moment(job["created_at"]),
            job.get("fine_tuned_model"),
        )
    print_table(shown)


@app.command("show")
def show(job_id: JobId, url: Url = None, home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """One job: its settings, its state and, when it has ended, the verdict."""
    with connect(url, home) as api:
        job = api.get(f"/v1/jobs/{job_id}")
    if as_json:
        print_json(job)
        return
    facts = table("", "")
    facts.show_header = False
    for name in FACTS:
        row(facts, name, job.get(name))
    for name in ("method", "hyperparameters"):
        row(facts, name, ", ".join(f"{key}={value}" for key, value in (job.get(name) or {}).items()))
    for name in ("created_at", "finished_at"):
        row(facts, name, moment(job.get(name)))
    row(facts, "fine_tuned_model", job.get("fine_tuned_model"))
    print_table(facts)
    if job["status"] not in TERMINAL:
        say(describe(job))
    elif job["status"] == "failed":
        say(f"failed: {(job.get('error') or {}).get('message')}")
    out.print()
    print_verdict(job)


@app.command("follow")
def follow_job(job_id: JobId, url: Url = None, home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """Watch a job until it ends; Ctrl-C stops watching, not the job."""
    with connect(url, home) as api:
        job = follow(api, job_id)
    require_success(job)
    if as_json:
        print_json(job)
    else:
        print_verdict(job)


@app.command("events")
def events(
    job_id: JobId,
    live: Annotated[bool, typer.Option("--follow", help="Keep printing until the job ends.")] = False,
    limit: Limit = 100,
    url: Url = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """What happened, oldest first."""
    path = f"/v1/jobs/{job_id}/events"
    with connect(url, home) as api:
        if live:
            _print_live(api, path, as_json=as_json)
            return
        found = api.pages(path, limit=limit)
    if as_json:
        print_json(found)
        return
    shown = table("time", "level", "message")
    for event in reversed(found):
        row(shown, moment(event["created_at"]), event["level"], event["message"])
    print_table(shown)


def _print_live(api: Client, path: str, *, as_json: bool) -> None:
    for event in api.events(path):
        if as_json:
            print_json(event)
        else:
            typer.echo(f"{moment(event.get('created_at'))}  {event.get('message')}")


@app.command("cancel")
def cancel(job_id: JobId, url: Url = None, home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """Stop a job; a running one ends within a step."""
    _change(job_id, "cancel", url, home, as_json=as_json)


@app.command("pause")
def pause(job_id: JobId, url: Url = None, home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """Save a job's state and stop it for now."""
    _change(job_id, "pause", url, home, as_json=as_json)


@app.command("resume")
def resume(job_id: JobId, url: Url = None, home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """Go on from the saved state."""
    _change(job_id, "resume", url, home, as_json=as_json)


def _change(job_id: str, action: str, url: str | None, home: Path, *, as_json: bool) -> None:
    with connect(url, home) as api:
        job = api.post(f"/v1/jobs/{job_id}/{action}", {})
    if as_json:
        print_json(job)
    else:
        say(f"{job_id}: {action} asked for; it is {job['status']}.")
