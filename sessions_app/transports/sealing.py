"""Secrets at rest: what a transport calls secret stands in PostgreSQL only encrypted.

A sealed value is `{"encrypted": "<Fernet token>"}` in the place of the text. What a caller hands in as a secret has to
be text, so nothing that a caller wrote is ever taken for a sealed value. It is sealed with the newest of
WAQUEUE_ENCRYPTION_KEYS, and opened with any of them. The keys that WAQUEUE_SECRET_KEY and its fallbacks give stand
behind them: they alone where no other is set, so that nothing needs setting up.
"""

import base64
import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeGuard

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.core.signals import setting_changed
from django.dispatch import receiver

_MARK = "encrypted"
# It separates these keys from whatever else is derived from the secret key. Another one would lose every secret.
_PURPOSE = b"waqueue secrets at rest, 1"
# Sessions whose secrets one worker keeps open; the least used ones are opened anew.
_KEPT_OPEN = 20_000


class Unreadable(str):
    """Stands for a secret that no key opens, so that the settings around it can be changed. Never sent anywhere."""

    sealed: dict[str, str]

    @classmethod
    def of(cls, sealed: dict[str, str]) -> "Unreadable":
        """What stands for `sealed`: the same for the same one, and neither its text nor its ciphertext."""
        one = cls(f"unreadable-{hashlib.sha256(sealed[_MARK].encode()).hexdigest()[:16]}")
        one.sealed = sealed
        return one


def is_sealed(value: Any) -> TypeGuard[dict[str, str]]:
    """Whether a value of a session's row is a sealed one."""
    return isinstance(value, dict) and isinstance(value.get(_MARK), str)


class Keyring:
    """Seals with its first key, opens with all of them."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._first = Fernet(keys[0])
        self._all = MultiFernet([Fernet(key) for key in keys])
        # A worker opens the same secrets with every message: decrypting costs 30 µs, looking them up nothing.
        self._opened = lru_cache(maxsize=_KEPT_OPEN)(self._decrypt)

    def seal(self, plain: str) -> dict[str, str]:
        """`plain` as it stands in a row; another one each time."""
        return {_MARK: self._first.encrypt(plain.encode()).decode()}

    def open(self, sealed: dict[str, str]) -> str | None:
        """The text of a sealed value; None when no key opens it, or it is damaged."""
        try:
            return self._opened(sealed[_MARK])
        except InvalidToken:
            return None

    def is_newest(self, sealed: dict[str, str]) -> bool:
        """Whether the first key opens it: what is sealed by another has to be sealed anew before that key may go."""
        try:
            self._first.decrypt(sealed[_MARK].encode())
        except InvalidToken:
            return False
        return True

    def _decrypt(self, token: str) -> str:
        return self._all.decrypt(token.encode()).decode()


@lru_cache(maxsize=1)
def keyring() -> Keyring:
    """The keys that are set."""
    secret_keys = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
    return Keyring([*settings.WAQUEUE_ENCRYPTION_KEYS, *(_derived(secret_key) for secret_key in secret_keys)])


@receiver(setting_changed)
def _forget(*, setting: str, **_how: Any) -> None:
    """Settings change in tests only."""
    if setting in ("WAQUEUE_ENCRYPTION_KEYS", "SECRET_KEY", "SECRET_KEY_FALLBACKS"):
        keyring.cache_clear()


def _derived(secret_key: str) -> str:
    derivation = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=_PURPOSE)
    return base64.urlsafe_b64encode(derivation.derive(secret_key.encode())).decode()
