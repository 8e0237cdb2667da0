#!/usr/bin/env python3
"""A STOMP client of the standard library alone, against a listener.

stomp.py HOST PORT DESTINATION USER PASSWORD

It sends over 1.0, 1.1 and 1.2 with receipts, in a transaction, pipelined, and with a
wrong password, and prints one line for what worked. It exits with 1 at the first thing
that did not.
"""
import socket
import sys

host, port, destination, user, password = sys.argv[1:6]
ESCAPES = {"1.0": "", "1.1": "\\\n:", "1.2": "\\\n:\r"}
NAMES = {"\\": "\\\\", "\n": "\\n", ":": "\\c", "\r": "\\r"}


def escape(version, text):
    return "".join(NAMES[c] if c in ESCAPES[version] else c for c in text)


class Client:
    def __init__(self, version, secret=password):
        self.version = version
        self.sock = socket.create_connection((host, int(port)), 10)
        self.buffer = b""
        accept = "" if version == "1.0" else "accept-version:%s\n" % version
        self.raw(("CONNECT\n%shost:%s\nlogin:%s\npasscode:%s\n\n\0" % (accept, host, user, secret)).encode())
        self.hello = self.frame()

    def raw(self, data):
        self.sock.sendall(data)

    def send(self, command, headers, body=b""):
        out = command + "\n"
        for name, value in headers:
            out += escape(self.version, name) + ":" + escape(self.version, value) + "\n"
        self.raw(out.encode() + b"\n" + body + b"\0")

    def frame(self):
        """Returns command and headers of the next frame, or None at the end."""
        while True:
            data = self.buffer.lstrip(b"\r\n")
            end = data.find(b"\0")
            if end >= 0:
                self.buffer = data[end + 1:]
                head = data[:end].split(b"\n\n", 1)[0].decode().split("\n")
                return head[0], dict(line.split(":", 1) for line in reversed(head[1:]))
            more = self.sock.recv(65536)
            if not more:
                return None
            self.buffer += more

    def expect(self, receipt):
        got = self.frame()
        check(got == ("RECEIPT", {"receipt-id": receipt}), "receipt %s, got %r" % (receipt, got))


def check(ok, what):
    if not ok:
        print("failed: " + what)
        sys.exit(1)


for version in "1.0", "1.1", "1.2":
    c = Client(version)
    check(c.hello and c.hello[0] == "CONNECTED" and c.hello[1].get("version", "1.0") == version, "connect %s: %r" % (version, c.hello))
    c.send("SEND", [("destination", destination), ("receipt", "one"), ("v", version), ("kind", "text")], b"text")
    c.expect("one")
    body = b"\0binary\n\0"
    c.send("SEND", [("destination", destination), ("receipt", "two"), ("v", version), ("kind", "bytes"), ("content-length", str(len(body)))], body)
    c.expect("two")
    if version != "1.0":
        c.send("SEND", [("destination", destination), ("receipt", "three"), ("v", version), ("kind", "escaped"), ("a:b", "c:\\\nd")], b"")
        c.expect("three")
    for i in range(100):
        c.send("SEND", [("destination", destination), ("receipt", "p%d" % i), ("v", version), ("kind", "pipelined")], b"%d" % i)
    for i in range(100):
        c.expect("p%d" % i)
    c.send("BEGIN", [("transaction", "t")])
    for i in range(3):
        c.send("SEND", [("destination", destination), ("transaction", "t"), ("v", version), ("kind", "committed")], b"%d" % i)
    c.send("COMMIT", [("transaction", "t"), ("receipt", "commit")])
    c.expect("commit")
    c.send("BEGIN", [("transaction", "t")])
    c.send("SEND", [("destination", destination), ("transaction", "t"), ("v", version), ("kind", "aborted")], b"")
    c.send("ABORT", [("transaction", "t"), ("receipt", "abort")])
    c.expect("abort")
    c.send("DISCONNECT", [("receipt", "bye")])
    c.expect("bye")
    check(c.frame() is None, "the connection stays open after DISCONNECT")
    print("sent with " + version)

c = Client("1.2", password + "x")
check(c.hello and c.hello[0] == "ERROR", "a wrong password: %r" % (c.hello,))
check(c.frame() is None, "the connection stays open after ERROR")
print("refused the wrong password")

c = Client("1.2")
c.send("SUBSCRIBE", [("destination", destination), ("id", "0")])
got = c.frame()
check(got and got[0] == "ERROR", "SUBSCRIBE: %r" % (got,))
print("refused SUBSCRIBE")
