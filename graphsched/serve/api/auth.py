"""Who may use the server: API keys, and pages of which other origins."""

import hmac
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import urlsplit

from graphsched.serve.api.failures import Failure


@dataclass(frozen=True)
class Guard:
    """What a request must have: one of the keys, if there are any; a name of this machine; a known origin.

    is_local: it listens on the loopback interface, where a Host of another name is a page that points its own name here
    (DNS rebinding). origins: of pages that may ask from elsewhere, * for all.
    """

    keys: frozenset[bytes] = frozenset()  # hashes: of one length, whatever the keys are
    is_local: bool = False
    origins: tuple[str, ...] = ()

    def check(self, headers: Mapping[str, str], *, is_public: bool = False) -> None:
        """Failure 403 for a strange host or origin, 401 for a missing or wrong key where one is needed."""
        host = headers.get("host", "")
        if self.is_local and not is_loopback(_name(f"//{host}")):
            raise _forbidden(f"this server is local, {host or 'an empty name'} is none of its names")
        origin = headers.get("origin")
        if origin and not self._is_known(origin, host):
            raise _forbidden(f"pages of {origin} may not use this server, --cors ORIGIN allows it")
        if self.keys and not is_public and not self._has_key(headers):
            kind, code = "authentication_error", "invalid_api_key"
            raise Failure(401, "the API key is missing or wrong", kind=kind, code=code)

    def _is_known(self, origin: str, host: str) -> bool:
        is_own = urlsplit(origin).netloc == host
        return is_own or origin in self.origins or "*" in self.origins

    def _has_key(self, headers: Mapping[str, str]) -> bool:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        mine = digest(given)
        return (
            sum(hmac.compare_digest(mine, key) for key in self.keys) > 0
        )  # all are compared, in constant time


def _forbidden(what: str) -> Failure:
    return Failure(403, what, kind="permission_error", code="forbidden")


def digest(key: str) -> bytes:
    """What is kept of a key."""
    return sha256(key.encode("utf-8", "surrogateescape")).digest()


def guard(keys: Iterable[str], host: str, origins: Iterable[str]) -> Guard:
    """What is checked by a server that listens on a host."""
    return Guard(frozenset(map(digest, keys)), is_loopback(host), tuple(origins))


def _name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own, which no other one reaches."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
