"""What is said to a gateway and how its answers are read, retries included; no socket and no clock to wait on.

Each call is a generator: it yields an `Ask` to be sent or a `Pause` to be waited, is given the `Reply`, and returns
the result. `client.py` and `aio.py` differ only in how they send and wait. Every call may be repeated safely: a
prediction changes nothing, and the same feedback twice says the same thing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from modelyard.client.errors import Unreachable, refusal_of
from modelyard.contract.decision import Reason
from modelyard.contract.encoding import counted_from
from modelyard.contract.errors import DeadlineExceeded, Internal, InvalidInput, ModelyardError, QuotaExceeded, TooLarge
from modelyard.contract.infer import Explanation, Prediction
from modelyard.contract.names import check_name
from modelyard.contract.rows import plain_rows

CHUNK_ROWS = 2_000  # rows in one request ...
CHUNK_BYTES = 1024 * 1024  # ... and bytes of its JSON; both well below a gateway's own limits
FIRST_BACKOFF_S = 0.1
LONGEST_BACKOFF_S = 5.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ask:
    """Send this and give back the Reply, or Broken, or Late."""

    method: str
    path: str
    body: bytes | None
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait this long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, whole."""

    status: int
    body: bytes
    retry_after: str | None = None


@dataclass(frozen=True, slots=True)
class Broken:
    """The connection could not be made, or ended before the answer did."""

    why: str


@dataclass(frozen=True, slots=True)
class Late:
    """The time was over before the answer was whole."""


Outcome = Reply | Broken | Late
Talk = Generator[Ask | Pause, Outcome | None, T]


@dataclass(frozen=True, slots=True)
class Address:
    """Where the gateway is, and the headers that every request carries. The key shows in no repr."""

    url: str
    headers: dict[str, str] = field(repr=False)

    @property
    def is_loopback(self) -> bool:
        """Whether the gateway runs on this machine; proxies of the environment are then passed by."""
        host = urlsplit(self.url).hostname or ""
        return host in ("localhost", "::1") or host.startswith("127.")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one request may take, its retries included, and how often it is tried again."""

    timeout_s: float = 30.0
    retries: int = 3

    def __post_init__(self) -> None:
        if self.timeout_s <= 0 or self.retries < 0:
            raise InvalidInput("timeout_s is above 0 and retries is at least 0")


def address(url: str, key: str | None, agent: str) -> Address:
    """The checked address. Raises InvalidInput, without repeating a secret, for a URL or key that cannot be."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        raise InvalidInput("the url does not parse; it looks like http://127.0.0.1:8000") from None
    if parts.username or parts.password:
        raise InvalidInput("the url holds a user name or password; give the API key as key=")
    if not fits or parts.query or parts.fragment:
        raise InvalidInput("the url looks like http://127.0.0.1:8000, without a query")
    headers = {"User-Agent": agent, "Accept": "application/json"}
    if key is not None:
        key = key.strip()
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise InvalidInput("the API key holds characters that no key has; copy it again, without quotes or spaces")
        headers["Authorization"] = f"Bearer {key}"
    return Address(url.rstrip("/"), headers)


# --- the calls --------------------------------------------------------------------------------------------------


def predict(
    endpoint: str, rows: Any, patience: Patience, reasons: str | None, language: str | None
) -> Talk[Prediction | list[Prediction]]:
    """The answer for one row, or for each of many, in order."""
    query = {"reasons": reasons, "lang": language}
    return (yield from _for_rows(_path(endpoint, query=query), rows, patience, "predictions", _prediction))


def explain(endpoint: str, rows: Any, patience: Patience) -> Talk[Explanation | list[Explanation]]:
    """What each column contributed, for one row or for each of many."""
    return (yield from _for_rows(_path(endpoint, "explain"), rows, patience, "explanations", _explanation))


def feedback(endpoint: str, request_id: str, truth: Any, row: int, patience: Patience) -> Talk[None]:
    """The truth for one row of an earlier call."""
    body = msgspec.json.encode({"request_id": request_id, "truth": truth, "row": row})
    yield from _ask("POST", _path(endpoint, "feedback"), body, patience)


def describe(endpoint: str, patience: Patience) -> Talk[dict[str, Any]]:
    """What the endpoint says of itself."""
    return (yield from _answer("GET", _path(endpoint), None, patience))


def get(path: str, patience: Patience) -> Talk[dict[str, Any]]:
    """Any page of the gateway that answers JSON."""
    return (yield from _answer("GET", path, None, patience))


# --- one request ------------------------------------------------------------------------------------------------


def _ask(method: str, path: str, body: bytes | None, patience: Patience) -> Talk[bytes]:
    """The body of the answer, tried again while that is allowed and there is time; otherwise the typed error."""
    ends_at = monotonic() + patience.timeout_s
    attempt = 0
    while True:
        outcome = yield Ask(method, path, body, max(0.001, ends_at - monotonic()))
        if isinstance(outcome, Reply) and outcome.status < 300:
            return outcome.body
        error = _failure(outcome, patience)
        wait_s = _wait_s(error, attempt)
        if not _may_retry(error) or attempt >= patience.retries or monotonic() + wait_s >= ends_at:
            raise error
        attempt += 1
        yield Pause(wait_s)


def _failure(outcome: Outcome | None, patience: Patience) -> ModelyardError:
    match outcome:
        case Reply(status=status) if status < 400:
            return Internal(f"the server answered {status}, a redirect; give the address that answers itself")
        case Reply(status=status, body=body, retry_after=retry_after):
            return refusal_of(status, body, retry_after)
        case Broken(why=why):
            return Unreachable(why)
        case _:
            return DeadlineExceeded(f"no answer within timeout_s={patience.timeout_s:g}")


def _may_retry(error: ModelyardError) -> bool:
    return error.retryable or isinstance(error, QuotaExceeded)


def _wait_s(error: ModelyardError, attempt: int) -> float:
    """What the server asked for, and a random part on top, so that callers do not come back all at once."""
    backoff = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2.0**attempt) * (0.5 + random.random() / 2)
    asked = vars(error).get("retry_after_s", 0.0)  # an instance has it only where the server named it
    return float(asked) + backoff


def _answer(method: str, path: str, body: bytes | None, patience: Patience) -> Talk[dict[str, Any]]:
    raw = yield from _ask(method, path, body, patience)
    try:
        answer = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        answer = None
    if not isinstance(answer, dict):
        raise Internal("the answer is not a JSON object; is this the address of a Modelyard gateway?")
    return answer


def _path(endpoint: str, *more: str, query: dict[str, str | None] | None = None) -> str:
    check_name("endpoint", endpoint)
    asked = urlencode({name: value for name, value in (query or {}).items() if value})
    return "/" + "/".join(quote(part) for part in (endpoint, *more)) + (f"?{asked}" if asked else "")


# --- rows there, answers back -----------------------------------------------------------------------------------

Read = Callable[[dict[str, Any], dict[str, Any], int], T]  # (whole answer, this row's part, row) -> result


def _for_rows(path: str, rows: Any, patience: Patience, listed: str, read: Read[T]) -> Talk[T | list[T]]:
    plain, single = plain_rows(rows)
    encoded = [msgspec.json.encode(row) for row in plain]
    if single:
        answer = yield from _answer("POST", path, encoded[0], patience)
        return _read(read, answer, answer, 0)
    found: list[T] = []
    for start, end in _chunks(encoded):
        found += yield from _chunk(path, encoded[start:end], start, patience, listed, read)
    return found


def _chunk(
    path: str, encoded: list[bytes], start: int, patience: Patience, listed: str, read: Read[T]
) -> Talk[list[T]]:
    """The results of one chunk; where the server allows less at once, of its halves."""
    try:
        answer = yield from _answer("POST", path, b"[" + b",".join(encoded) + b"]", patience)
    except TooLarge:
        if len(encoded) == 1:
            raise
    except InvalidInput as error:
        raise counted_from(start, error) from None
    else:
        parts = answer.get(listed)
        if not isinstance(parts, list) or len(parts) != len(encoded):
            raise Internal(f"the answer holds no {listed!r} for each of the {len(encoded)} rows")
        return [_read(read, answer, part, row) for row, part in enumerate(parts)]
    middle = len(encoded) // 2
    first = yield from _chunk(path, encoded[:middle], start, patience, listed, read)
    return first + (yield from _chunk(path, encoded[middle:], start + middle, patience, listed, read))


def _chunks(encoded: list[bytes]) -> Iterator[tuple[int, int]]:
    start, size = 0, 0
    for at, row in enumerate(encoded):
        if at > start and (at - start >= CHUNK_ROWS or size + len(row) > CHUNK_BYTES):
            yield start, at
            start, size = at, 0
        size += len(row) + 1
    if start < len(encoded):
        yield start, len(encoded)


def _read(read: Read[T], answer: dict[str, Any], part: Any, row: int) -> T:
    try:
        return read(answer, part, row)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise Internal("the answer is not what a Modelyard gateway of this release says") from None


_NOT_OUTPUTS = frozenset({"request_id", "model", "version", "decision", "probability", "score", "reasons", "row"})


def _prediction(answer: dict[str, Any], part: dict[str, Any], row: int) -> Prediction:
    return Prediction(
        request_id=str(answer.get("request_id", "")),
        version=int(answer["version"]),
        decision=part.get("decision"),
        probability=part.get("probability"),
        score=part.get("score"),
        reasons=msgspec.convert(part.get("reasons") or (), type=tuple[Reason, ...]),
        outputs={name: value for name, value in part.items() if name not in _NOT_OUTPUTS},
        model=str(answer.get("model", "")),
        row=row,
    )


def _explanation(answer: dict[str, Any], part: dict[str, Any], row: int) -> Explanation:
    return Explanation(
        request_id=str(answer.get("request_id", "")),
        version=int(answer["version"]),
        base=float(part["base"] if "base" in part else answer["base"]),
        contributions=part["contributions"],
        model=str(answer.get("model", "")),
        row=row,
    )
