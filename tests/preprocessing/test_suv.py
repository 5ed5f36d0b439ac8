"""SUV factors: real scanners' metadata, each decay rule by hand, and every refusal."""

import json

import numpy as np
import pytest

from preprocessing.suv import refuse_unlike_suv, suvbw, suvbw_factors
from vol3d.errors import UnitError

F18 = 6586.2
CASES = (
    "BQML_AC_DT_lessThan_S_DT_SIEMENS", "GE_MEDICAL_AND_BQML", "PHILIPS_CNTS_AND_SUV", "RADIOPHARM_DATETIME_UNDEFINED",
    "SIEMENS",
)  # fmt: skip


def image(**changes):
    """70 kg, 350 MBq F-18 at 10:00, scan at 11:00: 3600 s."""
    base = {
        "Units": "BQML",
        "DecayCorrection": "START",
        "CorrectedImage": ["DECY", "ATTN"],
        "PatientWeight": 70,
        "RadionuclideTotalDose": 350e6,
        "RadionuclideHalfLife": F18,
        "RadiopharmaceuticalStartTime": "100000",
        "RadiopharmaceuticalStartDateTime": "20240102100000",
        "SeriesDate": "20240102",
        "SeriesTime": "110000",
        "AcquisitionDate": "20240102",
        "AcquisitionTime": "110000",
        "ActualFrameDuration": 120000,
        "FrameReferenceTime": 0,
    }
    return {k: v for k, v in (base | changes).items() if v is not None}


def expected(seconds):
    return 70_000 / (350e6 * 2 ** (-seconds / F18))


@pytest.mark.parametrize("name", CASES)
def test_real_scanners(data_dir, name):
    record = json.loads((data_dir / "suv_cases/expected.json").read_text())
    instances = json.loads((data_dir / f"suv_cases/{name}-instances.json").read_text())
    factors = suvbw_factors(instances)
    assert len(factors) == len(instances)
    assert factors == pytest.approx([record["suvbw_factor"][name]] * len(instances), rel=record["tolerance_rel"])


def test_known_factor_of_sts_001():
    weight_dose = {"PatientWeight": 71.0, "RadionuclideTotalDose": 388.777472e6, "RadionuclideHalfLife": 6588}
    times = {"RadiopharmaceuticalStartTime": "103500", "RadiopharmaceuticalStartDateTime": None}
    scan = {"SeriesTime": "112011.00", "AcquisitionTime": "112011.00"}
    assert suvbw_factors([image(**weight_dose, **times, **scan)]) == pytest.approx([2.429029766e-4], rel=1e-9)


@pytest.mark.parametrize(
    ("changes", "seconds", "rule"),
    [
        ({}, 3600, "series time"),
        ({"SeriesTime": "105900"}, 3540, "series time"),
        ({"SeriesTime": "114500"}, 3600, "earliest acquisition"),
        ({"SeriesTime": "114500", "GEPrivatePostInjectionDateTime": "20240102105800.00"}, 3480, "GE scan time"),
        ({"DecayCorrection": "ADMIN"}, 0, "ADMIN"),
        ({"RadiopharmaceuticalStartDateTime": None}, 3600, "series time"),
        ({"RadiopharmaceuticalStartDateTime": "20240102100000.000000+0100", "TimezoneOffsetFromUTC": "+0200"}, 0, ""),
        ({"AcquisitionDate": None, "AcquisitionTime": None, "AcquisitionDateTime": "20240102110000.5"}, 3600, "series"),
        ({"SeriesDate": "2024.01.02", "SeriesTime": "11:00:00"}, 3600, "series time"),
        ({"SeriesTime": "1100"}, 3600, "series time"),
        ({"CorrectedImage": None}, 3600, "series time"),
    ],
    ids=[
        "same",
        "series first",
        "series moved",
        "GE",
        "admin",
        "no date",
        "time zones",
        "one DT",
        "old",
        "short",
        "none",
    ],
)
def test_reference_time(changes, seconds, rule):
    found = suvbw([image(**changes)])
    assert found.factors == pytest.approx([expected(seconds)], rel=1e-9)
    assert rule in found.rule


def test_reference_from_the_frame_reference_time():
    """Series time past the acquisition: acquisition - frame reference time + time of the mean count rate."""
    rate = np.log(2) / F18
    mean = np.log(rate * 180 / (1 - np.exp(-rate * 180))) / rate
    beds = [
        image(SeriesTime="120000", AcquisitionTime=f"11{m:02}00", ActualFrameDuration=180000,
              FrameReferenceTime=1000 * (60 * m + mean))
        for m in (3, 6, 9)
    ]  # fmt: skip
    found = suvbw(beds)
    assert found.factors == pytest.approx([expected(3600)] * 3, rel=1e-9)
    assert "frame reference time" in found.rule
    beds[1]["FrameReferenceTime"] = 0  # not in all images: then the earliest acquisition, 11:03
    assert suvbw_factors(beds) == pytest.approx([expected(3780)] * 3, rel=1e-9)


def test_frame_references_that_disagree():
    beds = [image(SeriesTime="120000", FrameReferenceTime=t) for t in (60_000, 600_000)]
    with pytest.raises(UnitError, match="spread of 540 s"):
        suvbw(beds)


def test_start_is_one_time_for_all_beds():
    beds = [image(AcquisitionTime=t) for t in ("110900", "110000", "110300")]
    assert suvbw_factors(beds) == pytest.approx([expected(3600)] * 3, rel=1e-12)


def test_none_without_a_duration_decays_to_the_acquisition():
    beds = [
        image(DecayCorrection="NONE", CorrectedImage=["ATTN"], AcquisitionTime=t, ActualFrameDuration=None)
        for t in ("110000", "111000")
    ]
    assert suvbw_factors(beds) == pytest.approx([expected(3600), expected(4200)], rel=1e-12)


def test_none_refers_to_the_mean_of_a_frame():
    (factor,) = suvbw_factors([image(DecayCorrection="NONE", CorrectedImage=["ATTN"], ActualFrameDuration=600_000)])
    rate = np.log(2) / F18
    # constant uptake that gives 1 SUV at injection: mean over the frame of what is left of it
    left = np.exp(-rate * 3600) * (1 - np.exp(-rate * 600)) / (rate * 600)
    assert factor * left * 350e6 / 70_000 == pytest.approx(1, rel=1e-9)


def test_injection_before_midnight():
    late = image(RadiopharmaceuticalStartTime="233000", RadiopharmaceuticalStartDateTime=None, SeriesTime="003000",
                 AcquisitionTime="003000")  # fmt: skip
    assert suvbw_factors([late]) == pytest.approx([expected(3600)], rel=1e-12)


def test_acquisition_without_date_past_midnight():
    beds = [
        image(RadiopharmaceuticalStartDateTime="20240102225500", SeriesTime="235500", AcquisitionTime=t,
              AcquisitionDate=None)
        for t in ("235500", "000300")
    ]  # fmt: skip
    assert suvbw_factors(beds) == pytest.approx([expected(3600)] * 2, rel=1e-12)


@pytest.mark.parametrize(
    "private", [{"SUVScaleFactor": "0.0007"}, {"SUVScaleFactor": 0.0007, "ActivityConcentrationScaleFactor": 9}]
)
def test_philips_suv_factor(private):
    assert suvbw_factors([image(Units="CNTS", PhilipsPETPrivateGroup=private)]) == [0.0007]


def test_philips_activity_factor():
    private = {"SUVScaleFactor": "0", "ActivityConcentrationScaleFactor": "2.5"}
    assert suvbw_factors([image(Units="CNTS", PhilipsPETPrivateGroup=private)]) == pytest.approx([2.5 * expected(3600)])


@pytest.mark.parametrize("kind", [None, "BW"])
def test_stored_suv(kind):
    assert suvbw_factors([image(Units="GML", SUVType=kind)]) == [1.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Units": None}, "Units .* found none"),
        ({"Units": "PROPCPS"}, "found 'PROPCPS'"),
        ({"Units": "GML", "SUVType": "LBM"}, "SUVType .* found LBM"),
        ({"Units": "CNTS"}, "Philips' private SUV factor"),
        ({"DecayCorrection": None}, "DecayCorrection .* found none"),
        ({"DecayCorrection": "LATER"}, "found 'LATER'"),
        ({"PatientWeight": None}, "PatientWeight .* found none"),
        ({"PatientWeight": 0}, "PatientWeight .* found 0"),
        ({"PatientWeight": 70000}, "PatientWeight .* found 70000"),
        ({"RadionuclideTotalDose": None}, "RadionuclideTotalDose .* found none"),
        ({"RadionuclideTotalDose": 0}, "found 0: supply the administered dose"),
        ({"RadionuclideTotalDose": 350}, "found 350: probably in MBq"),
        ({"RadionuclideHalfLife": None}, "RadionuclideHalfLife .* found none"),
        ({"RadionuclideHalfLife": 0}, "RadionuclideHalfLife .* found 0"),
        (
            {"RadiopharmaceuticalStartTime": None, "RadiopharmaceuticalStartDateTime": None},
            "StartTime .* found neither",
        ),
        ({"RadiopharmaceuticalStartDateTime": "20240102120000"}, "-1.00 to -1.00 h"),
        ({"RadiopharmaceuticalStartDateTime": "19990102100000"}, "10 half-lives"),
        ({"RadiopharmaceuticalStartDateTime": "20240102100000+0100"}, "TimezoneOffsetFromUTC"),
        ({"RadiopharmaceuticalStartDateTime": "yesterday"}, "unreadable"),
        ({"SeriesTime": None}, "SeriesTime .* found none"),
        ({"SeriesDate": None}, "SeriesDate .* found none"),
        ({"AcquisitionTime": None}, "AcquisitionTime .* found none"),
        ({"AcquisitionTime": "256000"}, "AcquisitionTime as .* unreadable"),
        ({"CorrectedImage": ["DECY"]}, "attenuation-corrected"),
        ({"CorrectedImage": ["ATTN"]}, "agree with DecayCorrection START"),
        ({"DecayCorrection": "NONE"}, "agree with DecayCorrection NONE"),
    ],
)
def test_refusals(changes, message):
    with pytest.raises(UnitError, match=message) as caught:
        suvbw([image(**changes)])
    assert "2024" not in str(caught.value)


def test_images_of_two_injections():
    with pytest.raises(UnitError, match="one RadionuclideTotalDose"):
        suvbw([image(), image(RadionuclideTotalDose=300e6)])
    with pytest.raises(UnitError, match="at least one image"):
        suvbw([])


def test_plain_files_that_are_no_suv():
    body = np.random.default_rng(0).gamma(1.0, 1.0, (6, 20, 20)).astype(np.float32)
    body[:, :5] = 0
    refuse_unlike_suv(body, bits=32, scaled=False)
    bladder = body.copy()
    bladder[2:4, 8:12, 8:12] = 180
    refuse_unlike_suv(bladder - 0.3, bits=32, scaled=False)
    for array, bits, message in (
        (body * 5000, 32, "Bq/ml"),
        (body * 100 - 1000, 16, "is this the CT"),
        (np.clip(body * 40, 0, 255), 8, "8 bits"),
    ):
        with pytest.raises(UnitError, match=message):
            refuse_unlike_suv(array, bits=bits, scaled=False)
