"""Runs the real nginx with the configuration of docs/operate, in a folder of its own, on loopback.

Ports, paths and names are replaced, each exactly where the file has it; a line that is not there any more is a failure.
"""

from __future__ import annotations

import datetime
import os
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.processes import free_port, wait_until

CONFIGURATION = Path(__file__).parents[2] / "docs" / "operate" / "nginx.conf"
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 20.0

MAIN = """\
{user}
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
events {{ worker_connections 512; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/p2pnet.conf;
}}
"""


@dataclass(frozen=True)
class Nginx:
    """A running nginx. `url` is where it speaks TLS, `plain_port` where it does not."""

    url: str
    plain_port: int
    folder: Path
    tls: ssl.SSLContext

    def client(self, **settings: object) -> httpx.AsyncClient:
        """One that believes its certificate."""
        return httpx.AsyncClient(base_url=self.url, verify=self.tls, timeout=60, **settings)  # type: ignore[arg-type]

    @property
    def error_log(self) -> str:
        return (self.folder / "error.log").read_text()

    @property
    def access_log(self) -> str:
        return (self.folder / "access.log").read_text()


@contextmanager
def nginx(folder: Path, gateways: Sequence[str], **changes: str) -> Iterator[Nginx]:
    """nginx before these gateways (`host:port`). `changes` replace further words of the configuration."""
    port, plain_port = free_port(), free_port()
    write_certificate(folder)
    (folder / "p2pnet.conf").write_text(configured(folder, gateways, port, plain_port, changes))
    (folder / "nginx.conf").write_text(MAIN.format(folder=folder, user="user root;" if os.geteuid() == 0 else ""))
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        wait_until(lambda: (folder / "nginx.pid").exists() or child.poll() is not None, "nginx starts", START_TIMEOUT_S)
        assert child.poll() is None, child.stderr and child.stderr.read().decode()
        tls = ssl.create_default_context(cafile=str(folder / "certificate.pem"))
        yield Nginx(f"https://127.0.0.1:{port}", plain_port, folder, tls)
    finally:
        child.terminate()
        child.wait(STOP_TIMEOUT_S)
        assert child.stderr is not None
        child.stderr.close()


def configured(folder: Path, gateways: Sequence[str], port: int, plain_port: int, changes: dict[str, str]) -> str:
    """The file of the docs, for this machine."""
    text = CONFIGURATION.read_text(encoding="utf-8")
    first, second = (gateways[0], gateways[-1])
    second_server = next(line for line in text.splitlines(keepends=True) if "127.0.0.1:8001" in line)
    replaced = {
        "server 127.0.0.1:8000": f"server {first}",
        second_server: second_server.replace("127.0.0.1:8001", second) if len(gateways) > 1 else "",
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "    listen [::]:443 ssl http2;\n": "",
        "listen 80;": f"listen 127.0.0.1:{plain_port};",
        "    listen [::]:80;\n": "",
        "/etc/letsencrypt/live/p2pnet.example/fullchain.pem": str(folder / "certificate.pem"),
        "/etc/letsencrypt/live/p2pnet.example/privkey.pem": str(folder / "key.pem"),
        "/var/log/nginx/p2pnet.log": str(folder / "access.log"),
        **changes,
    }
    for old, new in replaced.items():
        assert old in text, f"docs/operate/nginx.conf has no {old!r} any more"
        text = text.replace(old, new)
    return text


def write_certificate(folder: Path) -> None:
    """One that this machine signs itself, for a day."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "p2pnet test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
