"""Each request's first question: does the database answer, and is it still of this release? Else 503, and why."""

import logging
from collections.abc import Callable

from django.db import Error
from django.http import HttpRequest, HttpResponse

from modelyard.contract.errors import NotReady
from modelyard.control.database import error_of
from modelyard.control.problems import answer_of
from modelyard.control.release import OtherRelease, refuse_newer

log = logging.getLogger("modelyard.control")

leave: Callable[[], None] | None = None  # how a web worker asks its own server to end


class Outdated(NotReady):
    """A newer release has upgraded the database: this process touches nothing any more."""

    retry_after_s = 5.0


class DatabaseGuard:
    """Django's middleware around every view."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """The view's answer, or why there is none."""
        if request.path == "/healthz":  # says that this process lives, whatever the database does
            return self.get_response(request)
        try:
            refuse_newer()
        except OtherRelease as error:
            log.error("%s", error)
            if leave is not None:
                leave()
            return answer_of(Outdated(str(error)))
        except Error as error:
            if (refused := self.process_exception(request, error)) is None:
                raise
            return refused
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """What a page says when the database fails it; one line in the log and not a traceback for each visitor."""
        if (known := error_of(error)) is None:
            return None
        log.warning("%s: %s", request.path, known)
        return answer_of(known)
