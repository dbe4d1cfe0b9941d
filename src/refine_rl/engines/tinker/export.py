"""An adapter's files, fetched from a service: each from an address of its own; or, from a service that does
not know that way, all in the archive of a sampler's weights."""

from __future__ import annotations

import io
import tarfile
from typing import Any

from refine_rl.engines.tinker.address import sdk, status_of
from refine_rl.engines.tinker.service import Service, in_background
from refine_rl.errors import MachineError


def export(service: Service, trainer: Any, name: str) -> dict[str, bytes]:
    """The files of the trainer's adapter, by name; the service keeps them as `name`."""
    try:
        asked = service.ask(trainer.save_weights_external(name), "Saving the adapter")
        path = str(service.result(asked).path)
    except MachineError as error:
        if status_of(error.__cause__) != 404:
            raise
        service.gone = False  # it answers, and does not know this
        asked = service.ask(trainer.save_weights_for_sampler(name), "Saving the adapter")
        return _unpacked(service, str(service.result(asked).path))
    asked = service.ask(in_background(lambda: _fetched(service, path)), "Fetching the adapter")
    return dict(service.result(asked))


def _fetched(service: Service, path: str) -> dict[str, bytes]:
    address = service.address
    rest = sdk().RestClient(base_url=address.url, api_key=address.key)
    urls = rest.get_external_weights_urls(path).result().urls
    return {name: _read(url, address.timeout) for name, url in urls.items()}


def _unpacked(service: Service, path: str) -> dict[str, bytes]:
    """The archive has no place in the SDK 0.38: it is asked for as earlier ones did."""
    address = service.address
    run, _, name = path.removeprefix("tinker://").partition("/")
    where = ("api/v1/training_runs", run, "checkpoints", name.rpartition("/")[2], "archive")
    url = "/".join((address.url, *where))
    asked = in_background(lambda: _read(url, address.timeout, {"X-API-Key": address.key}))
    data = service.result(service.ask(asked, "Fetching the adapter"))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = [m for m in archive.getmembers() if m.isfile()]
        files = {m.name: archive.extractfile(m) for m in members}
        return {name: file.read() for name, file in files.items() if file is not None}


def _read(url: str, timeout: float, headers: dict[str, str] | None = None) -> bytes:
    """What is at an address, or where that leads; the `headers`, which may hold the key, go there alone."""
    import httpx

    answer = httpx.get(url, headers=headers, timeout=timeout)
    if answer.next_request is not None:
        answer = httpx.get(answer.next_request.url, timeout=timeout, follow_redirects=True)
    return answer.raise_for_status().content
