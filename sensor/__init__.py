"""Rote learns, by rote, what each container on a Linux host does.

The flow, and where to find it::

    kernel/      BPF programs in, events out: decode, pinned maps, the ring
    containers/  whose cgroup is it: Docker, Podman, containerd, plain cgroups
    models/      what an image does: keys, patterns, learning, states, store
    rules/       what a deviation leads to
    responses/   what the kernel is told: known keys go down into its maps
    audits/      the durable record: made, scrubbed, stored, queried, shown
    channels/    who is told: terminal, journal
    control/     the socket that `rote …` commands use
    pipeline.py  the loop; the only module that knows every step
    daemon.py    the process around it: start, signals, stop
    cli/         one file a noun

``errors``, ``events`` and ``paths`` are shared by all. ``testing`` replaces the kernel by recorded
events, so that everything after the ring can be tested without root.
"""

__version__ = "0.1.0"
