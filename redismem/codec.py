"""Values to bytes and back, exactly: what `encode` accepts, `decode` gives back, type included.

An `int` is its decimal text, which HINCRBY works on and redis-cli shows. Every other value is one bare msgpack
document with these extension types, and no others:

====  ===========  ====================================================================================
code  type         payload
====  ===========  ====================================================================================
-1    datetime     in `timezone.utc`: the standard msgpack timestamp
1     int          beyond 64 bits in a container, or too long for decimal text: two's complement, big-endian
2     tuple        msgpack array
3     set          msgpack array, sorted by the elements' bytes
4     frozenset    the same
5     date         ISO 8601
6     datetime     any other: ISO 8601, with `[Area/City]` (RFC 9557) for a `ZoneInfo`, `[_fold=1]` for fold
7     UUID         16 bytes
8     Decimal      its text
9     ndarray      msgpack array of `dtype.str`, shape and the elements in C order
====  ===========  ====================================================================================

A code stands for one fixed type: data never names a class. Subclasses of a stored type are refused, for they would
come back as something else. One thing does: the time zone of a datetime that pydantic has read from text, which comes
back as the `timezone` of the same offset. A document of at least `compress_threshold` bytes may be one whole zstd or
gzip frame, told by its magic number, with which no msgpack document that is written here begins.

Neither direction trusts its input: depth, size and memory are bounded, and only `EncodeError` and `DecodeError`
get out.
"""

# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# (msgpack ships no types)

import math
import re
import reprlib
import sys
import threading
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, is_dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Context, Decimal, InvalidOperation
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NoReturn
from uuid import UUID
from zoneinfo import ZoneInfo

from msgpack import ExtType, Packer, Timestamp, Unpacker, unpackb
from pydantic_core import TzInfo

from redismem.errors import ConfigError, DecodeError, EncodeError, LimitExceeded

try:
    import zstandard
except ImportError:
    zstandard = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from numpy import ndarray

MAX_DEPTH = 100
"""How many containers may hold one another; small enough for a thread with a stack of 256 KiB."""

MAX_DIGITS = 20_000
"""The longest integer that is stored as decimal text; converting longer ones takes long enough to be a weapon."""

_INTEGER = re.compile(rb"0|-?[1-9][0-9]{0,%d}" % (MAX_DIGITS - 1))
_DECIMAL_END = 10**MAX_DIGITS
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DATETIME = re.compile(r"([^\[\]]+)(?:\[([^\[\]=]+)\])?(\[_fold=1\])?")
_EXACT = Context(traps=[InvalidOperation])  # a caller's own context must change neither text nor strictness

_SCALARS = frozenset({str, bytes, int, float, bool, type(None)})
_CONTAINERS = frozenset({dict, list, tuple, set, frozenset})
_LOOKALIKES = frozenset({bytearray, memoryview, ExtType, Timestamp})  # msgpack packs them as something else
_STORED: tuple[type, ...] = (int, float, str, bytes, *_CONTAINERS, datetime, date, UUID, Decimal)
_DTYPES = frozenset(
    [
        *("|b1", "|i1", "|u1"),
        *("<i2", "<i4", "<i8", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8", "<c8", "<c16"),
        *(">i2", ">i4", ">i8", ">u2", ">u4", ">u8", ">f2", ">f4", ">f8", ">c8", ">c16"),
    ]
)


@dataclass(frozen=True, slots=True)
class Codec:
    """Encodes and decodes values. One codec may serve any number of threads.

    `compress_threshold`
        documents of at least so many bytes are compressed where that pays; `None`: never.
    `compression`
        `"zstd"` (needs the `zstd` extra, else `ConfigError`), `"gzip"`, `"off"`, or `"auto"`: zstd where
        it is installed, else gzip, and beyond 1 MiB only where it costs little time. Reading does not depend on it.
    `max_value_bytes`
        the largest document, before compression and after decompression.
    """

    compress_threshold: int | None = 4096
    compression: Literal["auto", "zstd", "gzip", "off"] = "auto"
    max_value_bytes: int = 64 * 1024 * 1024

    def __post_init__(self) -> None:
        if self.compression not in ("auto", "zstd", "gzip", "off"):
            raise ConfigError(f"compression is 'auto', 'zstd', 'gzip' or 'off', not {self.compression!r}")
        if self.compression == "zstd" and zstandard is None:
            raise ConfigError("compression='zstd' needs zstandard: install redismem[zstd]")
        if self.compress_threshold is not None and self.compress_threshold < 0:
            raise ConfigError("compress_threshold is a number of bytes, or None")
        if self.max_value_bytes < 1:
            raise ConfigError("max_value_bytes is a positive number of bytes")

    def encode(self, value: object) -> bytes:
        """The bytes of `value`; `EncodeError` with the path of the first part that has no exact stored form.

        `LimitExceeded` for a document longer than `max_value_bytes`.

        Equal sets give equal bytes. Dicts keep their order, so equal dicts of different order do not.
        """
        if type(value) is int and -_DECIMAL_END < value < _DECIMAL_END:
            document, threshold = _digits(value), None
        else:
            try:
                document, threshold = _document(value), self.compress_threshold
            except Exception as error:
                raise _fault(value, error) from None
        if len(document) > self.max_value_bytes:
            raise LimitExceeded(
                f"the value takes {len(document)} bytes, more than max_value_bytes={self.max_value_bytes}: "
                "store less, or raise the limit"
            )
        if threshold is not None and len(document) >= threshold:
            return self._compressed(document)
        return document

    def decode(self, data: bytes) -> Any:
        """The value whose bytes are `data`; `DecodeError`, which names no key yet, when there is none."""
        try:
            if len(data) > self.max_value_bytes:
                raise ValueError(f"{len(data)} bytes are more than max_value_bytes={self.max_value_bytes}")
            if data and data[0] < 0x80:
                if data[0] in b"-0123456789":
                    return _number(data)
                data = self._decompressed(data)
            return _value(data)
        except Exception as error:  # whatever hostile bytes make the C extensions raise
            raise DecodeError(f"cannot be read: {str(error) or type(error).__name__}") from error

    def reader(self, data: bytes) -> Callable[[], Any]:
        """`decode` again and again, without checks, of bytes that it has read before."""
        if data[0] < 0x80:
            return partial(self.decode, data)
        return partial(unpackb, data, ext_hook=_read, strict_map_key=False, timestamp=3)

    def _compressed(self, document: bytes) -> bytes:
        """`document` as a frame, or as it is where a frame would save too little.

        Beyond 1 MiB `auto` counts time more than memory: saving and loading must not take much longer than SET and
        GET of the bytes would. Only zstd's fast levels keep up with that, on documents that shrink very well, which a
        sample shows.
        """
        with_zstd = zstandard is not None and self.compression != "gzip"
        compress: Callable[[bytes], bytes]
        if self.compression == "off":
            return document
        if len(document) <= 1024 * 1024 or self.compression != "auto":
            compress, piece, share = _zstd.compress if with_zstd else _gzip, 2 * 1024, 0.75
        elif with_zstd:
            compress, piece, share = _zstd.compress_fast, 32 * 1024, 0.15
        else:
            return document
        if len(document) > 32 * piece:
            sample = _sample(document, piece)
            if len(compress(sample)) > share * len(sample):
                return document
        frame = compress(document)
        return frame if len(frame) < len(document) else document

    def _decompressed(self, frame: bytes) -> bytes:
        if frame.startswith(b"\x28\xb5\x2f\xfd"):
            if zstandard is None:
                raise ValueError("it is a zstd frame; install redismem[zstd] to read it")
            if not 0 <= zstandard.frame_content_size(frame) <= self.max_value_bytes:
                raise ValueError(
                    f"it is a zstd frame of unknown size, or of more than max_value_bytes={self.max_value_bytes}"
                )
            return _zstd.decompress(frame, allow_extra_data=False)
        if frame.startswith(b"\x1f\x8b"):
            inflater = zlib.decompressobj(wbits=31)
            document = inflater.decompress(frame, self.max_value_bytes + 1)
            if len(document) > self.max_value_bytes:
                raise ValueError(f"it is a gzip frame of more than max_value_bytes={self.max_value_bytes}")
            if not inflater.eof or inflater.unused_data:
                raise ValueError("it is a gzip frame with a part missing, or something after it")
            return document
        raise ValueError(f"nothing that redismem writes begins with the byte {frame[0]:#04x}")


class _Zstd(threading.local):
    """zstd's contexts: costly to make, and each for one call at a time, so every thread has its own."""

    def __init__(self) -> None:
        if zstandard is not None:
            self.compress = zstandard.ZstdCompressor(level=1).compress
            self.compress_fast = zstandard.ZstdCompressor(level=-10).compress
            self.decompress = zstandard.ZstdDecompressor().decompress


_zstd = _Zstd()


def _sample(document: bytes, piece: int) -> bytes:
    """Eight pieces of a document, from all over it."""
    step = len(document) // 8
    return b"".join(document[start : start + piece] for start in range(step // 2, step * 8, step))


def _gzip(document: bytes) -> bytes:
    deflater = zlib.compressobj(level=1, wbits=31)  # its header carries no time, unlike that of gzip.compress
    return deflater.compress(document) + deflater.flush()


# Integers as text. Splitting keeps clear of the interpreter's limit on digits, and of the quadratic time behind it.


def _digits(number: int) -> bytes:
    if number.bit_length() <= 2048:
        return b"%d" % number
    if number < 0:
        return b"-" + _digits(-number)
    half = number.bit_length() * 3 // 20  # about half of its digits
    high, low = divmod(number, 10**half)
    return _digits(high) + _digits(low).zfill(half)


def _number(text: bytes) -> int:
    if not _INTEGER.fullmatch(text):
        raise ValueError(f"it begins like an integer, but is none of at most {MAX_DIGITS} digits")
    return -_natural(text[1:]) if text.startswith(b"-") else _natural(text)


def _natural(digits: bytes) -> int:
    if len(digits) <= 600:
        return int(digits)
    half = len(digits) // 2
    scale: int = 10**half
    return _natural(digits[:-half]) * scale + _natural(digits[-half:])


# Values to msgpack.


def _document(value: object) -> bytes:
    if type(value) in _CONTAINERS:
        _survey(value)
    elif type(value) in _LOOKALIKES:
        raise TypeError(_refusal(value))
    return _pack(value)


def _survey(container: Any) -> None:
    """Refuses what the packer would not: what it packs as another type, and what nests too deep for the C stack.

    It goes down level by level, because a loop in C over a whole level takes far less time than one in Python.
    """
    level: Collection[Any] = [container]
    for _ in range(MAX_DEPTH):
        held: list[Any] = []
        for box in level:
            held += box
            if type(box) is dict:
                held += box.values()
        if _SCALARS.issuperset(map(type, held)):
            return
        if not _LOOKALIKES.isdisjoint(map(type, held)):
            raise TypeError(_refusal(next(item for item in held if type(item) in _LOOKALIKES)))
        level = {id(item): item for item in held if type(item) in _CONTAINERS}.values()  # each once: it may be a circle
        if not level:
            return
    raise ValueError(f"nests deeper than {MAX_DEPTH} levels")


def _pack(value: object) -> bytes:
    packed: bytes = Packer(default=_extension, strict_types=True, buf_size=1024).pack(value)
    return packed


def _extension(value: Any) -> ExtType | Timestamp:
    """What to pack for a value that msgpack itself cannot hold exactly."""
    if write := _WRITERS.get(type(value)):
        return write(value)
    if type(value) is getattr(sys.modules.get("numpy"), "ndarray", None):
        return _write_array(value)
    raise TypeError(_refusal(value))


def _write_set(code: int, elements: set[Any] | frozenset[Any]) -> ExtType:
    return ExtType(code, Packer().pack_array_header(len(elements)) + b"".join(sorted(map(_pack, elements))))


def _write_datetime(value: datetime) -> ExtType | Timestamp:
    if isinstance(value.tzinfo, TzInfo):
        value = value.replace(tzinfo=timezone(value.utcoffset() or timedelta()))
    if value.tzinfo is UTC and not value.fold:
        elapsed = value - _EPOCH
        return Timestamp(elapsed.days * 86400 + elapsed.seconds, elapsed.microseconds * 1000)
    zone = f"[{value.tzinfo.key}]" if isinstance(value.tzinfo, ZoneInfo) else ""
    text = f"{value.isoformat()}{zone}{'[_fold=1]' if value.fold else ''}"
    if _identity(_read_datetime(text)) != _identity(value):
        raise TypeError(
            "datetime is stored with a ZoneInfo by key, an unnamed timezone, or no tzinfo; not with this one"
        )
    return ExtType(6, text.encode())


def _identity(value: datetime) -> tuple[object, ...]:
    return type(value.tzinfo), value.tzname(), value.isoformat(), value.fold


def _write_array(array: "ndarray[Any, Any]") -> ExtType:
    dtype = array.dtype
    if dtype.str not in _DTYPES or dtype.char in "gG" or dtype.metadata:
        raise TypeError(f"numpy arrays are stored with plain numeric dtypes, not {dtype!r}")
    return ExtType(9, _pack([dtype.str, list(array.shape), array.tobytes()]))


_WRITERS: dict[type, Callable[[Any], ExtType | Timestamp]] = {
    int: lambda value: ExtType(1, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)),
    tuple: lambda value: ExtType(2, _pack(list(value))),
    set: partial(_write_set, 3),
    frozenset: partial(_write_set, 4),
    date: lambda value: ExtType(5, value.isoformat().encode()),
    datetime: _write_datetime,
    UUID: lambda value: ExtType(7, value.bytes),
    Decimal: lambda value: ExtType(8, _EXACT.to_sci_string(value).encode()),
}


# Msgpack to values.


def _value(document: bytes) -> Any:
    if document and document[0] in _HEADS:
        _skim(document)
    value = unpackb(document, ext_hook=_read, strict_map_key=False, timestamp=3)
    if type(value) is int and -_DECIMAL_END < value < _DECIMAL_END:
        raise ValueError("it is an integer in msgpack; redismem writes decimal text")
    return value


def _skim(document: bytes) -> None:
    """Walks over a document and builds nothing, so that none can claim memory for elements that it does not hold.

    A small one cannot claim enough to matter: a level of arrays takes up to 8 bytes for each byte of the document.
    """
    if len(document) > 1024:
        unpacker = Unpacker(max_buffer_size=len(document))
        unpacker.feed(document)
        unpacker.skip()


def _read(code: int, payload: bytes, depth: int = 1) -> Any:
    """The value of an extension, itself `depth` extensions deep."""
    if box := _BOXES.get(code):
        if depth > MAX_DEPTH:
            raise ValueError(f"it nests deeper than {MAX_DEPTH} levels")
        return box(_array(payload, partial(_read, depth=depth + 1)))
    if read := _READERS.get(code):
        return read(payload)
    raise ValueError(f"it holds the unknown extension type {code}")


def _array(payload: bytes, ext_hook: Callable[[int, bytes], Any]) -> list[Any]:
    """The msgpack array in an extension, read without the 40 KB of C stack per level that `unpackb` would take."""
    _skim(payload)
    unpacker = Unpacker(max_buffer_size=len(payload), ext_hook=ext_hook, strict_map_key=False, timestamp=3)
    unpacker.feed(payload)
    items = unpacker.unpack()
    if type(items) is not list or unpacker.tell() != len(payload):
        raise ValueError("it holds an extension whose payload is not one array")
    return items


def _no_extension(code: int, _: bytes) -> NoReturn:
    raise ValueError(f"it holds an extension of type {code} where none belongs")


def _read_datetime(text: str) -> datetime:
    match = _DATETIME.fullmatch(text)
    if match is None:
        raise ValueError("it holds a datetime that is not ISO 8601")
    value = datetime.fromisoformat(match[1])
    if match[2]:
        value = value.replace(tzinfo=ZoneInfo(match[2]))
    return value.replace(fold=1) if match[3] else value


def _read_array(payload: bytes) -> "ndarray[Any, Any]":
    import numpy as np

    kind, shape, data = _array(payload, _no_extension)
    if kind not in _DTYPES or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("it holds an ndarray of a dtype or shape that redismem does not write")
    if type(data) is not bytes or math.prod(shape) * np.dtype(kind).itemsize != len(data):
        raise ValueError("it holds an ndarray whose size is not that of its shape")
    return np.ndarray(shape, kind, data).copy()


_HEADS = frozenset({*range(0x80, 0xA0), *range(0xDC, 0xE0)})  # the first bytes of msgpack's maps and arrays
_BOXES: dict[int, Callable[[list[Any]], Any]] = {2: tuple, 3: set, 4: frozenset}
_READERS: dict[int, Callable[[bytes], Any]] = {
    1: lambda payload: int.from_bytes(payload, "big", signed=True),
    5: lambda payload: date.fromisoformat(payload.decode()),
    6: lambda payload: _read_datetime(payload.decode()),
    7: lambda payload: UUID(bytes=payload),
    8: lambda payload: Decimal(payload.decode(), _EXACT),
    9: _read_array,
}


# What cannot be stored, and where it is: slow, and only needed once encoding has failed.


def _fault(value: object, error: Exception) -> EncodeError:
    try:
        return next(_faults(value, "$", ()), EncodeError(str(error) or type(error).__name__))
    except RecursionError:
        return EncodeError("there is too little of the call stack left to encode it")


def _faults(value: object, path: str, above: tuple[int, ...]) -> Iterator[EncodeError]:
    if type(value) not in _CONTAINERS:
        try:
            _document(value)
        except UnicodeEncodeError:
            yield EncodeError("str holds a lone surrogate, which is not text", path)
        except Exception as error:
            yield EncodeError(str(error), path)
    elif id(value) in above:
        yield EncodeError("refers to a container that it is in", path)
    elif len(above) == MAX_DEPTH:
        yield EncodeError(f"nests deeper than {MAX_DEPTH} levels", path)
    else:
        for child, child_path in _children(value, path):
            yield from _faults(child, child_path, (*above, id(value)))


def _children(container: Any, path: str) -> Iterator[tuple[object, str]]:
    if type(container) is dict:
        for key, item in container.items():
            yield key, f"{path}{_step(key)} (key)"
            yield item, f"{path}{_step(key)}"
    elif type(container) in (list, tuple):
        for index, item in enumerate(container):
            yield item, f"{path}[{index}]"
    else:
        for item in container:
            yield item, f"{path}{{{_shown(item)}}}"


def _step(key: object) -> str:
    return f".{key}" if type(key) is str and key.isidentifier() and len(key) <= 40 else f"[{_shown(key)}]"


def _shown(value: object) -> str:
    try:
        return reprlib.repr(value)
    except Exception:  # a repr of the caller's, or an int too long for the interpreter to print
        return f"<{type(value).__name__}>"


def _refusal(value: object) -> str:
    """Why `value` cannot be stored, and what to store in its place."""
    name = type(value).__name__
    for kinds, advice in _ADVICE:
        if isinstance(value, kinds):
            return f"{name} is not stored; {advice}"
    for base in _STORED:
        if isinstance(value, base):
            return f"{name} is not stored, only {base.__name__} itself, which it is a subclass of; convert it first"
    for method in ("model_dump", "item", "isoformat"):
        if hasattr(value, method):
            return f"{name} is not stored; store its .{method}()"
    if is_dataclass(value):
        return f"{name} is not stored; store dataclasses.asdict() of it"
    return f"{name} is not stored; only JSON-like data, bytes, tuples, sets, dates, UUIDs, Decimals and arrays are"


_ADVICE: tuple[tuple[type | tuple[type, ...], str], ...] = (
    ((bytearray, memoryview), "store bytes() of it"),
    ((ExtType, Timestamp), "extensions are chosen by redismem alone"),
    (Enum, "store its .value"),
    (time, "store its .isoformat()"),
    (timedelta, "store its .total_seconds()"),
)
