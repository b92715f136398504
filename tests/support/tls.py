"""Servers with a certificate of an authority that nobody knows, for clients that are given it."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from deploy.postgres import TLS_REQUEST
from tests.support.egress import listening

DOWNLOAD = 2_000_000


@dataclass
class Certificates:
    """The certificate of an authority, and key and certificate of a server that it has issued; as files."""

    authority: Path
    server: Path


def certificates_in(folder: Path, server: str = "api.example") -> Certificates:
    """Make an authority, which issues a certificate for the name of a server."""
    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    of_authority = _certificate("Test authority", authority, "Test authority", authority)
    of_server = _certificate(server, key, "Test authority", authority)
    made = Certificates(folder / "ca.pem", folder / "api.pem")
    made.authority.write_bytes(of_authority.public_bytes(serialization.Encoding.PEM))
    written = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    made.server.write_bytes(written + of_server.public_bytes(serialization.Encoding.PEM))
    return made


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, issuer_key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    now = datetime.now(UTC)
    is_authority = name == issuer
    usage = dict.fromkeys(("content_commitment", "data_encipherment", "encipher_only", "decipher_only"), False)
    usage |= {"digital_signature": True, "key_encipherment": False, "key_agreement": not is_authority}
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=0 if is_authority else None), critical=True)
        .add_extension(x509.KeyUsage(key_cert_sign=is_authority, crl_sign=is_authority, **usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if not is_authority:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


@asynccontextmanager
async def api(certificates: Certificates) -> AsyncIterator[tuple[int, int]]:
    """An API by plain HTTP and by TLS, as two ports."""

    async def who(request: web.Request) -> web.Response:
        return web.json_response({"host": request.headers["Host"], "proxied": "Proxy-Authorization" in request.headers})

    async def size(request: web.Request) -> web.Response:
        return web.json_response(len(await request.read()))

    async def large(_request: web.Request) -> web.Response:
        return web.Response(body=b"y" * DOWNLOAD)

    application = web.Application(client_max_size=1 << 24)
    application.add_routes([web.get("/who", who), web.post("/size", size), web.get("/large", large)])
    runner = web.AppRunner(application)
    await runner.setup()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.server)
    plain, secure = listening(), listening()
    try:
        await web.SockSite(runner, plain).start()
        await web.SockSite(runner, secure, ssl_context=context).start()
        yield plain.getsockname()[1], secure.getsockname()[1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def database_by_tls(socket: Path, certificates: Certificates) -> AsyncIterator[int]:
    """A port at which the database of a socket is reached by TLS alone: its own programs are built without."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.server)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while part := await reader.read(65536):
                writer.write(part)
                await writer.drain()
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            if await reader.readexactly(len(TLS_REQUEST)) == TLS_REQUEST:
                writer.write(b"S")
                await writer.start_tls(context)
                theirs, ours = await asyncio.open_unix_connection(socket)
                await asyncio.gather(pass_on(reader, ours), pass_on(theirs, writer))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
