# Runs Python with the arguments behind the first, for as long as the program that started this one lives. That one holds
# the other end of standard input: when it closes, however the program ended, what runs is killed and the directory in
# the first argument removed.
import os
import shutil
import signal
import subprocess
import sys
import threading

work = sys.argv[1]
# A terminal sends these to all of its processes; what is to be done is the program's to say.
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, *sys.argv[2:]], stdin=subprocess.DEVNULL)
abandoned = threading.Event()


def watch():
    # Not sys.stdin: Python cannot end while a thread waits in that.
    while os.read(0, 4096):
        pass
    abandoned.set()
    child.kill()


threading.Thread(target=watch, daemon=True).start()
status = child.wait()
if abandoned.is_set():
    shutil.rmtree(work, ignore_errors=True)
sys.exit(status if status >= 0 else 1)
