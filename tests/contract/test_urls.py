"""Each way to reach a server, for both flavours: TCP, TLS, a unix socket, another database, a password."""

import asyncio
from pathlib import Path

import pytest
import trustme

from redismem import AsyncMemory, Memory, create_store, errors
from tests.servers import _free_port


@pytest.fixture(params=["sync", "async"])
def round_trip(request):
    """Save and load one value through the URL, and return what was loaded."""

    async def through_async(url: str) -> object:
        async with AsyncMemory(url) as memory:
            await memory.sessions.save("s", "n", "k", "through")
            return await memory.sessions.load("s", "n", "k")

    def through_sync(url: str) -> object:
        with Memory(url) as memory:
            memory.sessions.save("s", "n", "k", "through")
            return memory.sessions.load("s", "n", "k")

    return through_sync if request.param == "sync" else lambda url: asyncio.run(through_async(url))


@pytest.fixture
def tls_url(new_server, tmp_path: Path) -> str:
    """Redis 7.0 that speaks TLS only, and asks for a client's certificate."""
    authority, port = trustme.CA(), _free_port()
    certificate = authority.issue_cert("127.0.0.1")
    key, cert, ca = (str(tmp_path / name) for name in ("key.pem", "cert.pem", "ca.pem"))
    certificate.private_key_pem.write_to_path(key)
    certificate.cert_chain_pems[0].write_to_path(cert)
    authority.cert_pem.write_to_path(ca)
    words = ("--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", ca)
    new_server("redis70", "--port", "0", "--tls-port", str(port), *words)
    return f"rediss://127.0.0.1:{port}?ssl_ca_certs={ca}&ssl_certfile={cert}&ssl_keyfile={key}"


def test_tcp_and_database(valkey, round_trip):
    assert round_trip(valkey.url) == "through"
    with Memory(f"redis://127.0.0.1:{valkey.port}/3") as other:
        assert other.sessions.load("s", "n", "k") is None


def test_unix_socket(valkey, round_trip):
    assert round_trip(f"unix://{valkey.socket}") == "through"


def test_tls(tls_url, round_trip):
    assert round_trip(tls_url) == "through"


def test_tls_refuses_an_unknown_authority(tls_url, tmp_path, round_trip):
    stranger = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(str(stranger))
    with pytest.raises(errors.Unavailable, match=r"(?i)certificate"):
        round_trip(tls_url.replace("ca.pem", stranger.name))


def test_embedded(round_trip):
    assert round_trip("embedded://") == "through"


def test_embedded_shared(round_trip, tmp_path, monkeypatch):
    monkeypatch.setenv("REDISMEM_EMBEDDED_LINGER", "0")
    assert round_trip(f"embedded://{tmp_path}") == "through"


def test_in_process(round_trip):
    assert round_trip("memory://") == "through"


def test_user_and_password(new_server, round_trip):
    server = new_server("valkey9", "--requirepass", "s e:same")
    assert round_trip(f"redis://default:s%20e%3Asame@127.0.0.1:{server.port}") == "through"


def test_create_store(valkey):
    store = create_store(valkey.url, prefix="other")
    store.save("s", "n", "k", 1)
    assert store.load("s", "n", "k") == 1
    store.close()
    with pytest.raises(errors.LinkClosed):
        store.load("s", "n", "k")


def test_the_environment_names_the_server(valkey, monkeypatch):
    monkeypatch.setenv("REDISMEM_URL", valkey.url)
    monkeypatch.setenv("REDISMEM_SESSION_TTL", "60")
    with Memory() as memory:
        assert memory.settings.session_ttl == 60
        memory.sessions.save("s", "n", "k", 1)
    with Memory(valkey.url) as memory:
        assert memory.sessions.load("s", "n", "k") == 1


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://localhost", "unknown URL scheme 'http'"),
        ("localhost:6379", "a URL without a scheme"),
        (":sesame@localhost:6379", "a URL without a scheme"),
        ("redis://:sesame@localhost:port", "malformed server URL"),
        ("embedded://dir", "three slashes"),
        ("redis://:s3cr/et@localhost:6379", "percent-encode"),
        ("redis://:sesame@localhost?socket_timeout=1", "socket_timeout cannot be set by the URL"),
        ("redis://:sesame@localhost?decode_responses=true", "decode_responses cannot be set"),
        ("redis://:sesame@localhost?bogus=1", "bogus"),
        ("embedded://ann:sesame@host/dir", "three slashes"),
    ],
)
def test_urls_that_cannot_work(url, says):
    with pytest.raises(errors.ConfigError, match=says) as caught:
        Memory(url)
    assert "sesame" not in str(caught.value)
    assert "s3cr" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://example.org",
        "redis://192.0.2.1:6379/0",
        "redis://[2001:db8::1]:6379",
        "redis+cluster://localhost:1,example.org:2",
        "redis+sentinel://127.0.0.1:1,192.0.2.1:2/main/0",
    ],
)
def test_another_host_without_tls_must_be_allowed(url, monkeypatch):
    with pytest.raises(errors.ConfigError, match="allow_insecure"):
        Memory(url)
    with Memory(url, allow_insecure=True):
        pass
    with Memory(url.replace("redis", "rediss", 1)):
        pass
    monkeypatch.setenv("REDISMEM_ALLOW_INSECURE", "true")
    with Memory(url):
        pass


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.10", "[::1]", ""])
@pytest.mark.parametrize("scheme", ["redis://{}", "redis+cluster://{}:7000", "redis+sentinel://{}:26379/main"])
def test_this_machine_needs_no_tls(scheme, host):
    if host or scheme.startswith("redis://"):
        with Memory(scheme.format(host)):
            pass


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis+cluster://localhost:1/2", "no database but 0"),
        ("redis+cluster://:sesame@localhost:port", "malformed server URL"),
        ("redis+cluster://:s3cr/et@localhost:1", "malformed server URL"),
        ("redis+cluster://:sesame@localhost:1,", "malformed server URL"),
        ("redis+cluster://:sesame@localhost:1?bogus=1", "bogus"),
        ("redis+sentinel://:sesame@localhost:1", "name the service"),
        ("redis+sentinel://:sesame@localhost:1/main/0?decode_responses=true", "decode_responses cannot be set"),
        ("redis+sentinel://ann:s3cr/et@localhost:1/main", "malformed server URL"),
    ],
)
def test_urls_of_many_servers_that_cannot_work(url, says):
    with pytest.raises(errors.ConfigError, match=says) as caught:
        Memory(url)
    assert "sesame" not in str(caught.value)
    assert "s3cr" not in str(caught.value)


@pytest.mark.parametrize(
    "settings", [{"session_ttl": 0}, {"max_fields": "many"}, {"no_such_setting": 1}, {"prefix": "a b"}]
)
def test_settings_that_cannot_work(settings):
    with pytest.raises(errors.ConfigError):
        Memory("memory://", **settings)


def test_certificates_of_anybody_are_no_tls() -> None:
    url = "rediss://cache.example.org:6379/0?ssl_cert_reqs=none"
    with pytest.raises(errors.ConfigError, match="ssl_cert_reqs=none"):
        Memory(url)
    Memory(url, allow_insecure=True).close()
