"""One server run beside us: started, watched and ended through files, so that any later process can do it too.

In: a command and a directory. Out: whether it lives, and the end of its log. The pid file is what is remembered; a pid
counts only while its command line names the directory, since the kernel gives old numbers to new processes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_POLL_S = 0.05
_EXEC_S = 0.5
# A broker flushes its logs before it ends; a single node needs one to three seconds, more on a busy machine.
STOP_GRACE_S = 20.0


class ServerProcess:
    """A server whose command line names `directory`; its output goes to `directory/log`.

    `command` is asked for the command line at each start, and only then: to look at a server needs none of its tools.
    """

    def __init__(self, directory: Path, command: Callable[[], Sequence[str]]) -> None:
        self.directory = directory
        self._command = command

    @property
    def log(self) -> Path:
        """The file that holds what the server said."""
        return self.directory / "log"

    @property
    def pid(self) -> int | None:
        """The pid of the living server, or None. A server that is paused lives."""
        try:
            pid = int(self._pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return None
        _reap(pid)
        return pid if str(self.directory) in _command_line(pid) else None

    @property
    def crashed(self) -> bool:
        """Whether it was started, never stopped by us, and is gone."""
        return self._pid_file.exists() and self.pid is None

    def start(self) -> None:
        """Starts the server in a session of its own, so that a Ctrl-C meant for us does not reach it."""
        if self.pid is not None:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(self.log), append, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        command = list(self._command())
        assert any(str(self.directory) in word for word in command), "the directory is how the process is recognised"
        pid = os.posix_spawn(command[0], command, os.environ, file_actions=actions, setsid=True)
        self._pid_file.write_text(str(pid))
        # The kernel lets us go on a moment before the new program's command line can be read.
        deadline = time.monotonic() + _EXEC_S
        while self.pid is None and time.monotonic() < deadline:
            time.sleep(_POLL_S)

    def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """Asks the server to end, waits `grace_s` seconds, then kills it."""
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        if not self._gone_within(grace_s):
            self.kill()
        self._pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """Ends the server at once, as a power cut would."""
        self._signal(signal.SIGKILL)
        self._gone_within(STOP_GRACE_S)

    def pause(self) -> None:
        """Stops the server's clock: it holds its connections and answers nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets a paused server go on."""
        self._signal(signal.SIGCONT)

    def last_words(self, lines: int = 3) -> str:
        """Gives the last lines of the log that name an error, or else its last lines."""
        try:
            said = self.log.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return "it wrote no log"
        wrong = [line for line in said if "ERROR" in line or "FATAL" in line or "Exception" in line]
        return " / ".join((wrong or said)[-lines:]) or "its log is empty"

    @property
    def _pid_file(self) -> Path:
        return self.directory / "pid"

    def _signal(self, number: signal.Signals) -> None:
        pid = self.pid
        if pid is not None:
            os.kill(pid, number)

    def _gone_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.pid is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        return True


def _reap(pid: int) -> None:
    """Collects our own dead child, which would otherwise stay in the process table; others' are not ours to collect."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def _command_line(pid: int) -> str:
    """Gives the command line of a process, empty if there is none or it is dead."""
    if Path("/proc/self").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return ""
    listed = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return listed.stdout
