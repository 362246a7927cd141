"""Answers that cannot be read as a JSON-RPC message, by kind, with `@ID` for the id of the request."""

from __future__ import annotations

from typing import Final

OK: Final = b'{"jsonrpc":"2.0","id":@ID,"result":{"content":[{"type":"text","text":"%s"}]}}'
"""A message with a text in it."""
AT_END: Final = b'{"result":{"content":[{"type":"text","text":"%s"}]},"jsonrpc":"2.0","id":@ID}'
"""The same as servers in JavaScript write it."""
DEEP: Final = b'{"jsonrpc":"2.0","id":@ID,"result":{"content":[],"structuredContent":{"x":%s}}}'

SPOILT: Final[dict[str, tuple[bytes, str]]] = {
    "a byte of another encoding": (OK % b"M\xfcller", "invalid unicode code point"),
    "bytes of another encoding": (OK % "中文·".encode("gbk", "replace"), "invalid unicode code point"),
    "half a surrogate pair": (OK % rb"file\udcaf.txt", "surrogate"),
    "a colour": (OK % b"\x1b[31mred\x1b[0m", "control character"),
    "a tab": (OK % b"a\tb", "control character"),
    "a zero byte": (OK % b"a\0b", "control character"),
    "a colour before it": (b"\x1b[0m" + OK % b"x", "text before the JSON"),
    "text before it": (b"INFO done " + OK % b"x", "text before the JSON"),
    "an object in the text before it": (b'INFO {"id":77,"name":"x"} ' + OK % b"x", "text before the JSON"),
    "a level in brackets before it": (b"[INFO] done " + OK % b"x", "text before the JSON"),
    "text behind it": (OK % b"x" + b" done", "trailing characters"),
    "cut": ((OK % b"x")[:-3], "EOF while parsing"),
    "a string that is not closed": (AT_END.replace(b'%s"', b""), "invalid JSON"),
    "a batch of one": (b"[" + OK % b"x" + b"]", "it is not a JSON object"),
    "no result": (b'{"jsonrpc":"2.0","id":@ID}', "result: Field required"),
    "result: null": (b'{"jsonrpc":"2.0","id":@ID,"result":null}', "result: Input should be a valid dictionary"),
    "result that is a list": (b'{"jsonrpc":"2.0","id":@ID,"result":[]}', "result: Input should be a valid dictionary"),
    "error with a code that is a string": (
        b'{"jsonrpc":"2.0","id":@ID,"error":{"code":"ENOENT","message":"no such file"}}',
        "error.code: Input should be a valid integer",
    ),
    "error that is a string": (
        b'{"jsonrpc":"2.0","id":@ID,"error":"no such file"}',
        "error: Input should be a valid dictionary",
    ),
    "error without message": (b'{"jsonrpc":"2.0","id":@ID,"error":{"code":-32000}}', "error.message: Field required"),
    "no jsonrpc": (b'{"id":@ID,"result":{"content":[]}}', "jsonrpc: Field required"),
    "another jsonrpc": (b'{"jsonrpc":"1.0","id":@ID,"result":{"content":[]}}', "jsonrpc: Input should be '2.0'"),
    "an id that is no integer": (b'{"jsonrpc":"2.0","id":@ID.0,"result":{"content":[]}}', "id.int: Input should be"),
    "nested too deep": (DEEP % (b"[" * 300 + b"]" * 300), "recursion limit"),
    "nested far too deep": (DEEP % (b"[" * 100_000 + b"]" * 100_000), "recursion limit"),
}
"""Answers to a request, and a part of what is said of each."""
NO_ANSWERS: Final[dict[str, bytes]] = {
    "words": b"this is not JSON {[",
    "a request in a log": b'got {"jsonrpc":"2.0","id":@ID,"method":"tools/call","params":{}}',
    "a request without jsonrpc": b'{"id":@ID,"method":"tools/call"}',
    "a record of a log": b'{"level":"info","id":@ID,"msg":"calling"}',
    "the id within a result": b'{"result":{"structuredContent":{"id":@ID}},"error":',
    "the id of no call": b'{"id":123456,"result":{}}',
    "true for an id": b'{"id":true,"result":{}}',
    "null for an id": b'{"jsonrpc":"2.0","id":null,"result":{}}',
    "a list for an id": b'{"id":[@ID],"result":{}}',
    "pretty-printed": b'{\n "jsonrpc": "2.0",\n "id": @ID,\n "result": {\n  "content": []\n }\n}',
}
"""What is no answer, though it may name the id of a request."""
READABLE: Final[dict[str, bytes]] = {
    "as it should be": OK % b"fine",
    "behind a byte order mark": b"\xef\xbb\xbf" + OK % b"fine",
    "with the end of a line as on Windows": OK % b"fine" + b"\r",
    "with error: null": (OK % b"fine")[:-1] + b',"error":null}',
    "with the id as a string": (OK % b"fine").replace(b"@ID", b'"@ID"'),
    "as servers in JavaScript write it": AT_END % b"fine",
}
"""What is read as an answer."""


def with_id(data: bytes, request_id: int) -> bytes:
    """An answer to a request."""
    return data.replace(b"@ID", str(request_id).encode())
