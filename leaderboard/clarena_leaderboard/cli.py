"""`clarena leaderboard`: build the static site of a board, and show it. Light until a command runs."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clarena.cli.options import StorePath
from clarena.errors import UsageError
from clarena_leaderboard.compare import FromMlflow
from clarena_leaderboard.ledger_commands import Submissions, add, audit

if TYPE_CHECKING:
    from http.server import ThreadingHTTPServer

    from clarena_leaderboard.contents import Board
    from clarena_leaderboard.site.publish import Report

leaderboard = typer.Typer(
    help="Build the leaderboard, a folder of static pages, and show it.",
    epilog="Example: clarena leaderboard build --store runs --out site",
    no_args_is_help=True,
    add_completion=False,
)

OutPath = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="Folder of the site; new, empty, or a site of ours.")
]
ConfigPath = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="What a maintainer decided: title, seeds, sort key.")
]


@leaderboard.command(epilog="Example: clarena leaderboard build --out site, then open site/index.html")
def build(
    store: StorePath = Path("runs"),
    tracking_uri: FromMlflow = None,
    submissions: Submissions = Path("leaderboard/submissions"),
    out: OutPath = Path("site"),
    config: ConfigPath = None,
) -> None:
    """Write the leaderboard as pages that open from the file system, without a server or a network.

    Reads a store, or MLflow where --tracking-uri is given. Only what changed is made anew; if anything fails, the
    old site stays as it was.
    """
    board, report = build_board(store, tracking_uri, submissions, out, config)
    tell(board, report, out)


@leaderboard.command(epilog="Example: clarena leaderboard serve --port 8000")
def serve(
    store: StorePath = Path("runs"),
    tracking_uri: FromMlflow = None,
    submissions: Submissions = Path("leaderboard/submissions"),
    out: OutPath = Path("site"),
    config: ConfigPath = None,
    port: Annotated[int, typer.Option(metavar="PORT", min=0, max=65535, help="0 takes any that is free.")] = 8000,
) -> None:
    """Build the leaderboard and show it on this machine, until Ctrl-C."""
    from clarena.tracking import browse_hint, resolve_uri

    board, report = build_board(store, tracking_uri, submissions, out, config)
    tell(board, report, out)
    with site_server(out, port) as server:
        typer.echo(f"Leaderboard: http://127.0.0.1:{server.server_address[1]}/   (Ctrl-C ends it)")
        typer.echo(f"The same runs in MLflow: {browse_hint(resolve_uri(tracking_uri))}")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("Stopped.")


leaderboard.command(epilog="Example: clarena leaderboard add ewc.zip --verdict verdict.json")(add)
leaderboard.command(epilog="Example: clarena leaderboard audit")(audit)


def build_board(
    store: Path, tracking_uri: str | None, submissions: Path, out: Path, config: Path | None
) -> "tuple[Board, Report]":
    """Read the runs, those of a ledger of submissions among them where there is one, and write the site.

    Raises:
        ClarenaError: where there is nothing to show, or `out` is not ours to write.
    """
    from clarena_leaderboard.board import load_board
    from clarena_leaderboard.changes import read_manifest
    from clarena_leaderboard.config import read_config
    from clarena_leaderboard.site.publish import known_site
    from clarena_leaderboard.site.render import MEMORY, build_site
    from clarena_leaderboard.submitted import open_with_submissions

    known_site(out)  # a folder that is not ours is refused before anything is read
    source, known = open_with_submissions(store, tracking_uri, submissions)
    board = load_board(
        source,
        config=read_config(config) if config else None,
        cache=out.parent / f".{out.name}.cache",
        previous=read_manifest(out / MEMORY),
        submissions=known,
    )
    if not board.tables:
        raise UsageError("\n".join(board.problems))
    return board, build_site(board, source.load, out)


def tell(board: "Board", report: "Report", out: Path) -> None:
    """Say what was written, and what could not be read."""
    for problem in board.problems:
        typer.secho(problem, fg="yellow", err=True)
    rows = sum(len(table.entries) for table in board.tables)
    typer.echo(
        f"{len(board.tables)} tracks, {rows} rows: {report.made} files written, {report.kept} as they were"
        f"{f', {report.removed} removed' if report.removed else ''}. Open {out / 'index.html'}"
    )


def site_server(out: Path, port: int) -> "ThreadingHTTPServer":
    """A server of the site on 127.0.0.1, with the security policy of its pages as a header.

    Raises:
        UsageError: where the port is taken.
    """
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    from clarena_leaderboard.site.render import security_policy

    policy = security_policy()

    class Handler(SimpleHTTPRequestHandler):
        def end_headers(self) -> None:
            self.send_header("Content-Security-Policy", policy)
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Referrer-Policy", "no-referrer")
            self.send_header("Cache-Control", "no-cache")
            super().end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads a log of requests."""

    try:
        return ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, directory=str(out)))
    except OSError as error:
        raise UsageError(f"Port {port} cannot be used: {error.strerror}. Choose another with --port.") from error
