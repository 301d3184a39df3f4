"""`rote run`: the daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from sensor.config import (
    ATTACHMENTS,
    ON_ERROR,
    WRITE_PROBES,
    Settings,
    parse_duration,
    parse_size,
    parse_watch,
)
from sensor.errors import UsageError


class Duration(click.ParamType[float]):
    """Seconds, written like 90s, 15m, 1h30m."""

    name = "duration"

    def convert(self, value: Any, _param: Any, _context: Any) -> float:
        """Source: ``click.ParamType.convert``."""
        return value if isinstance(value, float) else parse_duration(value)


class _Size(click.ParamType[int]):
    name = "size"

    def convert(self, value: Any, _param: Any, _context: Any) -> int:
        return value if isinstance(value, int) else parse_size(value)


class _Watch(click.ParamType[str]):
    name = "watch"

    def convert(self, value: Any, _param: Any, _context: Any) -> str:
        return parse_watch(value)


class _States(click.ParamType[str]):
    name = "directory"

    def convert(self, value: Any, _param: Any, _context: Any) -> str:
        from sensor.images.admission.states import parse_states

        parse_states(value)
        return str(value)


def _limits(options: dict[str, Any], name: str, context: click.Context) -> dict[str, float]:
    """The least and the most time, from three options.

    Raises:
        UsageError: a time and a limit were given at once.
    """
    exactly, least, most = options[name], options[f"{name}_min"], options[f"{name}_max"]
    given = [
        limit
        for limit in ("min", "max")
        if context.get_parameter_source(f"{name}_{limit}") is not ParameterSource.DEFAULT
    ]
    flag = name.replace("_", "-")
    if exactly is not None:
        if given:
            raise UsageError(
                f"--{flag} sets both limits; expected it alone, without --{flag}-{given[0]}"
            )
        least = most = exactly
    # Who gives one limit does not have to know the other's default.
    elif given == ["max"]:
        least = min(least, most)
    elif given == ["min"]:
        most = max(least, most)
    return {f"{name}_min_seconds": least, f"{name}_max_seconds": most}


@click.command(context_settings={"auto_envvar_prefix": "ROTE"})
@click.option(
    "--learn",
    type=Duration(),
    help="Learn for just so long, whatever the counts say: --learn-min and --learn-max at once.",
)
@click.option(
    "--learn-min",
    type=Duration(),
    default="10m",
    show_default=True,
    help="How long a model learns at least, added up over the containers of its image.",
)
@click.option(
    "--learn-max",
    type=Duration(),
    default="24h",
    show_default=True,
    help="After how long learning ends although new keys still come, or only one start was seen.",
)
@click.option(
    "--dry-run",
    type=Duration(),
    help="Nothing new must happen for just so long: --dry-run-min and --dry-run-max at once.",
)
@click.option(
    "--dry-run-min",
    type=Duration(),
    default="1h",
    show_default=True,
    help="How long nothing new must happen, at least, before a model becomes active.",
)
@click.option(
    "--dry-run-max",
    type=Duration(),
    default="72h",
    show_default=True,
    help="After how long a model becomes active although it cannot promise as much as is asked.",
)
@click.option(
    "--max-false-alarms-per-day",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="What a model must be able to promise of a container with 95 % confidence before it "
    "becomes active; 1 takes three quiet days, 3 one day.",
)
@click.option(
    "--archive-after",
    type=Duration(),
    default="24h",
    show_default=True,
    help="After how long without a container a model goes to the archive.",
)
@click.option(
    "--startup-pause",
    type=Duration(),
    default="30s",
    show_default=True,
    help="How long a service executes nothing new once it has started up. What it executes only "
    "until then is not known later. 0: no difference is made.",
)
@click.option(
    "--prevent",
    multiple=True,
    metavar="GLOB",
    help="Refuse what the model does not know, in containers whose name or image matches, once "
    "the model is active; may be given several times. Without it: alert.",
)
@click.option(
    "--rules",
    type=click.Path(path_type=Path),
    default=Path("/etc/rote/rules.d"),
    show_default=True,
    help="Rule files: a directory of *.yaml, or one file. Read again when they change.",
)
@click.option("--cluster", default="", help="Name of the cluster this host belongs to, for scopes.")
@click.option(
    "--on-error",
    type=click.Choice(ON_ERROR),
    default="deny",
    show_default=True,
    help="Under prevention, what becomes of what cannot be judged.",
)
@click.option(
    "--block-grace",
    type=Duration(),
    default="0s",
    show_default=True,
    help="How long a container that is blocked may take to end by itself; 0: it is killed as it "
    "stands.",
)
@click.option(
    "--evidence-quota",
    type=_Size(),
    default="2G",
    show_default=True,
    help="Disk space of all packs of evidence; the oldest go first.",
)
@click.option(
    "--evidence-pack",
    type=_Size(),
    default="256M",
    show_default=True,
    help="Disk space of one pack of evidence.",
)
@click.option(
    "--evidence-time",
    type=Duration(),
    default="30s",
    show_default=True,
    help="How long taking evidence may take before a container is stopped.",
)
@click.option(
    "--canary",
    type=Duration(),
    default="60s",
    show_default=True,
    help="How often to try, in a cgroup of its own, whether the kernel still refuses; 0: never. "
    "Only while a container is under prevention.",
)
@click.option(
    "--watch",
    "watches",
    type=_Watch(),
    multiple=True,
    metavar="cgroup:PATH",
    help="Treat a plain cgroup as a container; may be given several times.",
)
@click.option(
    "--runtime",
    "runtimes",
    multiple=True,
    default=("auto",),
    show_default=True,
    metavar="NAME[=ADDRESS]",
    help="auto, none, docker[=unix:///PATH], podman[=unix:///PATH], containerd[=PATH]; "
    "may be given several times.",
)
@click.option(
    "--attach",
    type=click.Choice(ATTACHMENTS),
    default="auto",
    show_default=True,
    help="How to attach to the kernel; auto takes the best this kernel permits.",
)
@click.option(
    "--write-probe",
    type=click.Choice(WRITE_PROBES),
    default="auto",
    show_default=True,
    help="Judge writes one by one, through descriptors that were opened elsewhere; auto: only "
    "while a container under prevention holds such a descriptor. Costs each write on the host.",
)
@click.option(
    "--lock",
    is_flag=True,
    help="Let nobody on this host but `rote` trace or signal the daemon, remove its pins or get at "
    "its maps and programs, root included. Stop it with `rote stop`. Costs each exec and exit.",
)
@click.option(
    "--gate-fanotify",
    type=_States(),
    default="off",
    show_default=True,
    metavar="DIRECTORY|auto|off",
    help="Hold starts of containers where no runtime may be configured, by the first open of their "
    "config.json: in this state directory of containerd, or auto: of all that run.",
)
@click.option(
    "--discover/--no-discover",
    default=True,
    show_default=True,
    help="Recognise containers by the names of their cgroups.",
)
@click.option(
    "--ring-size",
    type=_Size(),
    default="8M",
    show_default=True,
    help="Memory for events on their way from the kernel; a power of two.",
)
@click.option(
    "--channels",
    type=click.Path(path_type=Path),
    default=Path("/etc/rote/channels.d"),
    show_default=True,
    help="The directory of channel files: where alerts go.",
)
@click.option(
    "--checks",
    type=click.Path(path_type=Path),
    default=Path("/etc/rote/checks.d"),
    show_default=True,
    help="Your own checks of compliance: programs, each with a YAML file beside it.",
)
@click.option(
    "--malware",
    type=click.Path(path_type=Path),
    default=Path("/etc/rote/malware.txt"),
    show_default=True,
    help="Hashes (SHA-256 or MD5, one a line) of programs that no image may hold.",
)
@click.option(
    "--feeds",
    type=click.Path(path_type=Path),
    default=Path("/etc/rote/vulns.yaml"),
    show_default=True,
    help="Which feeds of advisories there are. Nothing is fetched without this file.",
)
@click.option(
    "--feeds-every",
    type=Duration(),
    default="24h",
    show_default=True,
    help="How old advisories get before they are updated; 0: `rote vulns update` does it.",
)
@click.option(
    "--audit-window",
    type=Duration(),
    default="60s",
    show_default=True,
    help="Repeats within this time are counted into one audit.",
)
@click.option(
    "--keep-audits",
    type=click.IntRange(min=1000),
    default=1_000_000,
    show_default=True,
    help="How many audits are kept.",
)
@click.option(
    "--bpf-dir",
    type=click.Path(path_type=Path),
    default=Path("/sys/fs/bpf/rote"),
    show_default=True,
    help="Where in the BPF file system the kernel side is pinned.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How the daemon logs and shows alerts.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What the daemon logs.",
)
@click.option("--quiet", is_flag=True, help="Show no alerts on the terminal.")
@click.pass_context
def run(command: click.Context, /, **options: Any) -> None:
    """Run the sensor until SIGTERM or Ctrl-C.

    The programs stay in the kernel when the daemon stops, so that a restart misses nothing;
    `rote unload` removes them. Every option may come from the environment as ROTE_OPTION.

    \b
    Examples:
      rote run
      rote run --max-false-alarms-per-day 3
      rote run --learn 10m --dry-run 1h
      rote run --prevent 'nginx*' --prevent 'shop/*'
      rote run --runtime none --watch cgroup:/system.slice/nginx.service
    """
    from sensor.daemon import serve

    context = command.obj
    serve(
        Settings(
            state_dir=context.state_dir,
            run_dir=context.run_dir,
            bpf_dir=options["bpf_dir"],
            **_limits(options, "learn", command),
            **_limits(options, "dry_run", command),
            max_false_alarms_per_day=options["max_false_alarms_per_day"],
            archive_after_seconds=options["archive_after"],
            startup_pause=options["startup_pause"],
            audit_window_seconds=options["audit_window"],
            audit_keep=options["keep_audits"],
            attach=options["attach"],
            write_probe=options["write_probe"],
            prevent=tuple(options["prevent"]),
            rules=options["rules"],
            cluster=options["cluster"],
            on_error=options["on_error"],
            block_grace_seconds=options["block_grace"],
            evidence_quota=options["evidence_quota"],
            evidence_pack_max=options["evidence_pack"],
            evidence_seconds=options["evidence_time"],
            canary_seconds=options["canary"],
            ring_size=options["ring_size"],
            runtimes=tuple(options["runtimes"]),
            watches=tuple(options["watches"]),
            lock=options["lock"],
            gate_fanotify=options["gate_fanotify"],
            discover=options["discover"],
            log_format=options["log_format"],
            log_level=options["log_level"],
            quiet=options["quiet"],
            channels_dir=options["channels"],
            checks_dir=options["checks"],
            malware_file=options["malware"],
            feeds_file=options["feeds"],
            feeds_seconds=options["feeds_every"],
        )
    )
