"""What the scripts that measure a server ask of it and of the system."""
import sys
import time
import urllib.request


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
