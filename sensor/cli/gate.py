"""`rote gate`: ways to hold the start of a container until it is judged."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sensor.cli.output import F, emit, output_option
from sensor.errors import BadInputError, HostError, NotRootError, NotRunningError, UsageError

if TYPE_CHECKING:
    from sensor.images.admission.dockerd import Dockerd
    from sensor.images.admission.installed import Installation

COLUMNS = ("gate", "installed", "holds", "program", "note")
_PATH = click.Path(path_type=Path)


def _options(*, installing: bool) -> Callable[[F], F]:
    def decorate(command: F) -> F:
        texts = {"docker": "Docker.", "podman": "Podman.", "cri-o": "CRI-O.", "containerd": "CRI."}
        for option in (
            click.option(
                "--docker-config",
                type=_PATH,
                default=Path("/etc/docker/daemon.json"),
                show_default=True,
                help="dockerd's configuration file.",
            ),
            click.option(
                "--docker-socket",
                type=_PATH,
                default=Path("/var/run/docker.sock"),
                show_default=True,
                help="Where dockerd answers.",
            ),
            click.option(
                "--docker-pidfile",
                type=_PATH,
                default=Path("/var/run/docker.pid"),
                show_default=True,
                help="dockerd's process id, where systemd made its socket.",
            ),
        ):
            command = option(command)
        for kind, text in reversed(texts.items()):
            verb = "Into" if installing else "From"
            command = click.option(f"--{kind}", is_flag=True, help=f"{verb} {text}")(command)
        return command

    return decorate


@click.group()
def gate() -> None:
    """Hold starts of containers until the sensor has judged them."""


@gate.command("install")
@_options(installing=True)
@click.option(
    "--fail",
    type=click.Choice(["open", "closed"]),
    default="open",
    show_default=True,
    help="Whether containers start while no daemon has run since the host did.",
)
@click.option("--hooks-file", type=_PATH, default=None, help="Another file of hooks.d.")
@click.option(
    "--base-spec",
    type=_PATH,
    default=Path("/etc/containerd/rote-base-spec.json"),
    show_default=True,
    help="The specification that containerd begins with.",
)
@click.option(
    "--containerd-config",
    type=_PATH,
    default=Path("/etc/containerd/config.toml"),
    show_default=True,
    help="containerd's configuration file.",
)
@click.option("--merge", is_flag=True, help="Put our line into containerd's file, too.")
@click.option("--compiler", default="auto", show_default=True, help="A C compiler, or none.")
@click.pass_obj
def install(context: Any, /, fail: str, compiler: str, **options: Any) -> None:
    """Have container runtimes ask before a container starts. Without a name: Docker.

    Docker takes it at once (SIGHUP); containers that run are not touched. It can be repeated, and
    taken away: rote gate remove.

    \b
    Examples:
      rote gate install                       Docker, open when nobody answers
      rote gate install --docker --fail closed
      rote gate install --podman
      rote gate install --containerd --merge
    """
    from sensor.images.admission import hook_files
    from sensor.images.admission.docker_config import DockerConfig

    _need_root("install")
    installation, kinds = _installation(context), _kinds(options) or ["docker"]
    dockerd, config = (
        _dockerd(options),
        DockerConfig(options["docker_config"], installation),
    )
    name = installation.programs.settings().get("runtime") or "runc"
    if "docker" in kinds:
        config.read()  # what cannot be read is said before anything is made
        name = config.real_runtime()
        if dockerd.information() is not None:
            dockerd.check_flags(config.path)
    real = name if name.startswith("/") else shutil.which(name, path=_search())
    if real is None:
        raise HostError(f"{name}: the container runtime is not installed")
    if options["hooks_file"] and not {"podman", "cri-o"} & set(kinds):
        raise UsageError("--hooks-file: expected --podman or --cri-o with it")
    how = installation.programs.install(
        context.run_dir.absolute(), Path(real), fail, compiler=compiler
    )
    click.echo(f"{installation.programs.directory}: the gate's program ({how}), fail {fail}")
    for kind in kinds:
        if kind == "docker":
            fresh = config.install(dockerd.reload)
            click.echo(f"{config.path}: {'written' if fresh else 'as it should be'}")
            running = dockerd.information()
            click.echo(
                "dockerd uses it for every container made from now on; those that exist keep "
                "their runtime"
                if running
                else "dockerd does not answer; it takes it when it starts"
            )
        elif kind == "containerd":
            for line in hook_files.install_containerd(
                installation,
                options["base_spec"],
                options["containerd_config"],
                merge=options["merge"],
            ):
                click.echo(line)
        else:
            path = options["hooks_file"] or hook_files.HOOKS_D[kind]
            fresh = hook_files.install_hooks_d(installation, kind, path)
            click.echo(f"{path}: {'written' if fresh else 'as it should be'}")


@gate.command("remove")
@_options(installing=False)
@click.option("--merge", is_flag=True, help="A file was changed since: remove our entries only.")
@click.option(
    "--keep-runtime",
    is_flag=True,
    help="Containers made meanwhile name our runtime: let the name mean the real one.",
)
@click.option("--force", is_flag=True, help="Although such containers will not start again.")
@click.pass_obj
def remove(context: Any, /, merge: bool, keep_runtime: bool, force: bool, **options: Any) -> None:
    """Take the gates away; files are as they were, byte for byte. Without a name: all.

    \b
    Examples:
      rote gate remove
      rote gate remove --docker --keep-runtime
    """
    from sensor.images.admission import hook_files
    from sensor.images.admission.docker_config import DockerConfig

    _need_root("remove")
    installation = _installation(context)
    entries = installation.entries()
    kinds = [kind for kind in _kinds(options) or list(entries) if kind in entries]
    if not kinds:
        click.echo("no gate is installed")
    for kind in kinds:
        if kind == "docker":
            dockerd = _dockerd(options)
            config = DockerConfig(Path(entries[kind]["file"]), installation)
            if not merge and (diff := config.changed_since()):
                raise BadInputError(
                    f"{config.path}: was changed since; --merge removes only our entries:\n{diff}"
                )
            names = dockerd.made_with_ours()
            if names and not keep_runtime and not force:
                raise BadInputError(
                    f"{', '.join(names)}: made with our runtime, and will not start without it. "
                    "--keep-runtime lets its name mean the real one; --force does not care"
                )
            click.echo(config.remove(dockerd.reload, keep_name=keep_runtime and bool(names)))
            if keep_runtime and names:
                continue  # what is left of it goes another time
        elif kind == "containerd":
            for line in hook_files.remove_containerd(installation, merge=merge):
                click.echo(line)
        else:
            click.echo(hook_files.remove_file(installation, kind))
        installation.drop(kind)
    if not installation.entries():
        installation.programs.remove()


@gate.command("status")
@_options(installing=False)
@output_option
@click.pass_obj
def status(context: Any, /, output: str, **options: Any) -> None:
    """What is installed, whether it holds starts, and whether the daemon answers.

    \b
    Example:
      rote gate status -o json
    """
    rows = _rows(context, options)
    emit(output, rows, COLUMNS, empty="no gate is installed: rote gate install")
    if output == "table" and rows:
        click.echo(_daemon(context), err=True)


def _rows(context: Any, options: dict[str, Any]) -> list[dict[str, Any]]:
    installation = _installation(context)
    programs = installation.programs
    kind_of_program = programs.kind()
    settings = programs.settings()
    rows: list[dict[str, Any]] = []
    for kind, entry in installation.entries().items():
        path = Path(str(entry["file"]))
        holds, note = "yes" if path.exists() else "no", ""
        if kind == "docker":
            holds, note = _docker_holds(_dockerd(options))
        elif not path.exists():
            note = f"{path} is not there"
        elif kind == "containerd":
            holds, note = "unknown", "containerd must have been restarted since"
        if not kind_of_program:
            holds, note = "no", f"{programs.directory}: the program is MISSING: rote gate install"
        rows.append(
            {
                "gate": kind,
                "installed": str(path),
                "holds": holds,
                "program": kind_of_program,
                "note": note,
                "fail": settings.get("fail", ""),
                "runtime": settings.get("runtime", ""),
                "directory": str(programs.directory),
            }
        )
    return rows


def _docker_holds(dockerd: Dockerd) -> tuple[str, str]:
    found = dockerd.information()
    if found is None:
        return "unknown", "dockerd does not answer"
    version = f"Docker {found.get('ServerVersion', '?')}"
    default = found.get("DefaultRuntime")
    if default != "rote":
        return "no", f"{version}: its default runtime is {default}"
    return "yes", version


def _daemon(context: Any) -> str:
    try:
        found = context.client.ask("status")["gates"]
    except NotRunningError:
        return "no daemon answers: what was chosen for that counts (docs/admission.md)"
    return (
        f"the daemon answers: {found['asked']} asked, {found['allowed']} allowed, "
        f"{found['refused']} refused, {found['undecided']} undecided, {found['held']} held now"
    )


def _installation(context: Any) -> Installation:
    from sensor.images.admission.installed import Installation

    return Installation((context.state_dir / "gate").absolute())


def _dockerd(options: dict[str, Any]) -> Dockerd:
    from sensor.images.admission.dockerd import Dockerd

    return Dockerd(options["docker_socket"], options["docker_pidfile"])


def _kinds(options: dict[str, Any]) -> list[str]:
    from sensor.images.admission.installed import KINDS

    return [kind for kind in KINDS if options[kind.replace("-", "_")]]


def _search() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin"


def _need_root(verb: str) -> None:
    if os.geteuid() != 0:
        raise NotRootError(f"rote gate {verb}: needs root: sudo rote gate {verb}")
