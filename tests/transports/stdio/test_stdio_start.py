"""What a stdio server is started with, and how its start can fail."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from subprocess import Popen
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from mcp.client.stdio import DEFAULT_INHERITED_ENV_VARS

from helpers.common import eventually
from helpers.stdio import ROOM, connected, failed, methods, process_id, program, server, text
from mcp_pool import (
    BackingOff,
    ConnectError,
    ConnectionStatus,
    ConnectTimeout,
    Failed,
    MCPPool,
    RestartPolicy,
    StdioServer,
)
from mcp_pool.transports.tracked_streams import TrackedWriteStream
from servers import read_lines

if TYPE_CHECKING:
    from collections.abc import Iterator


def descriptors() -> list[Path]:
    """The descriptors of this process, including the one of the listing itself."""
    return list(Path("/dev/fd").iterdir())


async def connect_error(config: StdioServer, **settings: Any) -> ConnectError:
    """Connect to a server that cannot be connected, and return the error."""
    async with MCPPool(**settings) as pool:
        with pytest.raises(ConnectError) as caught:
            await pool.connect("a", config)
        assert pool.get_status("a") is ConnectionStatus.ERROR
        assert not pool.servers
        return caught.value


# What a server is started with


async def test_a_server_gets_the_safe_variables_and_those_of_its_spec_and_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NOT_FOR_SERVERS", "private")
    # LC_ALL keeps Python from choosing a locale and setting a variable for it.
    given = {"LC_ALL": "C.UTF-8", "HOME": "/nowhere", "ONE_MORE": "more = more"}
    async with MCPPool() as pool:
        await pool.connect("a", server(env=given))
        seen = json.loads(text(await pool.call_tool("a__environment")))
    safe = {name: os.environ[name] for name in DEFAULT_INHERITED_ENV_VARS if name in os.environ}
    assert seen == safe | given


async def test_a_server_runs_in_the_directory_of_its_spec(tmp_path: Path) -> None:
    async with MCPPool() as pool:
        await pool.connect("a", server(cwd=tmp_path))
        await pool.connect("b", server())
        assert text(await pool.call_tool("a__directory")) == str(tmp_path)
        assert text(await pool.call_tool("b__directory")) == str(Path.cwd())


async def test_arguments_reach_the_program_unchanged() -> None:
    arguments = ["", "two words", "$HOME", "*", "--", "'\"\\", "new\nline", "Grüße"]
    code = "import sys; sys.stderr.write(ascii(sys.argv[1:])); sys.exit(3)"
    error = await connect_error(program(code, *arguments))
    assert error.stderr_tail == ascii(arguments)


async def test_a_server_leads_a_process_group_and_a_session_of_its_own() -> None:
    async with MCPPool() as pool:
        await pool.connect("a", server())
        pid = process_id(pool, "a")
        assert os.getpgid(pid) == os.getsid(pid) == pid


@pytest.fixture
def inheritable() -> Iterator[None]:
    """Open a descriptor that child processes inherit unless it is closed in them."""
    with Path(os.devnull).open() as file:
        os.set_inheritable(file.fileno(), True)
        yield


@pytest.mark.usefixtures("inheritable")
async def test_a_server_gets_no_descriptor_but_its_three_pipes() -> None:
    code = "import os, sys; sys.stderr.write(str(sorted(map(int, os.listdir('/dev/fd'))))); sys.exit(3)"
    error = await connect_error(program(code))
    assert json.loads(error.stderr_tail) in ([0, 1, 2], [0, 1, 2, 3])  # the listing itself may need one


async def test_a_server_that_starts_slowly_is_waited_for() -> None:
    async with MCPPool(connect_timeout=30) as pool:
        assert await pool.connect("a", server("--slow-start", "0.5"))
        assert text(await pool.call_tool("a__echo", {"text": "there"})) == "there"


# Programs that cannot be started


@pytest.fixture
def plain_file(tmp_path: Path) -> Path:
    file = tmp_path / "file"
    file.write_text("no program")
    return file


@pytest.fixture
def no_format(tmp_path: Path) -> Path:
    file = tmp_path / "executable"
    file.write_bytes(b"\x7fnot a format")
    file.chmod(0o755)
    return file


def test_the_plain_file_of_the_next_tests_is_executable_by_nobody(plain_file: Path) -> None:
    assert not plain_file.stat().st_mode & 0o111


@pytest.mark.parametrize("case", ["no such program", "no such directory", "not executable", "a directory", "no format"])
async def test_a_program_that_cannot_be_started_has_failed_and_says_why(
    case: str, tmp_path: Path, plain_file: Path, no_format: Path
) -> None:
    config, word = {
        "no such program": (StdioServer("no-such-program-anywhere"), "no-such-program-anywhere"),
        "no such directory": (server(cwd=tmp_path / "missing"), "missing"),
        "not executable": (StdioServer(str(plain_file)), "file"),
        "a directory": (StdioServer(str(tmp_path)), tmp_path.name),
        "no format": (StdioServer(str(no_format)), "Exec format"),
    }[case]
    async with MCPPool() as pool:
        pool.add("a", config)
        await failed(pool, "a")
        state = pool.server("a").state
        assert isinstance(state, Failed)
        assert isinstance(state.error, ConnectError)
        assert (state.error.retryable, state.error.phase, state.error.attempt) == (False, "spawn", 1)
        assert isinstance(state.error.cause, OSError)
        assert word in str(state.error)
        assert "'a'" in str(state.error)


async def test_connect_raises_if_the_program_cannot_be_started() -> None:
    error = await connect_error(StdioServer("no-such-program-anywhere"))
    assert not error.retryable
    assert error.exit_status is None


async def test_a_failed_start_leaves_no_descriptor() -> None:
    async with MCPPool() as pool:
        before = len(descriptors())
        for _ in range(3):
            with pytest.raises(ConnectError):
                await pool.connect("a", StdioServer("no-such-program-anywhere"))
        assert len(descriptors()) == before


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM])
async def test_a_start_that_may_succeed_later_is_tried_again(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = 0

    def fail_once(*args: Any, **kwargs: Any) -> Popen[bytes]:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise OSError(number, os.strerror(number))
        return Popen(*args, **kwargs)

    monkeypatch.setattr("mcp_pool.transports.stdio.process.Popen", fail_once)
    async with MCPPool(restart=RestartPolicy(initial_delay=1, jitter=0)) as pool:
        pool.add("a", server())
        await failed(pool, "a")
        state = pool.server("a").state
        assert isinstance(state, BackingOff)
        assert isinstance(state.error, ConnectError)
        assert state.error.retryable
        assert f"{os.strerror(number)}. " in str(state.error)
        await connected(pool, "a")


async def test_a_start_that_fails_for_lack_of_pipes_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    make_pipe, made = os.pipe, 0

    def fail_at_third() -> tuple[int, int]:
        nonlocal made
        made += 1
        if made == 3:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return make_pipe()

    async with MCPPool() as pool:
        before = len(descriptors())
        with monkeypatch.context() as patched:
            patched.setattr(os, "pipe", fail_at_third)
            with pytest.raises(ConnectError) as caught:
                await pool.connect("a", server())
        assert caught.value.retryable
        assert len(descriptors()) == before


# Servers that start but do not connect


async def test_the_error_for_a_server_that_exits_at_once_shows_its_stderr_and_exit_status() -> None:
    error = await connect_error(server("--exit-at-start", "3", "--say", "no database here"))
    assert (error.exit_status, error.stderr_tail, error.phase) == (3, "no database here", "initialize")
    assert not isinstance(error, ConnectTimeout)
    for part in ("'a'", "exited with status 3", "initialize", "no database here"):
        assert part in str(error)


@pytest.mark.parametrize(("mode", "phase"), [("auto", "initialize"), ("legacy", "initialize"), ("2026-07-28", "list")])
async def test_a_server_that_exits_before_the_first_request_is_sent_fails_in_its_phase(
    mode: str, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(*_: object) -> None:
        await anyio.sleep_forever()

    monkeypatch.setattr(TrackedWriteStream, "send", hang)
    error = await connect_error(server("--exit-at-start", "3", mode=mode))
    assert (error.exit_status, error.phase) == (3, phase)


async def test_the_stderr_tail_includes_an_incomplete_line() -> None:
    error = await connect_error(program("import sys; sys.stderr.write('no database'); sys.exit(3)"))
    assert error.stderr_tail == "no database"


async def test_the_error_for_a_program_that_was_killed_at_its_start_names_the_signal() -> None:
    error = await connect_error(program("import os; os.kill(os.getpid(), 9)"))
    assert error.exit_status == -9
    assert "SIGKILL" in str(error)


@pytest.mark.parametrize(("mode", "phase"), [("auto", "discover"), ("legacy", "initialize")])
async def test_a_server_that_never_answers_is_given_up_after_connect_timeout(mode: str, phase: str) -> None:
    with anyio.fail_after(ROOM):
        error = await connect_error(server("--never-answer", mode=mode), connect_timeout=2.0)
    assert isinstance(error, ConnectTimeout)
    assert isinstance(error, TimeoutError)
    assert error.phase == phase
    assert "connect_timeout=2.0" in str(error)


async def test_the_time_out_of_a_server_that_ignores_discover_advises_legacy_mode() -> None:
    with anyio.fail_after(ROOM):
        error = await connect_error(server("--ignore-discover"), connect_timeout=2.0)
    assert 'mode="legacy"' in str(error)


async def test_a_loss_ends_an_attempt_before_its_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_pool.transports.channel.MAX_OPEN_SERVER_REQUESTS", 50)
    flood = 'while True: print(\'{"jsonrpc": "2.0", "id": 1, "method": "ping"}\')'
    with anyio.fail_after(ROOM):
        error = await connect_error(program(flood, mode="legacy", close_timeout=0.3), connect_timeout=60)
    assert not isinstance(error, ConnectTimeout)
    assert "without accepting the answers during initialize." in error.reason
    assert error.advice.startswith("Fix the server.")


async def test_a_server_behind_a_wrapper_that_runs_out_of_time_is_quoted_and_not_started_again(tmp_path: Path) -> None:
    """That the wrapper ended when the pool ended it is no evidence that the server exited by itself."""
    starts = tmp_path / "starts"
    waiting = f"echo begun >> {starts}; echo 'waiting for the database' >&2; sleep 1000; true"
    with anyio.fail_after(ROOM):
        error = await connect_error(StdioServer("sh", ["-c", waiting], close_timeout=0.2), connect_timeout=3)
    assert isinstance(error, ConnectTimeout)
    assert (error.phase, error.exit_status, error.stderr_tail) == ("discover", None, "waiting for the database")
    assert "connect_timeout=3" in error.reason
    assert 'mode="legacy"' in error.advice
    assert starts.read_text().split() == ["begun"]


async def test_an_error_in_the_handshake_is_not_hidden_by_the_exit_that_follows() -> None:
    error = await connect_error(server("--fail-list", mode="legacy"))
    assert "answered tools/list with error" in error.reason
    assert error.exit_status is None


@pytest.mark.parametrize(
    ("options", "discovers"),
    [
        pytest.param(["--ignore-discover"], 2, id="it did not answer in time"),
        pytest.param([], 1, id="it refused"),
        pytest.param(["--die-at-discover"], 1, id="it exited"),
    ],
)
async def test_a_protocol_is_remembered_only_if_the_server_said_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: list[str], discovers: int
) -> None:
    monkeypatch.setattr("mcp.client.session.DISCOVER_TIMEOUT_SECONDS", 0.5)
    ledger = tmp_path / "ledger"
    spec = server(*options, "--ledger", str(ledger), restart=RestartPolicy(initial_delay=0))
    async with MCPPool({"a": spec}) as pool:
        await pool.wait_ready()
        await pool.server("a").restart()
    assert [line["method"] for line in read_lines(ledger)].count("server/discover") == discovers


async def test_the_time_out_of_a_server_that_prompts_for_input_shows_the_prompt() -> None:
    code = "import sys, time; sys.stderr.write('Password: '); sys.stderr.flush(); time.sleep(1000)"
    error = await connect_error(program(code), connect_timeout=3, close_timeout=0.2)
    assert isinstance(error, ConnectTimeout)
    assert "Password:" in error.stderr_tail
    assert "Password:" in str(error)


async def test_the_time_out_of_a_server_that_writes_garbage_says_so() -> None:
    error = await connect_error(server("--garbage"), connect_timeout=3)
    assert isinstance(error, ConnectTimeout)
    assert "not JSON-RPC" in str(error)


@pytest.mark.parametrize(
    ("option", "phase", "words"),
    [("--fail-initialize", "initialize", "no handshake today"), ("--fail-list", "list", "the list is not available")],
)
async def test_an_error_response_in_the_handshake_is_shown(option: str, phase: str, words: str) -> None:
    error = await connect_error(server(option))
    assert error.phase == phase
    assert words in str(error)
    assert error.exit_status is None


@pytest.mark.parametrize("protocol", [(), ("--modern",)])
async def test_the_error_for_a_server_that_exits_during_the_listing_shows_its_stderr(protocol: tuple[str, ...]) -> None:
    error = await connect_error(server("--die-at-list", *protocol))
    assert (error.phase, error.exit_status, error.stderr_tail) == ("list", 7, "nobody lists me")


async def test_a_server_whose_listing_has_no_end_is_refused() -> None:
    error = await connect_error(server("--repeat-cursor"))
    assert error.phase == "list"
    assert "cursor" in str(error)


async def test_a_handshake_longer_than_the_limit_is_refused() -> None:
    error = await connect_error(server("--huge-at-start", "100001", max_message_size=100_000))
    assert error.phase == "initialize"
    assert "max_message_size=100000" in str(error)
    assert error.advice.startswith("Raise max_message_size")


async def test_a_server_that_closes_its_output_at_the_start_fails_at_once() -> None:
    code = "import os, sys; os.close(1); sys.stdin.read()"
    with anyio.fail_after(ROOM):
        error = await connect_error(program(code), connect_timeout=60)
    assert "closed its standard output" in str(error)


async def test_a_server_that_could_not_be_connected_can_be_connected_later(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with MCPPool() as pool:
        with pytest.raises(ConnectError):
            await pool.connect("a", program("import sys; sys.exit(3)"))
        assert await pool.connect("a", server("--ledger", str(ledger)))
        await eventually(lambda: methods(ledger)[-1][-1] == "tools/list")


async def test_a_failed_start_disturbs_no_other_server() -> None:
    servers = {"good": server(), "dead": program("import sys; sys.exit(3)"), "missing": StdioServer("no-such-program")}
    async with MCPPool(servers, restart=RestartPolicy(initial_delay=1000, max_delay=1000)) as pool:
        assert text(await pool.call_tool("good__echo", {"text": "fine"})) == "fine"
        assert pool.connected_count == 1
        assert isinstance(pool.server("dead").state, BackingOff)
