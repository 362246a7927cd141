"""Reads a configuration file of an MCP host."""

from __future__ import annotations

from mcp_pool.config.loaded import Inputs, LoadedConfig, Source


def load_config(source: Source, *, inputs: Inputs | None = None, strict: bool = False) -> LoadedConfig:
    """Read a configuration file of an MCP host as it is: what the file calls a server becomes a spec.

    The servers are in `mcpServers` (Claude Desktop, Claude Code, Cursor, Windsurf, Gemini CLI, Qwen), `servers` (VS
    Code) or `mcp` (opencode). Comments and trailing commas are accepted. See docs/config.md for all keys.

    Args:
        source: The path of the file, or its content as a mapping.
        inputs: The answers to `${input:ID}`: a mapping, or a function of the id.
        strict: Whether an invalid entry is an error. By default, it becomes one server that fails to connect.

    Raises:
        ConfigError: The file cannot be read, is not JSON, or has no servers; or, if strict, an entry is invalid.
    """
    # Loaded here: its models would take a tenth of the time of `import mcp_pool`.
    from mcp_pool.config.files.load import load  # noqa: PLC0415

    loaded = load(source, inputs)
    if strict:
        loaded.check()
    return loaded
