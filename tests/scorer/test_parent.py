"""The parent with real processes: starts, restarts, drains, leaves nobody behind.

The serving processes here are small programs that speak on the link as the scorer's own do and serve a line of
text on the shared port; `test_scorer_process.py` has the scorer as a whole.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gdmix_core.errors import Unavailable, UsageError
from gdmix_scorer.held_port import HeldPort
from gdmix_scorer.restarts import MAX_EARLY_DEATHS, MAX_SECONDS, RestartPolicy

PATIENCE_SECONDS = 30.0

CHILD = """
    import asyncio, os, signal, sys
    from gdmix_scorer.child_link import ChildLink, Snapshot
    from gdmix_scorer.metrics import ScorerMetrics

    link = ChildLink(int(sys.argv[sys.argv.index("--parent-fd") + 1]))
    settings = link.read_settings()
    mode = settings["mode"]
    if mode == "usage":
        link.report("failed", message="--store: makes no sense", exit_code=2)
        sys.exit(2)
    if mode == "crash":
        print("cannot go on", file=sys.stderr)
        sys.exit(7)

    async def main():
        metrics, ending = ScorerMetrics(), asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, ending.set)
        link.when_parent_ends(lambda: loop.call_soon_threadsafe(ending.set))

        async def serve(reader, writer):
            metrics.request("movies", 1, "OK", "columnar", 10)
            metrics.phase("total", 0.001)
            metrics.in_flight.inc()
            writer.write(f"{os.getpid()}\\n".encode())
            word = (await reader.readline()).strip()
            if word == b"hang":
                import time
                time.sleep(3600)
            if word == b"slow":
                await ending.wait()
                writer.write(b"finished\\n")
            metrics.in_flight.dec()
            writer.close()

        server = await asyncio.start_server(
            serve, settings["host"], settings["port"], reuse_port=True, reuse_address=True
        )
        version = {"model": "movies", "version": 1, "state": "AVAILABLE", "active": True}
        link.answer_with(lambda: Snapshot(True, [version], metrics.snapshot()))
        link.report("listening", port=settings["port"])
        link.report("ready")
        await ending.wait()
        server.close()
        if mode == "stubborn":
            await asyncio.Event().wait()
        while metrics.in_flight.value:
            await asyncio.sleep(0.01)

    asyncio.run(main())
"""

PARENT = """
    import asyncio, json, logging, sys
    from gdmix_core.errors import GdmixError
    from gdmix_core.logs import configure_logging
    from gdmix_core.parent_link import ParentLink
    from gdmix_scorer.parent import Parent, ParentSettings

    child, descriptor, options, mode = sys.argv[1:]
    configure_logging("scorer")
    parent = Parent(
        ParentSettings(**json.loads(options)),
        lambda number, host, port: {"number": number, "host": host, "port": port, "mode": mode},
        ParentLink(int(descriptor)),
        [sys.executable, child],
    )
    try:
        asyncio.run(parent.run())
    except GdmixError as error:
        print(f"scorer: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
"""


class Running:
    """A parent that runs, and how to talk to it."""

    def __init__(self, process, reports, link):
        self.process, self.link, self._reports = process, link, reports
        self.port = self.admin_port = 0

    def report(self):
        return json.loads(next(self._reports))

    def wait_until_ready(self):
        listening = self.report()
        assert listening["event"] == "listening"
        self.port, self.admin_port = listening["port"], listening["admin_port"]
        assert self.report() == {"event": "ready"}

    def get(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def status(self):
        return json.loads(self.get("/status")[1])

    def pids(self):
        return [child["pid"] for child in self.status()["children"]]

    def count(self, name, **labels):
        found = [
            sample.value
            for family in text_string_to_metric_families(self.get("/metrics")[1])
            for sample in family.samples
            if sample.name == f"gdmix_scorer_{name}" and labels.items() <= sample.labels.items()
        ]
        return sum(found)

    def connect(self):
        connection = socket.create_connection(("127.0.0.1", self.port), PATIENCE_SECONDS)
        lines = connection.makefile("r")
        return connection, lines, int(lines.readline())

    def ask(self):
        """Return the process that answers."""
        connection, lines, pid = self.connect()
        with connection, lines:
            connection.sendall(b"\n")
        return pid


@contextmanager
def scorer(tmp_path: Path, mode: str = "", **options):
    child, parent = tmp_path / "child.py", tmp_path / "parent.py"
    child.write_text(textwrap.dedent(CHILD))
    parent.write_text(textwrap.dedent(PARENT))
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE_SECONDS)
    command = [sys.executable, parent, child, str(theirs.fileno()), json.dumps(options), mode]
    process = subprocess.Popen(command, pass_fds=(theirs.fileno(),), stderr=subprocess.PIPE, text=True)
    theirs.close()
    try:
        with ours, ours.makefile("r") as reports:
            yield Running(process, reports, ours)
    finally:
        with suppress(psutil.NoSuchProcess):
            for each in psutil.Process(process.pid).children():
                each.kill()
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stderr.close()


def until(condition, seconds: float = PATIENCE_SECONDS):
    """Ask again and again until the answer is a truth."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return found


def test_all_processes_serve_on_one_port_and_are_seen_as_one(tmp_path):
    with scorer(tmp_path, processes=2) as running:
        running.wait_until_ready()
        assert running.get("/healthz") == (200, "ok\n")
        assert running.get("/readyz") == (200, "ready\n")
        status = running.status()
        assert status["pid"] == running.process.pid
        assert (status["port"], status["ready"], status["draining"]) == (running.port, True, False)
        assert [child["state"] for child in status["children"]] == ["ready", "ready"]
        assert status["children"][0]["versions"][0]["version"] == 1
        pids = set(running.pids())
        asked = 0
        answered = set()
        while answered != pids:  # the kernel spreads connections; a few are enough for both
            answered.add(running.ask())
            asked += 1
            assert asked < 200
        assert until(lambda: running.count("requests_total", outcome="OK") == asked)
        assert running.count("phase_seconds_count", phase="total") == asked
        assert running.count("active_version") == 0
        assert running.count("child_serving") == 2


def test_a_killed_process_is_started_again_and_requests_go_on(tmp_path):
    with scorer(tmp_path, processes=2) as running:
        running.wait_until_ready()
        for _ in range(10):
            running.ask()
        assert until(lambda: running.count("requests_total") == 10)
        victim, other = running.pids()
        os.kill(victim, signal.SIGKILL)
        until(lambda: victim not in running.pids())
        assert until(lambda: running.ask() == other)
        until(lambda: running.get("/readyz")[0] == 200 and None not in running.pids())
        new, same = running.pids()
        assert same == other
        assert until(lambda: running.ask() == new)
        child = running.status()["children"][0]
        assert child["restarts"] == 1
        assert child["last_end"] == "was killed by SIGKILL"
        assert running.count("requests_total") >= 12  # those of the dead one still count
        assert running.count("child_restarts_total", child="0") == 1


def test_a_process_whose_loop_does_not_turn_is_replaced(tmp_path):
    with scorer(tmp_path, processes=1, hung_seconds=1.0) as running:
        running.wait_until_ready()
        connection, lines, pid = running.connect()
        with connection, lines:
            connection.sendall(b"hang\n")
            until(lambda: running.pids() not in ([pid], [None]))
        assert running.status()["children"][0]["last_end"] == "was killed by SIGKILL"


@pytest.mark.parametrize("ending", ["SIGTERM", "SIGINT", "parent"])
def test_told_to_end_it_finishes_what_is_under_way(tmp_path, ending):
    with scorer(tmp_path, processes=2) as running:
        running.wait_until_ready()
        pids = running.pids()
        connection, lines, _ = running.connect()
        with connection, lines:
            connection.sendall(b"slow\n")
            if ending == "parent":
                running.link.shutdown(socket.SHUT_WR)
            else:
                running.process.send_signal(getattr(signal, ending))
            assert lines.readline() == "finished\n"
        assert running.process.wait(PATIENCE_SECONDS) == 0
        assert not any(psutil.pid_exists(pid) for pid in pids)
        with HeldPort("127.0.0.1", running.port):
            pass


def test_a_process_that_does_not_end_is_ended(tmp_path):
    with scorer(tmp_path, "stubborn", drain_seconds=0.0) as running:
        running.wait_until_ready()
        (pid,) = running.pids()
        running.process.terminate()
        assert running.process.wait(PATIENCE_SECONDS) == 0
        assert not psutil.pid_exists(pid)


def test_the_second_signal_ends_at_once(tmp_path):
    with scorer(tmp_path, "stubborn", drain_seconds=3600.0) as running:
        running.wait_until_ready()
        running.process.terminate()
        until(lambda: running.get("/readyz") == (503, "draining\n"))
        running.process.terminate()
        assert running.process.wait(PATIENCE_SECONDS) == 0


def test_a_killed_parent_leaves_no_orphans(tmp_path):
    with scorer(tmp_path, processes=2) as running:
        running.wait_until_ready()
        children = psutil.Process(running.process.pid).children()
        running.process.kill()
        running.process.wait()
        _, alive = psutil.wait_procs(children, PATIENCE_SECONDS)
        assert not alive


def test_processes_that_never_listen_end_the_scorer_with_their_log(tmp_path):
    with scorer(tmp_path, "crash", processes=2) as running:
        assert running.process.wait(PATIENCE_SECONDS) == 3
        said = running.process.stderr.read()
    assert "ended with exit status 7; the end of its log:\n    cannot go on\n" in said


def test_a_mistake_is_reported_once_and_not_tried_again(tmp_path):
    with scorer(tmp_path, "usage") as running:
        assert running.process.wait(PATIENCE_SECONDS) == 2
        assert running.process.stderr.read().splitlines() == ["scorer: --store: makes no sense"]


class TestHeldPort:
    def test_two_scorers_do_not_share_a_port(self):
        with HeldPort("127.0.0.1", 0) as first:
            assert first.port > 0
            with pytest.raises(Unavailable, match=f"cannot listen on 127.0.0.1:{first.port}: it is in use"):
                HeldPort("127.0.0.1", first.port)

    def test_a_name_becomes_an_address(self):
        with HeldPort("localhost", 0) as held:
            assert held.host in {"127.0.0.1", "::1"}

    def test_it_takes_no_connections(self):
        with HeldPort("127.0.0.1", 0) as held, pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", held.port), 5)

    @pytest.mark.parametrize("host", ["", "no such host"])
    def test_hosts_without_address(self, host):
        with pytest.raises(UsageError, match="--host"):
            HeldPort(host, 0)

    def test_addresses_of_others(self):
        with pytest.raises(Unavailable, match=r"cannot listen on 192\.0\.2\.1:0"):
            HeldPort("192.0.2.1", 0)


class TestRestartPolicy:
    def test_the_first_death_after_serving_costs_no_time(self):
        policy = RestartPolicy()
        assert policy.died(5.0, listened=True, others_listen=False) == 0.0

    def test_short_lives_wait_longer_and_longer(self):
        policy = RestartPolicy()
        delays = [policy.died(1.0, listened=True, others_listen=False) for _ in range(12)]
        assert delays == sorted(delays)
        assert delays[-1] == MAX_SECONDS
        assert policy.died(3600.0, listened=True, others_listen=False) == 0.0
        assert policy.deaths == 13

    def test_it_gives_up_only_when_nobody_answers(self):
        alone, accompanied = RestartPolicy(), RestartPolicy()
        ends = [alone.died(0.1, listened=False, others_listen=False) for _ in range(MAX_EARLY_DEATHS)]
        assert None not in ends[:-1]
        assert ends[-1] is None
        for _ in range(20):
            assert accompanied.died(0.1, listened=False, others_listen=True) is not None


class TestCommandLine:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--host", "0.0.0.0"), "can be reached from other machines"),
            (("--tls-cert", "x.pem"), "--tls-cert and --tls-key go together"),
            (("--tls-cert", "x.pem", "--tls-key", "y.pem"), "--tls-cert x.pem: cannot be read"),
            (("--tls-client-ca", "x.pem"), "--tls-client-ca needs"),
            (("--port", "70000"), "--port: found 70000; allowed are 0 to 65535"),
            (("--admin-port", "-1"), "--admin-port: found -1"),
            (("--store", "ftp://x"), "--store: found 'ftp://x'"),
            (("--token-file", "/nowhere/tokens"), "cannot be read: No such file"),
            (("--access-log", "/nowhere/log"), "its directory does not exist"),
        ],
    )
    def test_mistakes_are_one_line_and_exit_code_2(self, capsys, arguments, message):
        from gdmix_scorer.__main__ import main

        assert main(["--store", "lmdb:/nowhere/store", *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("scorer: ")
        assert message in line

    @pytest.mark.parametrize(
        "arguments",
        [
            (),
            ("--store", "lmdb:x", "--processes", "0"),
            ("--store", "lmdb:x", "--cache-mb", "-1"),
            ("--store", "lmdb:x", "--access-log-sample", "1.5"),
            ("--store", "lmdb:x", "--drain-seconds", "nan"),
            ("--store", "lmdb:x", "--on-store-failure", "zero"),
        ],
    )
    def test_values_that_are_not_allowed(self, capsys, arguments):
        from gdmix_scorer.__main__ import main

        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 2
        assert "gdmix-cli scorer: error:" in capsys.readouterr().err

    def test_each_process_has_an_access_log_of_its_own(self):
        from gdmix_scorer.__main__ import access_log_of_child

        assert access_log_of_child(Path("logs/access.jsonl"), 3) == Path("logs/access.3.jsonl")
        assert access_log_of_child(Path("logs/access"), 0) == Path("logs/access.0")

    def test_a_serving_process_without_a_parent_ends_at_once(self):
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "gdmix_scorer", "--child", "--parent-fd", str(theirs.fileno())]
        with subprocess.Popen(command, pass_fds=(theirs.fileno(),), stderr=subprocess.DEVNULL) as process:
            theirs.close()
            ours.close()
            assert process.wait(PATIENCE_SECONDS) == 3

    def test_help_is_light_and_the_parent_too(self):
        script = (
            "import sys, contextlib, io, gdmix_scorer.__main__ as m\n"
            "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
            "    m.main(['--help'])\n"
            "light = [n for n in ('asyncio', 'numpy', 'grpc', 'prometheus_client') if n in sys.modules]\n"
            "import gdmix_scorer.parent\n"
            "print(light, [n for n in ('numpy', 'grpc', 'numba', 'pyarrow', 'redis') if n in sys.modules])"
        )
        found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert found.stdout.strip() == "[] []"
