"""Reports to the Admin API: the last state of this host, and nothing that piles up while it is away."""

import asyncio
from collections.abc import Callable
from typing import Self
from urllib.parse import quote

import httpx
import structlog

from athena.host_report import HostReport
from athena.observability import identity
from athena.settings import ClientSettings

WITHIN_SECONDS = 5.0
SHORTEST_PAUSE = 1.0  # seconds between two reports, whatever happens
log = structlog.get_logger()


class Reporter:
    """Sends what `report` returns every `every` seconds, and after `soon()`. An async context manager.

    Without a token nothing is sent. `reported` is told of each report whether the Admin API took it.
    """

    def __init__(
        self,
        settings: ClientSettings,
        *,
        host: str,
        every: float,
        report: Callable[[], HostReport],
        reported: Callable[[bool], None],
    ) -> None:
        token = settings.admin_api_token
        self._token = token.get_secret_value() if token is not None else None
        self._url = f"{settings.admin_api_url}/api/hosts/{quote(host, safe='')}"
        self._every = every
        self._report = report
        self._reported = reported
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.state = "not configured" if self._token is None else "unknown"

    def soon(self) -> None:
        """Have a report sent at once: there is news."""
        self._wanted.set()

    async def __aenter__(self) -> Self:
        if self._token is None:
            log.warning("reports_not_sent", reason="ADMIN_API_TOKEN is not set")
        else:
            self._task = asyncio.create_task(self._send_for_ever(self._token), name="athena agent reports")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _send_for_ever(self, token: str) -> None:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        async with httpx.AsyncClient(headers=headers, timeout=WITHIN_SECONDS, trust_env=False) as client:
            while True:
                self._wanted.clear()
                request_id = identity.identify(None).decode()
                self._take(await self._send(client, request_id), request_id)
                await asyncio.sleep(SHORTEST_PAUSE)
                try:
                    async with asyncio.timeout(self._every):
                        await self._wanted.wait()
                except TimeoutError:
                    continue

    async def _send(self, client: httpx.AsyncClient, request_id: str) -> str | None:
        """Send the state of now; return what went wrong, None where nothing did."""
        try:
            body = self._report().model_dump_json().encode()
            answer = await client.put(self._url, content=body, headers={identity.HEADER: request_id})
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return f"{type(error).__name__}: {error}"
        except Exception:  # a fault of ours must not end the reports for good
            log.exception("report_not_made", request_id=request_id)
            return "the report could not be made"
        return None if answer.is_success else f"the Admin API answers {answer.status_code}: {answer.text[:200]}"

    def _take(self, error: str | None, request_id: str) -> None:
        before, self.state = self.state, "healthy" if error is None else "unavailable"
        self._reported(error is None)
        if self.state == before:
            return
        if error is None:
            log.info("reports_are_taken", request_id=request_id)
        else:
            mended = "the next one has what is new by then"
            log.warning("report_not_taken", error=error, until_mended=mended, request_id=request_id)
