"""The jars of Apache Kafka: fetched by Maven once per machine, then taken from the cache.

In: a pom under `docker/`. Out: a directory of jars. What is remembered lies in the user's cache directory, under the
digest of the pom, so that a changed pom is fetched anew and a finished directory is never written to again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stream_app.errors import TailraceError

BROKER_POM = "pom.xml"
STREAMS_POM = "streams.pom.xml"

# Kafka 4's broker is compiled for Java 17 and does not start on an older one.
JAVA_VERSION_MIN = 17

# Pinned, because Maven's built-in default differs from one Maven to the next.
_COPY_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
# Forty-six jars take a minute on an ordinary line; ten is a line that will not finish.
_FETCH_TIMEOUT_S = 600.0


class ToolMissing(TailraceError):
    """What to do: install the program that the message names, or use the embedded broker, which needs pip only."""


def cache_directory() -> Path:
    """Gives Tailrace's own directory below `$XDG_CACHE_HOME`, or `~/.cache`; it may not exist yet."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "tailrace"


def java_program(name: str = "java") -> Path:
    """Gives the path of a Java program (`java`, `javac`), from `$JAVA_HOME` or the path.

    Raises ToolMissing if there is none.
    """
    home = os.environ.get("JAVA_HOME")
    found = shutil.which(name, path=str(Path(home) / "bin")) if home else None
    found = found or shutil.which(name)
    if found is None:
        raise ToolMissing(
            f"Apache Kafka needs Java, and `{name}` was not found. Install a JDK {JAVA_VERSION_MIN} or newer"
            " (Debian: openjdk-17-jdk-headless) or set JAVA_HOME."
        )
    return Path(found)


def check_java_version() -> None:
    """Raises ToolMissing if the Java found is older than Kafka can run on."""
    answer = subprocess.run([java_program(), "-version"], capture_output=True, text=True, check=False)
    found = re.search(r'version "(?:1\.)?(\d+)', answer.stderr + answer.stdout)
    if found is None or int(found.group(1)) < JAVA_VERSION_MIN:
        said = (answer.stderr or answer.stdout).strip().splitlines()
        raise ToolMissing(
            f"Apache Kafka needs Java {JAVA_VERSION_MIN} or newer; `java -version` says"
            f" {said[0] if said else 'nothing'!r}. Install a newer JDK or set JAVA_HOME."
        )


def fetch_jars(pom_name: str = BROKER_POM) -> Path:
    """Gives a directory that holds every jar the pom asks for, fetching them if this machine has not done so yet.

    Two processes may call it at once: one fetches, the other waits for it. Raises ToolMissing without Maven, or when
    Maven fails.
    """
    pom = find_pom(pom_name)
    digest = hashlib.sha256(pom.read_bytes()).hexdigest()[:12]
    target = cache_directory() / f"kafka-{pom.stem.replace('.', '-')}-{digest}"
    if target.is_dir():
        return target
    with locked(target.with_suffix(".lock")):
        if not target.is_dir():
            _fetch(pom, target)
    return target


def class_path(*directories: Path) -> str:
    """Gives Java's class path over every jar in the directories."""
    return os.pathsep.join(f"{directory}{os.sep}*" for directory in directories)


def find_pom(pom_name: str) -> Path:
    """Gives the pom's path: beside this module in an installed wheel, under `docker/` in a checkout."""
    places = (Path(__file__).parent, Path(__file__).parents[3] / "docker")
    for place in places:
        if (place / pom_name).is_file():
            return place / pom_name
    raise ToolMissing(f"{pom_name} lies neither in {places[0]} nor in {places[1]}: install Tailrace anew.")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock between processes; it falls with the process, so it can't go stale."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(pom: Path, target: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise ToolMissing(
            "Apache Kafka's jars are fetched by Maven, and `mvn` was not found. Install Maven (Debian: maven),"
            " or use the embedded broker."
        )
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="fetching-") as scratch:
        # Maven writes beside its pom, and an installed package may be read-only: it works on a copy.
        copied = shutil.copy(pom, str(Path(scratch) / "pom.xml"))
        jars = Path(scratch) / "jars"
        command = [maven, "-B", "-q", "-f", copied, _COPY_GOAL, "-DincludeScope=runtime", f"-DoutputDirectory={jars}"]
        _run_maven(command)
        jars.rename(target)


def _run_maven(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_FETCH_TIMEOUT_S)
    except subprocess.TimeoutExpired as expired:
        raise ToolMissing(f"Maven was not done within {_FETCH_TIMEOUT_S:.0f} s. Check its network.") from expired
    if done.returncode != 0:
        errors = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line]
        reason = errors[0] if errors else f"exit status {done.returncode}"
        raise ToolMissing(f"Maven could not fetch Apache Kafka's jars: {reason}. Check its network and mirrors.")
