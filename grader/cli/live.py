"""lab up, down, status, env: brokers for work by hand."""

from __future__ import annotations

import shlex

import click


@click.command("up")
@click.option("--rabbitmq", is_flag=True, help="RabbitMQ too.")
@click.option("--flower", is_flag=True, help="Flower too (`lab install flower` first).")
@click.option("--services", is_flag=True, help="The six services of exercise 3_1 too.")
@click.option(
    "--trouble",
    type=click.FloatRange(0, 100),
    default=0.0,
    help="With --services: how many of a hundred requests to them meet a fault.",
)
@click.option(
    "--stack",
    type=click.Choice(["compose"]),
    default=None,
    help="Use labs/docker-compose.yml instead of private servers.",
)
def up_command(
    rabbitmq: bool, flower: bool, services: bool, trouble: float, stack: str | None
) -> None:
    """Start Redis (and RabbitMQ, Flower) on loopback for work by hand."""
    if stack == "compose":
        from grader.stack import compose

        compose.up(flower)
        click.echo("The compose stack is up. Stop it with: lab down")
        return
    from grader.home import sweep
    from grader.stack import live

    sweep()
    _show(live.up(rabbitmq, flower, services, trouble).services)
    click.echo('\nPoint this shell at it:  eval "$(lab env)"     Stop it:  lab down')


def _show(services: dict[str, str]) -> None:
    width = max(9, *map(len, services)) if services else 9
    for name, url in services.items():
        click.echo(f"{name:<{width}} {url}")


@click.command("down")
def down_command() -> None:
    """Stop what `lab up` started."""
    from grader.stack import compose, live

    stopped = [live.down(), compose.down()]
    click.echo("Stopped." if any(stopped) else "Nothing was up.")


@click.command("status")
def status_command() -> None:
    """Say what runs and where; exit status 1 if nothing does."""
    from grader.stack import compose, live

    now = live.current()
    _show(now.services if now else {})
    for name in compose.running():
        click.echo(f"{name:<9} (compose)")
    if now is None and not compose.running():
        click.echo("Nothing is up. Start with: lab up")
        raise SystemExit(1)


@click.command("env")
@click.option(
    "--broker",
    type=click.Choice(["redis", "rabbitmq"]),
    default=None,
    help="RabbitMQ where it is up, otherwise Redis, by default.",
)
def env_command(broker: str | None) -> None:
    """Print the exports for your shell:  eval "$(lab env)"."""
    from grader.errors import UsageError
    from grader.stack import live

    now = live.current()
    if now is None:
        raise UsageError("nothing_up")
    chosen = broker or ("rabbitmq" if "rabbitmq" in now.services else "redis")
    for name, value in now.environment(chosen).items():
        click.echo(f"export {name}={shlex.quote(value)}")
