"""MITRE ATT&CK techniques, where the deviation itself shows one. Nothing is guessed.

Names and numbers: ATT&CK for Enterprise, matrix Containers and Linux.
"""

from __future__ import annotations

from sensor.audits.audit import AuditType
from sensor.events import Event, EventKind, Operation

TECHNIQUES = {
    "T1059.004": "Unix Shell",
    "T1059.006": "Python",
    "T1105": "Ingress Tool Transfer",
    "T1095": "Non-Application Layer Protocol",
    "T1620": "Reflective Code Loading",
    "T1036": "Masquerading",
    "T1609": "Container Administration Command",
    "T1053.003": "Cron",
    "T1098.004": "SSH Authorized Keys",
    "T1574.006": "Dynamic Linker Hijacking",
    "T1136.001": "Local Account",
    "T1222.002": "Linux and Mac File and Directory Permissions Modification",
    "T1070.004": "File Deletion",
    "T1548.001": "Setuid and Setgid",
    "T1543.002": "Systemd Service",
    "T1611": "Escape to Host",
    "T1046": "Network Service Discovery",
}

# Programs whose very execution is the technique.
_PROGRAMS = {
    **dict.fromkeys(("sh", "bash", "dash", "ash", "zsh", "ksh"), "T1059.004"),
    **dict.fromkeys(("python", "python3"), "T1059.006"),
    **dict.fromkeys(("curl", "wget", "scp", "sftp", "tftp", "ftpget"), "T1105"),
    **dict.fromkeys(("nc", "ncat", "netcat", "socat"), "T1095"),
    **dict.fromkeys(("nmap", "masscan", "zmap"), "T1046"),
    **dict.fromkeys(("nsenter", "chroot"), "T1611"),
}
# Places whose change is the technique; the longest prefix counts.
_PLACES = (
    ("/etc/cron", "T1053.003"),
    ("/var/spool/cron", "T1053.003"),
    ("/etc/ld.so", "T1574.006"),
    ("/etc/systemd", "T1543.002"),
    ("/etc/passwd", "T1136.001"),
    ("/etc/shadow", "T1136.001"),
    ("/proc/sys/kernel/core_pattern", "T1611"),
)


def techniques(event: Event, audit_type: AuditType) -> tuple[str, ...]:
    """ATT&CK ids that this deviation shows; often none."""
    found: list[str] = []
    if audit_type is AuditType.MEMORY_PROGRAM:
        found.append("T1620")
    if audit_type is AuditType.EXEC_SESSION:
        found.append("T1609")
    if event.kind is EventKind.EXEC:
        name = event.applet or event.path.rpartition("/")[2]
        if technique := _PROGRAMS.get(name.rstrip("0123456789.")):
            found.append(technique)
        return tuple(dict.fromkeys(found))
    path = event.path2 or event.path
    if "authorized_keys" in path:
        found.append("T1098.004")
    found.extend(technique for prefix, technique in _PLACES if path.startswith(prefix))
    if event.operation in (Operation.CHMOD, Operation.CHOWN):
        found.append("T1548.001" if event.open_flags & 0o6000 else "T1222.002")
    if event.operation in (Operation.UNLINK, Operation.RMDIR):
        found.append("T1070.004")
    if event.operation in (Operation.MOUNT, Operation.PIVOT_ROOT):
        found.append("T1611")
    return tuple(dict.fromkeys(found))


TACTICS = {
    "TA0002": "Execution",
    "TA0003": "Persistence",
    "TA0004": "Privilege Escalation",
    "TA0005": "Defense Evasion",
    "TA0007": "Discovery",
    "TA0011": "Command and Control",
}
# Technique → its tactics, the one it is mostly seen for first.
_TACTICS = {
    "T1059.004": ("TA0002",),
    "T1059.006": ("TA0002",),
    "T1105": ("TA0011",),
    "T1095": ("TA0011",),
    "T1620": ("TA0005",),
    "T1036": ("TA0005",),
    "T1609": ("TA0002",),
    "T1053.003": ("TA0003", "TA0002", "TA0004"),
    "T1098.004": ("TA0003", "TA0004"),
    "T1574.006": ("TA0003", "TA0004", "TA0005"),
    "T1136.001": ("TA0003",),
    "T1222.002": ("TA0005",),
    "T1070.004": ("TA0005",),
    "T1548.001": ("TA0004", "TA0005"),
    "T1543.002": ("TA0003", "TA0004"),
    "T1611": ("TA0004",),
    "T1046": ("TA0007",),
}
# What sub-techniques belong to; OCSF and ECS name both.
PARENTS = {
    "T1059": "Command and Scripting Interpreter",
    "T1053": "Scheduled Task/Job",
    "T1098": "Account Manipulation",
    "T1574": "Hijack Execution Flow",
    "T1136": "Create Account",
    "T1222": "File and Directory Permissions Modification",
    "T1070": "Indicator Removal",
    "T1548": "Abuse Elevation Control Mechanism",
    "T1543": "Create or Modify System Process",
}


def tactics(technique: str) -> tuple[str, ...]:
    """Ids of the tactics a technique serves; none of a technique that is not ours."""
    return _TACTICS.get(technique, ())


def technique_name(technique: str) -> str:
    """Name of a technique or sub-technique; empty when it is not ours."""
    return TECHNIQUES.get(technique) or PARENTS.get(technique, "")
