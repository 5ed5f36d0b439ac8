"""Sending to and fetching from a real Orthanc, over DIMSE and DICOMweb, with and without TLS."""

import json
import os
import select
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from preprocessing.phantom import PhantomOptions, write_phantoms
from vol3d.dicom import dimse
from vol3d.dicom.network import parse_peer
from vol3d.errors import NetworkError
from vol3d.workflows.fetch import fetch
from vol3d.workflows.send import _is_cut_off as is_cut_off
from vol3d.workflows.send import send

SMALL = PhantomOptions(ct_spacing_mm=(8.0, 8.0), pet_spacing_mm=((14.0, 14.0, 14.0),))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """One phantom PET/CT, some eighty objects."""
    folder = tmp_path_factory.mktemp("study")
    write_phantoms(folder, 1, 5, "dicom", options=SMALL)
    return next(p for p in folder.iterdir() if p.is_dir())


@pytest.fixture
def copied(study, tmp_path):
    """Sixteen slices of its CT, in a folder that may be written: over DIMSE Orthanc gives some 20 objects a second."""
    return copy(study, tmp_path, 16)


@pytest.fixture
def whole(study, tmp_path):
    """Its whole CT: enough to be killed in the middle of."""
    return copy(study, tmp_path, None)


def copy(study, tmp_path, most):
    out = tmp_path / "send"
    out.mkdir()
    for file in sorted((study / "ct").iterdir())[:most]:
        (out / file.name).write_bytes(file.read_bytes())
    (out / "segmentation.json").write_text("{}")
    return out


def files(folder):
    return {pydicom.dcmread(p).SOPInstanceUID: pydicom.dcmread(p) for p in folder.rglob("*.dcm")}


def study_uid(folder):
    return next(iter(files(folder).values())).StudyInstanceUID


@pytest.mark.parametrize("way", ["dicom", "web"])
def test_sent_once_and_fetched_back(orthanc, copied, tmp_path, way):
    url, ours = getattr(orthanc, way), files(copied)
    done = send(copied, url, show_progress=False)
    assert (len(done.sent), done.there, done.failed, done.left_out) == (len(ours), [], {}, 1)
    assert len(orthanc.stored()) == len(ours)
    again = send(copied, url, show_progress=False)
    assert (again.sent, len(again.there)) == ([], len(ours))
    assert all(len(orthanc.rest(f"/instances/{i}/attachments")) for i in orthanc.stored())

    assert fetch(url, study_uid(copied), tmp_path / "back", show_progress=False) == (len(ours), 0)
    theirs = files(tmp_path / "back")
    assert theirs.keys() == ours.keys()
    for uid, dataset in ours.items():
        assert theirs[uid].PixelData == dataset.PixelData
        assert theirs[uid].file_meta.TransferSyntaxUID == dataset.file_meta.TransferSyntaxUID
        assert theirs[uid].ImagePositionPatient == dataset.ImagePositionPatient
    assert fetch(url, study_uid(copied), tmp_path / "back", show_progress=False) == (0, len(ours))
    for lost in sorted((tmp_path / "back").rglob("*.dcm"))[:3]:
        lost.unlink()
    assert fetch(url, study_uid(copied), tmp_path / "back", show_progress=False) == (3, len(ours) - 3)


def test_fetched_by_move(orthanc, copied, tmp_path, vol3d, capsys):
    url, back = orthanc.dicom, tmp_path / "back"
    assert vol3d("send", copied, "--to", url) == 0
    assert vol3d("fetch", "--from", url, "--study", study_uid(copied), "--out", back, "--listen", orthanc.mover) == 0
    assert f"{len(files(copied))} fetched, 0 there already" in capsys.readouterr().out
    assert {u: d.PixelData for u, d in files(tmp_path / "back").items()} == {
        u: d.PixelData for u, d in files(copied).items()
    }


@pytest.mark.parametrize("way", ["dicom", "web"])
def test_tls_with_an_authority_given_by_file(orthanc_tls, copied, tmp_path, way, monkeypatch):
    url = getattr(orthanc_tls, way)
    assert url.startswith(("dicoms://", "https://"))
    done = send(copied, url, show_progress=False)
    assert len(done.sent) == len(orthanc_tls.stored()) == len(files(copied))
    assert fetch(url, study_uid(copied), tmp_path / "back", show_progress=False)[0] == len(done.sent)
    monkeypatch.delenv("VOL3D_PACS_CA")
    (copied / "sent.jsonl").unlink()
    with pytest.raises(NetworkError, match="VOL3D_PACS_CA"):
        send(copied, url, attempts=1, show_progress=False)


@pytest.mark.parametrize("way", ["dicom", "web"])
def test_compressed_pixels_travel_as_they_are(orthanc, tmp_path, way):
    source = Path(get_testdata_file("examples_jpeg2k.dcm"))
    (tmp_path / "send").mkdir()
    (tmp_path / "send" / "a.dcm").write_bytes(source.read_bytes())
    assert send(tmp_path / "send", getattr(orthanc, way), show_progress=False).failed == {}
    ours = pydicom.dcmread(source)
    fetch(getattr(orthanc, way), ours.StudyInstanceUID, tmp_path / "back", show_progress=False)
    theirs = files(tmp_path / "back")[ours.SOPInstanceUID]
    assert theirs.file_meta.TransferSyntaxUID == ours.file_meta.TransferSyntaxUID
    assert theirs.PixelData == ours.PixelData


def test_wrong_credentials(orthanc, copied, monkeypatch, vol3d, capfd):
    monkeypatch.setenv("VOL3D_PACS_PASSWORD", "hunter2hunter2")
    assert vol3d("send", copied, "--to", orthanc.web) == 1
    told = capfd.readouterr()
    assert "401" in told.err
    assert "VOL3D_PACS_PASSWORD" in told.err
    assert "Traceback" not in told.err
    assert "hunter2" not in told.out + told.err + (copied / "sent.jsonl").read_text()
    assert orthanc.stored() == []


def test_wrong_title_and_nobody_there(orthanc, copied):
    with pytest.raises(NetworkError, match="AE titles"):
        send(copied, orthanc.dicom.replace("ORTHANC", "OTHER"), show_progress=False)
    with pytest.raises(NetworkError, match=r"tried 2 times.*again to go on"):
        send(copied, "dicom://ORTHANC@127.0.0.1:9", attempts=2, pause_s=0.01, show_progress=False)
    with pytest.raises(NetworkError, match="tried 2 times"):
        send(copied, "http://127.0.0.1:9/dicom-web", attempts=2, pause_s=0.01, show_progress=False)
    with pytest.raises(NetworkError, match="404"):
        send(copied, orthanc.web.replace("dicom-web", "nothing"), show_progress=False)
    with pytest.raises(NetworkError, match="no object of it"):
        fetch(orthanc.web, "1.2.3.4", copied / "back", show_progress=False)


@pytest.mark.parametrize("way", ["dicom", "web"])
def test_killed_in_the_middle_and_resumed(orthanc, whole, way):
    """SIGKILL while objects are under way: the second run sends what is missing, and nothing twice."""
    url, total = getattr(orthanc, way), len(files(whole))
    before = len(_stores(orthanc))
    code = f"from vol3d.workflows.send import send; from pathlib import Path; send(Path({str(whole)!r}), {url!r})"
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ, stderr=subprocess.DEVNULL)
    ledger = whole / "sent.jsonl"
    while not ledger.exists() or ledger.read_text().count('"sent"') < 5:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    lines = ledger.read_text().splitlines()
    confirmed = {json.loads(line)["uid"] for line in lines if '"sent"' in line and line.endswith("}")}
    assert 5 <= len(confirmed) < total
    done = send(whole, url, show_progress=False)
    assert done.failed == {}
    assert confirmed <= set(done.there)
    assert len(done.sent) + len(done.there) == total == len(orthanc.stored())
    assert len(_stores(orthanc)) - before == total


def _stores(orthanc):
    """Every instance that ever arrived: Orthanc counts one NewInstance for each that it had not."""
    changes, since, last = [], 0, False
    while not last:
        page = orthanc.rest(f"/changes?limit=1000&since={since}")
        changes += [c for c in page["Changes"] if c["ChangeType"] == "NewInstance"]
        since, last = page["Last"], page["Done"]
    return changes


@pytest.mark.parametrize("way", ["dicom", "web"])
def test_arrived_but_not_confirmed(orthanc, copied, way):
    """The ledger says that an object was under way: the peer is asked, and has it."""
    url = getattr(orthanc, way)
    send(copied, url, show_progress=False)
    ledger = copied / "sent.jsonl"
    lines = ledger.read_text().splitlines()
    assert [json.loads(line)["state"] for line in lines[-2:]] == ["sending", "sent"]
    ledger.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:30])  # the last line torn in two
    done = send(copied, url, show_progress=False)
    assert (done.sent, len(done.there)) == ([], len(files(copied)))
    assert json.loads(ledger.read_text().splitlines()[-1])["remark"] == "found there"


class Unreliable(socketserver.ThreadingTCPServer):
    """A way to Orthanc that swallows what it answers on its first connections."""

    daemon_threads = True

    def __init__(self, port, swallowed):
        self.port, self.swallowed, self.connections = port, swallowed, 0
        super().__init__(("127.0.0.1", 0), Unreliable.Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            self.server.connections += 1
            swallow = self.server.connections <= self.server.swallowed
            with socket.create_connection(("127.0.0.1", self.server.port)) as inner:
                while True:
                    for ready in select.select([self.request, inner], [], [])[0]:
                        content = ready.recv(65536)
                        if not content or (swallow and ready is inner):
                            return
                        (inner if ready is self.request else self.request).sendall(content)


@pytest.mark.parametrize("way", ["dicom", "web"])
def test_lost_answers_are_asked_for_again(orthanc, copied, way, caplog):
    """Two connections break before their answer arrives: tried again, and nothing arrives twice."""
    port = orthanc.port if way == "dicom" else int(orthanc.web.split(":")[2].split("/")[0])
    before = len(_stores(orthanc))
    with Unreliable(port, swallowed=2) as way_there:
        url = getattr(orthanc, way).replace(f":{port}", f":{way_there.server_address[1]}")
        done = send(copied, url, pause_s=0.01, show_progress=False)
        way_there.shutdown()
    assert caplog.text.count("trying again") == {"dicom": 1, "web": 2}[way]  # our own look at a dead peer is one more
    assert len(done.sent) + len(done.there) == len(files(copied)) == len(_stores(orthanc)) - before
    if way == "web":  # the first object had arrived, its answer had not
        assert len(done.there) == 1


def test_other_content_under_a_sent_uid(orthanc, copied):
    send(copied, orthanc.dicom, show_progress=False)
    first = sorted(copied.glob("*.dcm"))[0]
    dataset = pydicom.dcmread(first)
    dataset.PixelData = np.zeros_like(dataset.pixel_array).tobytes()
    dataset.save_as(first)
    done = send(copied, orthanc.dicom, show_progress=False)
    assert list(done.failed) == [first.name]
    assert "UID of its own" in done.failed[first.name]


def test_a_ledger_is_of_one_peer(orthanc, copied):
    send(copied, orthanc.dicom, show_progress=False)
    orthanc.clear()
    assert len(send(copied, orthanc.web, show_progress=False).sent) == len(orthanc.stored()) > 0


def test_no_dicom_there(orthanc, tmp_path, vol3d, capsys):
    (tmp_path / "a.txt").write_text("nothing")
    assert vol3d("send", tmp_path, "--to", orthanc.dicom) == 1
    assert "expected DICOM files" in capsys.readouterr().err


def test_peers_are_told_apart():
    assert str(parse_peer("dicom://PACS@h:104")) == "dicom://PACS@h:104"
    assert str(parse_peer("https://h/dicom-web/")) == "https://h:443/dicom-web"


@pytest.mark.parametrize("way", ["dicom", "web"])
def test_a_file_that_is_cut_off_stays_here_and_the_others_go(orthanc, copied, way):
    """Orthanc keeps half an image over DICOMweb, and hangs up over DIMSE."""
    first, second, *_ = sorted(copied.glob("*.dcm"))
    first.write_bytes(first.read_bytes()[:-100])
    second.write_bytes(second.read_bytes()[: -len(pydicom.dcmread(second).PixelData) - 12])  # to the last header
    done = send(copied, getattr(orthanc, way), show_progress=False)
    assert sorted(done.failed) == [first.name, second.name]
    assert "its end missing" in done.failed[first.name]
    assert len(done.sent) == len(files(copied)) - 2 == len(orthanc.stored())


def test_whole_files_of_every_syntax_are_not_taken_for_cut_off():
    names = [
        "image_dfl.dcm",
        "CT_small.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_RLE.dcm",
        "rtplan.dcm",
        "JPEG2000.dcm",
    ]
    for path in map(Path, map(get_testdata_file, names)):
        assert not is_cut_off(path, str(pydicom.dcmread(path).file_meta.TransferSyntaxUID)), path
    path = Path(get_testdata_file("MR_truncated.dcm"))
    assert is_cut_off(path, str(pydicom.dcmread(path).file_meta.TransferSyntaxUID))


def test_a_kind_that_the_pacs_does_not_take(orthanc, copied, vol3d, capsys):
    """Of one file alone, all that is offered is refused: a message at once, not five tries."""
    first, *others = sorted(copied.glob("*.dcm"))
    for path in others:
        path.unlink()
    dataset = pydicom.dcmread(first)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.276.0.7230010.3.1.0.99"
    dataset.save_as(first)
    assert vol3d("send", copied, "--to", orthanc.dicom) == 1
    told = capsys.readouterr().err
    assert "accepts none of it" in told
    assert "trying again" not in told


def test_many_objects_are_asked_for_in_parts(orthanc, copied, tmp_path, monkeypatch):
    monkeypatch.setattr(dimse, "MOST_ASKED", 7)
    total = len(send(copied, orthanc.dicom, show_progress=False).sent)
    assert total > 7
    assert fetch(orthanc.dicom, study_uid(copied), tmp_path / "back", show_progress=False) == (total, 0)
