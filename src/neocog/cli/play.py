"""The command that lets a trained net play."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neocog.cli import terminal, write


def add_to(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(play)


def play(
    run: terminal.RunArgument,
    episodes: Annotated[int, typer.Option(metavar="N", min=1, help="Games that are played.")] = 10,
    seed: Annotated[int, typer.Option(metavar="S", min=0, help="Of the first game; the others follow.")] = 0,
    gif: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the first game as a GIF.")] = None,
    look: Annotated[
        bool, typer.Option("--look", help="In the GIF (play.gif), show beside each frame what speaks for the action.")
    ] = False,
    method: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The same by a method of 'neocog look', such as gradcam; usual: occlusion."),
    ] = None,
    device: terminal.Device = None,
    json: terminal.Json = False,
) -> None:
    """Let a run of the task play play new games: their rewards, a GIF, and what the net looks at."""
    with terminal.work():
        from neocog import fit
        from neocog.look import film
        from neocog.look.playing import NEW

        trained = fit.Run(run)
        method = method or ("occlusion" if look else None)
        file = gif or (Path("play.gif") if method else None)
        if file is not None:
            made = film(trained, NEW + seed, method=method, device=device)
            terminal.say(f"wrote {made.save(file)}")
        games = list(fit.predict(trained, range(NEW + seed, NEW + seed + episodes), device=device))
    rows = [{"game": seed + k, **one.row()} for k, one in enumerate(games)]
    rewards = [one.reward for one in games]
    mean = sum(rewards) / len(rewards)
    if json:
        write.show_json({"run": str(run), "mean_reward": mean, "games": rows})
        return
    write.show_table(rows)
    terminal.echo(f"mean reward {mean:.4g} (n = {len(rewards)} games, {min(rewards):g} to {max(rewards):g})")
