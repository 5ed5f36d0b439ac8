"""A PACS over DIMSE: C-STORE, C-FIND, C-GET and C-MOVE (PS3.4 B and C) through pynetdicom."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pydicom
from pydicom import uid as uids
from pydicom.dataset import Dataset
from pynetdicom import AE, _config, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import UserIdentityNegotiation
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from vol3d.dicom.network import Instance, Peer, Secrets, safe_uid
from vol3d.errors import BusyError, NetworkError, RejectedError

_config.LOG_REQUEST_IDENTIFIERS = False  # they name patients
_config.LOG_RESPONSE_IDENTIFIERS = False
_config.STORE_SEND_CHUNKED_DATASET = True  # a file is sent as it is, not read and written anew

TIMEOUT_S = 60.0
MOST_ASKED = 500
"""UIDs in one query: in explicit VR an attribute of UIDs has 16 bits for its length, which 1,008 of them can fill."""
MOST_CONTEXTS = 120
"""PS3.8 9.3.2.2 allows 128 presentation contexts an association."""

FIND = StudyRootQueryRetrieveInformationModelFind
GET = StudyRootQueryRetrieveInformationModelGet
MOVE = StudyRootQueryRetrieveInformationModelMove
_PLAIN = (uids.ExplicitVRLittleEndian, uids.ImplicitVRLittleEndian)
SYNTAXES = (
    *_PLAIN, uids.JPEGLossless, uids.JPEGLosslessSV1, uids.JPEGLSLossless, uids.JPEG2000Lossless, uids.JPEG2000,
    uids.RLELossless, uids.JPEGBaseline8Bit, uids.JPEGLSNearLossless, uids.DeflatedExplicitVRLittleEndian,
)  # fmt: skip
"""Offered for what is fetched, each in a context of its own, so that the peer need not convert anything."""

_SUCCESS, _PENDING = 0x0000, (0xFF00, 0xFF01)
_NOT_WANTED = 0xA900


class DimseLink:
    """See `vol3d.dicom.network.Link`.

    Args:
        peer: where.
        access: user and password go into the association's user identity (PS3.7 D.3.3.7).
        calling: our AE title.
        instances: what will be sent.
        listen: port to receive on; with it objects are fetched by C-MOVE, which needs our AE title known to the peer,
            without it by C-GET.
    """

    def __init__(
        self, peer: Peer, access: Secrets, calling: str, instances: Iterable[Instance] = (), listen: int | None = None
    ) -> None:
        self._peer, self._access, self._calling, self._listen = peer, access, calling, listen
        self._kinds = list(dict.fromkeys((i.sop_class, i.syntax) for i in instances))
        self._association: Association | None = None
        self._offered: set[tuple[str, str]] = set()

    def store(self, instance: Instance) -> str:
        """C-STORE of one object; PS3.4 B.2.3 gives the meaning of the status."""
        association = self._storing((instance.sop_class, instance.syntax))
        sendable = self._sendable(association, instance)
        try:
            status = association.send_c_store(sendable)
        except RuntimeError:  # the association ended after we had looked
            status = Dataset()
        except (ValueError, AttributeError) as error:
            raise RejectedError(f"expected a file that can be sent, found {type(error).__name__}: {error}") from None
        if "Status" not in status:
            self._drop()
            raise BusyError(f"expected an answer of {self._peer} to C-STORE, found the association broken off")
        code = int(status.Status)
        if code == _SUCCESS:
            return ""
        if code in (0xB000, 0xB006, 0xB007):
            return f"warning {code:04X}H"
        if 0xA700 <= code < 0xA800:
            raise BusyError(f"expected {self._peer} to store the object, found it out of resources ({code:04X}H)")
        raise RejectedError(f"expected {self._peer} to store the object, found status {code:04X}H")

    def holds(self, instance: Instance) -> bool | None:
        """C-FIND for one object."""
        query = _query("IMAGE", instance.study_uid, instance.series_uid, instance.uid)
        try:
            return any(record.get("SOPInstanceUID") == instance.uid for record in self._find(query))
        except BusyError:
            raise
        except NetworkError:
            return None

    def find(self, study_uid: str) -> list[Instance]:
        """C-FIND for the series of a study, then for the objects of each."""
        found = []
        for series in self._find(_query("SERIES", study_uid, "")):
            series_uid = safe_uid(series.get("SeriesInstanceUID"))
            for record in self._find(_query("IMAGE", study_uid, series_uid, "")):
                uid, kind = safe_uid(record.get("SOPInstanceUID")), str(record.get("SOPClassUID") or "")
                found.append(Instance(study_uid, series_uid, uid, kind))
        return found

    def get(self, wanted: Sequence[Instance], keep: Callable[[str, bytes], None]) -> None:
        """C-GET, or C-MOVE to ourselves, series by series; what was not asked for is refused."""
        left = {i.uid for i in wanted}

        def received(event: Any) -> int:
            uid = str(event.request.AffectedSOPInstanceUID)
            if uid not in left:
                return _NOT_WANTED
            keep(uid, event.encoded_dataset())
            return _SUCCESS

        handlers = [(evt.EVT_C_STORE, received)]
        classes = sorted({i.sop_class for i in wanted if i.sop_class}) or [uids.CTImageStorage]
        for series_uid in dict.fromkeys(i.series_uid for i in wanted):
            members = [i for i in wanted if i.series_uid == series_uid]
            kinds = sorted({i.sop_class for i in members}) if members[0].sop_class else classes
            for start in range(0, len(members), MOST_ASKED):
                some = members[start : start + MOST_ASKED]
                query = _query("IMAGE", some[0].study_uid, series_uid, [i.uid for i in some])
                if self._listen is None:
                    self._get(query, kinds, handlers)
                else:
                    self._move(query, classes, handlers, self._listen)

    def close(self) -> None:
        """Releases the association."""
        self._drop()

    # -- associations --------------------------------------------------------------------------------------------

    def _storing(self, kind: tuple[str, str]) -> Association:
        if self._association is not None and self._association.is_established and kind in self._offered:
            return self._association
        self._drop()
        others = [k for k in self._kinds if k != kind][: MOST_CONTEXTS // 2 - 1]
        self._offered = {kind, *others}
        contexts = [build_context(sop_class, syntax) for sop_class, syntax in self._offered]
        plain = {sop_class for sop_class, syntax in self._offered if syntax in _PLAIN}
        contexts += [build_context(c, s) for c in sorted(plain) for s in _PLAIN if (c, s) not in self._offered]
        self._association = self._associate(contexts)
        return self._association

    def _sendable(self, association: Association, instance: Instance) -> Any:
        """The file itself where its syntax is accepted, else, if not compressed, its content to be written anew."""
        accepted = {(c.abstract_syntax, c.transfer_syntax[0]) for c in association.accepted_contexts}
        if instance.path is None:
            raise NetworkError(f"expected a file of {instance.uid} to send, found none")
        if (instance.sop_class, instance.syntax) in accepted:
            return instance.path
        if instance.syntax in _PLAIN and any((instance.sop_class, s) in accepted for s in _PLAIN):
            return pydicom.dcmread(instance.path)
        raise RejectedError(
            f"expected {self._peer} to accept {uids.UID(instance.sop_class).name} in {uids.UID(instance.syntax).name}, "
            f"found it does not"
        )

    def _associate(
        self, contexts: list[PresentationContext], roles: Sequence[Any] = (), handlers: Sequence[Any] = ()
    ) -> Association:
        entity = AE(ae_title=self._calling)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = TIMEOUT_S
        entity.connection_timeout = 10.0
        extended = [*roles]
        if self._access.user:
            identity = UserIdentityNegotiation()
            identity.user_identity_type = 2 if self._access.password else 1
            identity.primary_field = self._access.user.encode()
            if self._access.password:
                identity.secondary_field = self._access.password.encode()
            extended.append(identity)
        association = entity.associate(
            self._peer.host,
            self._peer.port,
            contexts,
            self._peer.aet,
            ext_neg=extended,
            tls_args=(self._access.tls(), self._peer.host) if self._peer.tls else None,
            evt_handlers=[(evt.EVT_CONN_OPEN, _without_delay), *handlers],
        )
        if association.is_established:
            return association
        if association.is_rejected:
            answer = association.acceptor.primitive
            fault = BusyError if getattr(answer, "result", 1) == 2 else NetworkError
            raise fault(
                f"expected {self._peer} to accept us as {self._calling}, found {getattr(answer, 'reason_str', 'no')}; "
                f"check the AE titles (VOL3D_AET is ours) and what the peer knows of us"
            )
        if association.rejected_contexts and not association.accepted_contexts:  # pynetdicom then breaks off
            offered = dict.fromkeys(uids.UID(str(c.abstract_syntax)).name for c in association.rejected_contexts)
            raise RejectedError(f"expected {self._peer} to accept {', '.join(offered)}, found it accepts none of it")
        raise self._unreachable()

    def _unreachable(self) -> NetworkError:
        """Tries the bare connection again, for its error: pynetdicom only logs it."""
        try:
            with socket.create_connection((self._peer.host, self._peer.port), timeout=10.0) as plain:
                if self._peer.tls:
                    with self._access.tls().wrap_socket(plain, server_hostname=self._peer.host):
                        pass
        except (TimeoutError, ConnectionError, socket.gaierror) as error:
            return BusyError(f"expected {self._peer} to answer, found {error}")
        except OSError as error:  # ssl.SSLError among them
            return NetworkError(
                f"expected a TLS connection to {self._peer}, found {error}; name its authority in VOL3D_PACS_CA"
            )
        return BusyError(f"expected {self._peer} to accept an association, found it broken off")

    def _drop(self) -> None:
        if self._association is not None and self._association.is_established:
            self._association.release()
        self._association = None

    @contextmanager
    def _linked(self, *args: Any, **named: Any) -> Iterator[Association]:
        association = self._associate(*args, **named)
        try:
            yield association
        finally:
            if association.is_established:
                association.release()

    # -- queries -------------------------------------------------------------------------------------------------

    def _find(self, query: Dataset) -> list[Dataset]:
        with self._linked([build_context(FIND)]) as association:
            records = []
            for status, record in association.send_c_find(query, FIND):
                if self._status(status, "C-FIND") in _PENDING and record is not None:
                    records.append(record)
            return records

    def _get(self, query: Dataset, classes: Sequence[str], handlers: Sequence[Any]) -> None:
        room = (MOST_CONTEXTS - 1) // max(len(classes), 1)
        contexts = [build_context(GET), *(build_context(c, s) for c in classes for s in SYNTAXES[: max(room, 1)])]
        roles = [build_role(c, scp_role=True) for c in classes]
        with self._linked(contexts[:128], roles=roles, handlers=handlers) as association:
            if not any(c.abstract_syntax == GET for c in association.accepted_contexts):
                raise NetworkError(f"expected {self._peer} to answer C-GET, found it does not; receive with --listen")
            for status, _ in association.send_c_get(query, GET):
                self._status(status, "C-GET")

    def _move(self, query: Dataset, classes: Sequence[str], handlers: Sequence[Any], port: int) -> None:
        entity = AE(ae_title=self._calling)
        entity.require_called_aet = True
        for sop_class in classes:
            entity.add_supported_context(sop_class, list(SYNTAXES))
        try:
            server = entity.start_server(("", port), block=False, evt_handlers=list(handlers))
        except OSError as error:
            raise NetworkError(f"expected port {port} to be free to listen on, found {error}") from None
        try:
            with self._linked([build_context(MOVE)]) as association:
                for status, _ in association.send_c_move(query, self._calling, MOVE):
                    self._status(status, "C-MOVE")
        finally:
            if server is not None:
                server.shutdown()

    def _status(self, status: Dataset, what: str) -> int:
        if "Status" not in status:
            raise BusyError(f"expected an answer of {self._peer} to {what}, found the association broken off")
        code = int(status.Status)
        if code in (_SUCCESS, *_PENDING, 0xB000):  # the last: some objects failed, which the caller counts
            return code
        known = {0xA801: f": it does not know our AE title {self._calling} as a destination", 0x0124: ": not allowed"}
        fault = BusyError if 0xA700 <= code < 0xA800 and code != 0xA801 else NetworkError
        raise fault(f"expected {self._peer} to answer {what}, found status {code:04X}H{known.get(code, '')}")


def _without_delay(event: Any) -> None:
    """A C-STORE is a small message before a large one: Nagle's algorithm would hold each object up for 40 ms."""
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _query(level: str, study_uid: str, series_uid: str, uid: str | list[str] | None = None) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = level
    query.StudyInstanceUID = study_uid
    query.SeriesInstanceUID = series_uid
    if uid is not None:
        query.SOPInstanceUID = uid
        query.SOPClassUID = ""
    return query
