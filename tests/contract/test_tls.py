"""TLS in both flavours: whom the client trusts, whom the server trusts, and what goes wrong in words.

`tests.contract.test_urls` has the way through; here is every way that is barred, and that all kinds of connections
take the same one. Redis 7.0 is the server here that speaks TLS.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from redismem import AsyncMemory, Memory
from redismem.errors import AuthenticationFailed, ConfigError, LinkError, RedisMemError, Timeout, Unavailable
from tests.servers import Server, _free_port


@dataclass
class Authority:
    """Certificates as files."""

    directory: Path
    authority: trustme.CA

    @classmethod
    def new(cls, directory: Path) -> "Authority":
        directory.mkdir()
        self = cls(directory, trustme.CA())
        self.authority.cert_pem.write_to_path(str(directory / "ca.pem"))
        return self

    @property
    def ca(self) -> str:
        return str(self.directory / "ca.pem")

    def issue(self, name: str, *, expired: bool = False) -> tuple[str, str]:
        """The paths of a certificate for a host or a person, and of its key."""
        until = datetime.now(UTC) - timedelta(days=1) if expired else None
        begin = datetime.now(UTC) - timedelta(days=2) if expired else None
        issued = self.authority.issue_cert(name, not_after=until, not_before=begin)
        cert, key = str(self.directory / f"{name}.pem"), str(self.directory / f"{name}.key")
        issued.private_key_pem.write_to_path(key)
        issued.cert_chain_pems[0].write_to_path(cert)
        return cert, key


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority.new(tmp_path / "ours")


@pytest.fixture
def theirs(tmp_path: Path) -> Authority:
    """One that nobody trusts."""
    return Authority.new(tmp_path / "theirs")


@pytest.fixture
def serve(new_server: Callable[..., Server]) -> Callable[..., int]:
    """Starts a server that speaks TLS only, with this certificate, and asks clients for one; its port."""

    def start(ours: Authority, host: str = "127.0.0.1", *, expired: bool = False, words: tuple[str, ...] = ()) -> int:
        (cert, key), port = ours.issue(host, expired=expired), _free_port()
        files = ("--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", ours.ca)
        new_server("redis70", "--port", "0", "--tls-port", str(port), *files, *words)
        return port

    return start


def url(port: int, *, host: str = "127.0.0.1", user: str = "", **options: str) -> str:
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return f"rediss://{user}{host}:{port}?{query}"


def trusted(ours: Authority, name: str = "ann@example.org") -> dict[str, str]:
    """The options of a client that has all it needs."""
    cert, key = ours.issue(name)
    return {"ssl_ca_certs": ours.ca, "ssl_certfile": cert, "ssl_keyfile": key}


async def through_async(address: str, **settings: Any) -> Any:
    async with AsyncMemory(address, retries=0, **settings) as memory:
        await memory.sessions.save("s", "n", "k", "through")
        return await memory.sessions.load("s", "n", "k")


def through_sync(address: str, **settings: Any) -> Any:
    with Memory(address, retries=0, **settings) as memory:
        memory.sessions.save("s", "n", "k", "through")
        return memory.sessions.load("s", "n", "k")


@pytest.fixture(params=["sync", "async"])
def through(request: pytest.FixtureRequest) -> "Through":
    """Saves and loads one value, and returns what was loaded."""
    if request.param == "sync":
        return through_sync
    return lambda address, **settings: asyncio.run(through_async(address, **settings))


Through = Callable[..., Any]


def test_both_sides_trust_each_other(serve: Callable[..., int], ours: Authority, through: Through) -> None:
    assert through(url(serve(ours), **trusted(ours))) == "through"


def test_the_host_name_counts(serve: Callable[..., int], ours: Authority, through: Through) -> None:
    port = serve(ours, "localhost")
    assert through(url(port, host="localhost", **trusted(ours))) == "through"
    with pytest.raises(Unavailable, match=r"(?i)certificate.*(mismatch|not valid for|doesn't match)"):
        through(url(port, **trusted(ours)))


@pytest.mark.parametrize("lacks", ["authority", "certificate", "key's certificate"])
def test_a_client_that_lacks_something(
    lacks: str, serve: Callable[..., int], ours: Authority, theirs: Authority, through: Through
) -> None:
    options = trusted(ours)
    match lacks:
        case "authority":
            options["ssl_ca_certs"] = theirs.ca
        case "certificate":
            del options["ssl_certfile"], options["ssl_keyfile"]
        case _:
            options |= dict(zip(("ssl_certfile", "ssl_keyfile"), theirs.issue("eve@example.org"), strict=True))
    with pytest.raises(Unavailable) as caught:
        through(url(serve(ours), **options))
    assert "nothing was sent" in str(caught.value) or lacks != "authority"


def test_a_certificate_that_has_expired(serve: Callable[..., int], ours: Authority, through: Through) -> None:
    with pytest.raises(Unavailable, match=r"(?i)certificate.*expired"):
        through(url(serve(ours, expired=True), **trusted(ours)))


def test_one_side_without_tls(serve: Callable[..., int], ours: Authority, valkey: Server, through: Through) -> None:
    with pytest.raises(Unavailable):
        through(f"redis://127.0.0.1:{serve(ours)}")
    with pytest.raises(Timeout):  # the server takes the handshake for a command that is not finished
        through(url(valkey.port, **trusted(ours)), timeout=0.2, connect_timeout=0.2)


@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile"])
def test_a_file_that_is_not_there(option: str, serve: Callable[..., int], ours: Authority, through: Through) -> None:
    options = trusted(ours) | {option: "/nowhere.pem"}
    with pytest.raises((Unavailable, ConfigError)):
        through(url(serve(ours), **options))


def test_a_user_over_tls(serve: Callable[..., int], ours: Authority, through: Through) -> None:
    port = serve(ours, words=("--requirepass", "sesame"))
    options = trusted(ours)
    assert through(url(port, user="default:sesame@", **options)) == "through"
    with pytest.raises(AuthenticationFailed) as caught:
        through(url(port, user="default:wrong@", **options))
    assert "wrong" not in str(caught.value).replace("WRONGPASS", "").lower()


def test_every_connection_is_encrypted(serve: Callable[..., int], ours: Authority) -> None:
    """Also those of a transaction, and of several threads or tasks: the server has no other port."""
    address = url(serve(ours), **trusted(ours))

    async def main() -> Any:
        async with AsyncMemory(address) as memory:

            async def add_one(t: Any) -> None:
                t.sessions.save("s", "n", "k", await t.sessions.load("s", "n", "k", 0) + 1)

            await asyncio.gather(*(memory.transaction("s").run(add_one) for _ in range(5)))
            async with memory.batch() as batch:
                found = batch.sessions.load("s", "n", "k")
            return found.result()

    assert asyncio.run(main()) == 5
    with Memory(address) as memory:
        memory.transaction("s").run(lambda t: t.sessions.save("s", "n", "k", t.sessions.load("s", "n", "k") + 1))
        assert memory.sessions.load("s", "n", "k") == 6


def test_secrets_are_not_shown(ours: Authority) -> None:
    address = url(1, user="ann:sesame@", **trusted(ours), ssl_password="open")  # noqa: S106
    with Memory(address, retries=0) as memory:
        shown = [repr(memory), memory.name, repr(memory.settings)]
        with suppress(LinkError):
            memory.sessions.load("s", "n", "k")
        try:
            memory.sessions.load("s", "n", "k")
        except RedisMemError as error:
            shown.append(str(error))
    assert len(shown) == 4
    assert not any("sesame" in text or "open" in text for text in shown)
