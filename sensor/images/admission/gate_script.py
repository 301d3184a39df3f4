#!/usr/bin/python3 -IS
"""What gate.c does, for hosts without a C compiler: ``rote-hook`` and ``rote-runtime``.

Stands alone: copied beside gate.conf, it is started by container runtimes and imports nothing of
Rote. Where the two differ, gate.c is right. Imports cost more than everything else here: json and
socket bring regular expressions and enumerations along, 20 ms of them, so what they are made of is
used instead. Who kills the runtime while it makes a container kills the real one with gate.c only.
"""

import _socket
import errno
import os
import sys
import time

STATE_MAX = 1 << 20
SPEC_MAX = 4 << 20
ANSWER_MAX = 8192
HOOK_SECONDS = 300
ANSWER_FILE = "rote-answer"
MARGIN = 1.0
FAIL_SECONDS = 10.0
SECONDS_MAX = 280.0
BY_INSTALLATION = "rote gate install --fail closed"
VALUED = (
    "root", "criu", "rootless", "log-level", "cgroup-manager", "console-socket", "pid-file",
    "preserve-fds", "p", "image-path", "work-path", "parent-path", "config", "f",
    "manage-cgroups-mode", "empty-ns", "lsm-profile", "lsm-mount-context", "tcp-skip-in-flight",
)  # fmt: skip

OWN_DIR = os.path.dirname(os.path.realpath(__file__))  # noqa: PTH120 - pathlib costs milliseconds


class Settings:
    """What gate.conf says."""

    def __init__(self) -> None:
        self.run_dir = "/run/rote"
        self.runtime = "runc"
        self.allow = True
        path = f"{OWN_DIR}/gate.conf"
        try:
            lines = read_file(path, 65536).decode().splitlines()
        except (OSError, ValueError) as error:
            say(
                f"rote: {path}: {reason(error)}; /run/rote and runc are taken, and starts go on "
                "when nobody answers; make it with: rote gate install"
            )
            return
        for line in lines:
            name, _, value = line.partition("=")
            if name == "run_dir":
                self.run_dir = value
            elif name == "runtime":
                self.runtime = value
            elif name == "fail":
                self.allow = value != "closed"


class Failure:
    """What becomes of a start that nobody decided."""

    def __init__(self, allow: bool, seconds: float, rule: str) -> None:
        self.allow = allow
        self.seconds = seconds
        self.rule = rule

    def text(self, why: str) -> str:
        """One line for who started it."""
        what = "it goes on" if self.allow else "it is refused"
        rule = self.rule if self.rule.startswith("rote gate") else f"rule {self.rule}"
        says = rule if self.rule else "no rule says otherwise"
        return f"rote: nobody decided about this start ({why}); {what}: {says}"


def say(text: str) -> None:
    """A line to standard error, which runtimes show when a hook fails."""
    os.write(2, os.fsencode(text) + b"\n")


def reason(error: Exception) -> str:
    """What went wrong, without a path."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


def read_all(fd: int, limit: int) -> bytes:
    """The whole of a descriptor."""
    data = b""
    while part := os.read(fd, 1 << 16):
        data += part
        if len(data) > limit:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return data


def read_file(path: str, limit: int) -> bytes:
    """The whole of a file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return read_all(fd, limit)
    finally:
        os.close(fd)


def parse(data: bytes) -> dict[str, object]:
    """What ``json.loads`` says of an object.

    Raises:
        ValueError: it is no JSON; TypeError: no object.
    """
    try:
        from _json import make_scanner
    except ImportError:  # another interpreter than CPython
        import json

        found = json.loads(data)
    else:
        text = data.decode().strip(" \t\r\n")
        try:
            # Typed for json's own decoder; what it reads of it, Context has.
            found, end = make_scanner(Context)(text, 0)  # type: ignore[arg-type]
        except (StopIteration, SystemError, RecursionError):
            # SystemError: it looks for the error's class in json, which is not imported.
            raise ValueError from None
        if end != len(text):
            raise ValueError
    if not isinstance(found, dict):
        raise TypeError
    return found


class Context:
    """How the scanner makes values."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float


def is_name(identity: str) -> bool:
    """Whether an id can be a name in our directory, and is nothing else of the file system."""
    good = identity and not identity.startswith(".") and "/" not in identity
    return bool(good) and len(identity) < 256


def barred(settings: Settings, identity: str) -> str:
    """Why a container was taken out of service, so that nobody needs to be asked; "" if not."""
    try:
        if is_name(identity):
            text = read_file(f"{settings.run_dir}/gate/{identity}", 4096).decode()
            if text.startswith("barred "):
                return f"rote: {text[7:].rstrip()}"
    except (OSError, ValueError):
        pass  # the daemon did not say so
    return ""


def failure_of(settings: Settings, identity: str) -> Failure:
    """What was chosen beforehand, for this container or for all."""
    for name in (identity, "default") if is_name(identity) else ("default",):
        try:
            text = read_file(f"{settings.run_dir}/gate/{name}", 4096).decode()
            word, seconds, *rule = text.rstrip("\n").split(" ", 2)
            if word in ("allow", "deny") and float(seconds) > 0:
                limit = min(float(seconds), SECONDS_MAX)
                return Failure(word == "allow", limit, "".join(rule))
        except (OSError, ValueError):
            continue
    return Failure(settings.allow, FAIL_SECONDS, BY_INSTALLATION)


def ask(path: str, gate: str, state: bytes, seconds: float) -> str:
    """The daemon's answer.

    Raises:
        OSError: nobody answered; TimeoutError: not in time.
    """
    until = time.monotonic() + seconds + MARGIN
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        while True:
            connection.settimeout(max(0.001, until - time.monotonic()))
            try:
                connection.connect(path)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise TimeoutError from None
                time.sleep(0.01)
        connection.sendall(b"rote-gate 1 %d %s\n" % (len(state), gate.encode()[:16]) + state)
        answer = b""
        while b"\n" not in answer:
            connection.settimeout(max(0.001, until - time.monotonic()))
            part = connection.recv(4096)
            if not part:
                raise OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            answer += part
            if len(answer) >= ANSWER_MAX:
                raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
        return answer.partition(b"\n")[0].decode(errors="replace")
    finally:
        connection.close()


def refuse(message: str, bundle: str, leave_word: bool) -> int:
    """Say why nothing starts: to the runtime, and to rote-runtime where it asked to be told."""
    say(message)
    if leave_word and bundle.startswith("/"):
        path = f"{bundle}/{ANSWER_FILE}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(path, flags, 0o600)
            os.write(fd, message.encode())
            os.close(fd)
        except OSError as error:
            say(f"rote: {path}: {reason(error)}")
    return 1


def hook_main(gate: str, leave_word: bool) -> int:
    """Hand the state over, wait for the answer."""
    settings = Settings()
    try:
        state = read_all(0, STATE_MAX)
    except OSError:
        state = b""  # the daemon says what is wrong with it, once
    identity = bundle = ""
    try:
        found = parse(state)
        identity, bundle = str(found["id"]), str(found["bundle"])
    except (ValueError, KeyError, TypeError):
        pass  # the daemon's to say
    if message := barred(settings, identity):
        return refuse(message, bundle, leave_word)
    failure = failure_of(settings, identity)
    path = f"{settings.run_dir}/gate.sock"
    try:
        answer = ask(path, gate, state, failure.seconds)
        if answer == "allow":
            return 0
        if answer.startswith("deny: "):
            return refuse(f"rote: {answer[6:]}", bundle, leave_word)
        why = f"{path} gave no answer of ours"
    except TimeoutError:
        why = f"no answer within {failure.seconds:g} s"
    except OSError as error:
        why = f"{path}: {reason(error)}"
    if not failure.allow:
        return refuse(failure.text(why), bundle, leave_word)
    say(failure.text(why))
    return 0


class Call:
    """What the runtime is asked for: its command, and the few options that matter here."""

    def __init__(self, arguments: list[str]) -> None:
        self.bundle = "."
        self.log = ""
        self.log_json = False
        words: list[str] = []
        rest = iter(arguments)
        for argument in rest:
            if not argument.startswith("-") or argument == "-":
                words.append(argument)
                continue
            name, equals, value = argument.lstrip("-").partition("=")
            takes = name in ("log", "log-format", "bundle", *VALUED) or (name == "b" and words)
            if takes and not equals:
                value = next(rest, "")
            if name == "log-format":
                self.log_json = value == "json"
            elif name == "log":
                self.log = value
            elif name in ("bundle", "b"):
                self.bundle = value
        self.verb = words[0] if words else ""
        self.id = words[-1] if len(words) > 1 else ""

    def tell(self, message: str) -> None:
        """The last error in the runtime's log is what Docker shows: let it be the reason alone."""
        import json

        text = json.dumps(message)
        line = f'{{"level":"error","msg":{text}}}' if self.log_json else f"level=error msg={text}"
        if not self.log:
            say(message)
            return
        try:
            fd = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.write(fd, line.encode() + b"\n")
            os.close(fd)
        except OSError as error:
            say(f"{message} ({self.log}: {reason(error)})")


def prepare_bundle(bundle: str) -> str:
    """Put the hook into a bundle; "" or what went wrong."""
    import json

    path = f"{bundle}/config.json"
    name = f"{OWN_DIR}/rote-hook"
    try:
        spec = json.loads(read_file(path, SPEC_MAX))
        hooks = spec.get("hooks") or {}
        stage = hooks.get("createRuntime") or []
        if any(hook.get("path") == name for hook in stage):
            return ""
        hook = {"path": name, "args": [name, "--gate=runtime", "--word"], "timeout": HOOK_SECONDS}
        spec["hooks"] = {**hooks, "createRuntime": [hook, *stage]}
        fresh = f"{path}.rote"
        found = os.stat(path)  # noqa: PTH116
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:  # noqa: PTH123
            file.write(json.dumps(spec).encode())
            os.fchown(fd, found.st_uid, found.st_gid)
            os.fchmod(fd, found.st_mode & 0o7777)
        os.rename(fresh, path)  # noqa: PTH104
    except OSError as error:
        return f"{path}: {reason(error)}"
    except (ValueError, AttributeError, TypeError):
        return f"{path}: is no config.json of a container"
    return ""


def run_real(settings: Settings, call: Call, arguments: list[str]) -> int:
    """Become the real runtime; comes back only when that is impossible."""
    try:
        os.execvp(settings.runtime, [settings.runtime, *arguments])  # noqa: S606
    except OSError as error:
        call.tell(
            f"rote: the real runtime {settings.runtime} cannot be executed: {reason(error)}; "
            f"expected what runtime= of {OWN_DIR}/gate.conf names"
        )
    return 127


def runtime_main(arguments: list[str]) -> int:
    """Put the hook in where a container is made; let the real runtime do everything."""
    settings = Settings()
    call = Call(arguments)
    if call.verb not in ("create", "run", "restore"):
        return run_real(settings, call, arguments)
    if message := barred(settings, call.id):
        call.tell(message)
        return 1
    problem = prepare_bundle(call.bundle)
    if problem:
        failure = failure_of(settings, call.id)
        if not failure.allow:
            call.tell(failure.text(problem))
            return 1
        say(failure.text(problem))
    if call.verb != "create" or "LISTEN_FDS" in os.environ:
        return run_real(settings, call, arguments)
    word = f"{call.bundle}/{ANSWER_FILE}"
    remove(word)
    child = os.fork()
    if not child:
        os._exit(run_real(settings, call, arguments))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        message = read_file(word, ANSWER_MAX).decode(errors="replace")
        remove(word)
        if code:
            call.tell(message)
    except OSError:
        pass  # nobody refused
    return code if code >= 0 else 128 - code


def remove(path: str) -> None:
    """Remove a file if it is there."""
    try:
        os.unlink(path)  # noqa: PTH108
    except FileNotFoundError:
        return


def main() -> int:
    """Which of the two it is, its name says."""
    name = os.path.basename(sys.argv[0])  # noqa: PTH119
    if name == ".rote-gate":
        return 0  # it is tried whether it runs at all, before it is put into its place
    if name == "rote-runtime":
        return runtime_main(sys.argv[1:])
    gates = [text[7:] for text in sys.argv[1:] if text.startswith("--gate=")]
    return hook_main(gates[-1] if gates else "hook", "--word" in sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
