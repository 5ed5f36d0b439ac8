"""A PACS over DICOMweb: STOW-RS, QIDO-RS and WADO-RS (PS3.18) through dicomweb-client."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import pydicom
import requests
from dicomweb_client import DICOMwebClient
from pydicom.dataset import Dataset

from vol3d.dicom.network import LOOPBACK, Instance, Peer, Secrets, safe_uid
from vol3d.errors import BusyError, NetworkError, RejectedError

TIMEOUT_S = (10.0, 300.0)
"""To connect, and between two bytes of an answer."""

_BUSY = (408, 425, 429, 500, 502, 503, 504)
_OUT_OF_RESOURCES = range(0xA700, 0xA800)


class WebLink:
    """See `vol3d.dicom.network.Link`."""

    def __init__(self, peer: Peer, access: Secrets) -> None:
        self._peer = peer
        self._session = requests.Session()
        if access.token:
            self._session.headers["Authorization"] = f"Bearer {access.token}"
        elif access.user:
            self._session.auth = (access.user, access.password)
        local = peer.host in LOOPBACK
        if access.ca or local:  # REQUESTS_CA_BUNDLE would go before it, unless the environment is read here
            self._session.trust_env = False
            self._session.verify = access.ca or os.environ.get("REQUESTS_CA_BUNDLE") or True
        if access.ca and not local:  # what is sent to this very machine, a password in plain too, is for no proxy
            self._session.proxies = requests.utils.get_environ_proxies(str(peer))
        if access.certificate:
            self._session.cert = (access.certificate, access.key) if access.key else access.certificate
        if peer.tls:
            access.tls()  # names a bad file now, rather than as a failed connection
        self._client = DICOMwebClient(str(peer), session=self._session, timeout=TIMEOUT_S)
        self._client.set_http_retry_params(retry=False)  # the workflow retries, and asks before it sends again

    def store(self, instance: Instance) -> str:
        """STOW-RS of one object; PS3.18 10.5.3: what counts is the answer's record of it, not the status alone."""
        if instance.path is None:
            raise NetworkError(f"expected a file of {instance.uid} to send, found none")
        with self._answers("STOW-RS"):
            answer = self._client.store_instances([pydicom.dcmread(instance.path)])
        for item in answer.get("FailedSOPSequence") or []:
            _refuse(int(item.get("FailureReason") or 0))
        stored = [i for i in answer.get("ReferencedSOPSequence") or [] if i.ReferencedSOPInstanceUID == instance.uid]
        if not stored:
            raise RejectedError("expected the PACS to confirm the object, found an answer that does not name it")
        warning = int(stored[0].get("WarningReason") or 0)
        return f"warning {warning:04X}H" if warning else ""

    def holds(self, instance: Instance) -> bool | None:
        """QIDO-RS for one object."""
        try:
            with self._answers("QIDO-RS"):
                found = self._client.search_for_instances(
                    instance.study_uid, instance.series_uid, search_filters={"SOPInstanceUID": instance.uid}
                )
        except BusyError:
            raise
        except NetworkError:
            return None
        return any(_value(record, "00080018") == instance.uid for record in found)

    def find(self, study_uid: str) -> list[Instance]:
        """QIDO-RS for the objects of a study."""
        with self._answers("QIDO-RS"):
            found = self._client.search_for_instances(study_uid, get_remaining=True)
        return [
            Instance(
                study_uid,
                safe_uid(_value(record, "0020000E")),
                safe_uid(_value(record, "00080018")),
                str(_value(record, "00080016") or ""),
            )
            for record in found
        ]

    def get(self, wanted: Sequence[Instance], keep: Callable[[str, bytes], None]) -> None:
        """WADO-RS, object by object, in the transfer syntax they are stored in."""
        for instance in wanted:
            with self._answers("WADO-RS"):
                dataset = self._client.retrieve_instance(
                    instance.study_uid, instance.series_uid, instance.uid, media_types=(("application/dicom", "*"),)
                )
            if str(dataset.get("SOPInstanceUID")) != instance.uid:
                raise NetworkError("expected the object that was asked for, found another one in the answer")
            with io.BytesIO() as buffer:
                pydicom.dcmwrite(buffer, dataset)
                keep(instance.uid, buffer.getvalue())

    def close(self) -> None:
        """Closes the connections."""
        self._session.close()

    @contextmanager
    def _answers(self, what: str) -> Iterator[None]:
        """Turns HTTP's failures into ours; no URL with a query, header or body gets into a message."""
        try:
            yield
        except requests.exceptions.SSLError as error:
            raise NetworkError(
                f"expected a certificate of {self._peer} that we trust, found {_innermost(error)}; name its authority "
                f"in VOL3D_PACS_CA"
            ) from None
        except requests.exceptions.HTTPError as error:
            raise self._refusal(what, error.response) from None
        except requests.exceptions.RequestException as error:
            raise BusyError(f"expected an answer of {self._peer}, found {_innermost(error)}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise NetworkError(f"expected a {what} answer of {self._peer}, found {type(error).__name__}") from None

    def _refusal(self, what: str, response: requests.Response | None) -> NetworkError:
        if response is None:
            return BusyError(f"expected {self._peer} to answer {what}, found nothing")
        status = response.status_code
        if status in (401, 403):
            return NetworkError(
                f"expected {self._peer} to let us in, found {_named(status)}; check VOL3D_PACS_USER and "
                f"VOL3D_PACS_PASSWORD, or VOL3D_PACS_TOKEN"
            )
        if status == 404:
            return NetworkError(f"expected {what} at {self._peer}, found nothing there (404); check the path")
        reason = _failure_reason(response)
        if status in _BUSY or reason in _OUT_OF_RESOURCES:
            return BusyError(f"expected {self._peer} to answer {what}, found {_named(status)}")
        detail = f", failure reason {reason:04X}H" if reason else ""
        return RejectedError(f"expected {self._peer} to take the request, found {_named(status)}{detail}")


def _refuse(reason: int) -> None:
    if reason in _OUT_OF_RESOURCES:
        raise BusyError(f"expected the PACS to store the object, found it out of resources ({reason:04X}H)")
    raise RejectedError(f"expected the PACS to store the object, found it refused with reason {reason:04X}H")


def _failure_reason(response: requests.Response) -> int:
    try:
        failed = Dataset.from_json(response.json()).get("FailedSOPSequence") or []
        return int(failed[0].get("FailureReason") or 0) if failed else 0
    except (ValueError, KeyError, TypeError, AttributeError):
        return 0


def _value(record: dict[str, Any], tag: str) -> Any:
    return (record.get(tag, {}).get("Value") or [None])[0]


def _named(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _innermost(error: BaseException) -> str:
    """The last cause: `requests` wraps what matters several times."""
    inner = error
    while inner.__cause__ or inner.__context__:
        inner = inner.__cause__ or inner.__context__ or inner
    return f"{type(inner).__name__}: {inner}".split("HTTPConnectionPool")[0].strip()
