"""What the scripts that measure a server ask of it and of the system."""
import json
import os
import subprocess
import sys
import time
import urllib.request


def plan_of(frontier, models, flags):
    """What `frontier plan` says of models that are served with such flags."""
    command = [frontier, "plan", *models, "--json", *flags]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def get(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
        return answer.read().decode()


def wait_until_ready(server, port):
    for _ in range(600):
        if server.poll() is not None:
            sys.exit(f"the server ended with {server.returncode}")
        try:
            get(port, "/health/ready")
            return
        except OSError:
            time.sleep(0.1)
    sys.exit("the server did not become ready")


def status_bytes(pid, key):
    """A size of a process, as Linux tells it: VmRSS is what is resident, VmHWM the most that was."""
    with open(f"/proc/{pid}/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


class Group:
    """A control group of version 1 or 2 with a limit."""

    def __init__(self, limit_bytes):
        with open("/proc/self/cgroup") as file:
            is_first = any("memory" in line.split(":")[1].split(",") for line in file)
        self.path = f"/sys/fs/cgroup{'/memory' if is_first else ''}/frontier-{os.getpid()}"
        self.is_first, self.limit_bytes = is_first, limit_bytes
        os.mkdir(self.path)
        self.write("memory.limit_in_bytes" if is_first else "memory.max", limit_bytes)

    def write(self, name, value):
        with open(os.path.join(self.path, name), "w") as file:
            file.write(str(value))

    def left_bytes(self):
        """What is left below the limit when pages of files are given up, as the server counts it."""
        stat = dict(line.split() for line in open(os.path.join(self.path, "memory.stat")))
        files = sum(int(stat["total_" * self.is_first + name]) for name in ("inactive_file", "active_file"))
        with open(os.path.join(self.path, "memory.usage_in_bytes" if self.is_first else "memory.current")) as file:
            return self.limit_bytes - (int(file.read()) - files)

    def enter(self):
        self.write("cgroup.procs", os.getpid())

    def remove(self):
        os.rmdir(self.path)
