"""Holds conversations with `frontier run` on a pseudo-terminal: terminal.py FRONTIER MODEL. Any surprise is an exception.

Runs in an empty directory that is also the home directory.
"""

import fcntl, os, pathlib, pty, select, struct, sys, termios, time

LIMIT_S = 60
UP, CTRL_C, CTRL_D = "\x1b[A", "\x03", "\x04"
READY = "\x1b[?2004h"  # Pasting is bracketed while a line is read.


class Conversation:
    def __init__(self, *arguments):
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "xterm"
            os.execv(sys.argv[1], ["frontier", "run", *arguments])
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
        self.seen = ""

    def wait_for(self, text):
        """Everything up to and with `text`, which must come."""
        end = time.monotonic() + LIMIT_S
        while text not in self.seen:
            ready, _, _ = select.select([self.terminal], [], [], max(0, end - time.monotonic()))
            if not ready:
                raise AssertionError(f"{text!r} did not come after {self.seen!r}")
            self.seen += os.read(self.terminal, 65536).decode(errors="replace")
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def say(self, text):
        os.write(self.terminal, text.encode())

    def ask(self, text):
        self.wait_for(READY)
        self.say(text + "\r")

    def end(self):
        self.wait_for(READY)
        self.say(CTRL_D)
        assert os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]) == 0


model = sys.argv[2]
question = "What is the capital of France?"

# Lines stay short: a terminal holds a few kilobytes of echo before both sides wait for one another.
talk = Conversation(model, "--temperature", "0", "--max-tokens", "16", "--max-seq-len", "512")
start = talk.wait_for("Ctrl-D ends")
assert "SmolLM2" in start and "/96." in start, f"no progress of loading: {start!r}"
talk.ask(question)
talk.wait_for("Paris")
talk.ask("word " * 200)
talk.wait_for("reading the prompt")
talk.ask("word " * 600)
talk.wait_for("do not fit the context of 512 tokens")
talk.ask("And what did I ask first?")  # An error has not spoilt the conversation.
talk.wait_for("first?")
talk.wait_for(READY)
talk.say(UP + CTRL_C)  # Ctrl-C at the prompt throws the line away and ends nothing.
talk.end()

talk = Conversation(model, "--temperature", "0", "--max-tokens", "16")
talk.wait_for(READY)
talk.say(UP * 4)
talk.wait_for(question)
talk.say("\r")
talk.wait_for("Paris")
talk.end()

histories = [path for path in pathlib.Path.home().rglob("history") if path.is_file()]
assert len(histories) == 1 and question in histories[0].read_text(), histories
