"""SUV factors: real scanners' metadata, each decay rule by hand, and every refusal."""

import json

import numpy as np
import pytest

from preprocessing.options import PetSupplement, ReadOptions
from preprocessing.suv import refuse_unlike_suv, suv_factors, suvbw
from preprocessing.suv_header import metadata, supplemented
from preprocessing.suv_nuclides import nuclide_in
from vol3d.errors import ConfigError, UnitError

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


def suvbw_factors(instances):
    return list(suvbw(instances).factors)


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


def test_none_without_a_duration_is_refused():
    """Of an F-18 frame of 20 min the start in place of the mean count would give 6% less, of Rb-82 a third."""
    with pytest.raises(UnitError, match=r"ActualFrameDuration .* found none"):
        suvbw([image(DecayCorrection="NONE", CorrectedImage=["ATTN"], ActualFrameDuration=None)])


def test_a_series_time_that_frame_reference_times_contradict_is_told():
    """Acquired at 11:00 for 120 s, mean count about 60 s later: the reference is 11:00, while the series says 10:05."""
    frame = {"AcquisitionTime": "110000", "FrameReferenceTime": 60_000, "ActualFrameDuration": 120_000}
    assert suvbw([image(SeriesTime="110000", **frame)]).rule.endswith("reference = series time")
    found = suvbw([image(SeriesTime="100500", **frame)])
    assert found.factors == pytest.approx([expected(300)], rel=1e-12)
    assert found.rule.endswith("series time (frame reference times say +3300 s: check it)")


def test_a_start_date_without_a_time_is_no_time():
    found = suvbw([image(RadiopharmaceuticalStartDateTime="20240102", RadiopharmaceuticalStartTime="103000")])
    assert found.factors == pytest.approx([expected(1800)], rel=1e-12)
    with pytest.raises(UnitError, match="found neither"):
        suvbw([image(RadiopharmaceuticalStartDateTime="20240102", RadiopharmaceuticalStartTime=None)])


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


# -- the rest of the matrix ------------------------------------------------------------------------------------------


def factors(**changes):
    return suvbw_factors([image(**changes)])


def test_ge_scan_time_of_another_clock():
    later = {"SeriesTime": "114500", "GEPrivatePostInjectionDateTime": "20240102135800.00"}
    with pytest.raises(UnitError, match=r"GE's private scan time .* found it 2\.97 h from it"):
        factors(**later)


def test_ge_administration_time_stands_in():
    changes = {"RadiopharmaceuticalStartTime": None, "RadiopharmaceuticalStartDateTime": None}
    found = factors(**changes, GEPrivateAdministrationDateTime="20240102095000.00")
    assert found == pytest.approx([expected(4200)], rel=1e-12)


def test_start_time_and_date_time_that_differ_are_noted():
    found = suvbw([image(RadiopharmaceuticalStartTime="103000")])
    assert found.factors == pytest.approx([expected(3600)], rel=1e-12)
    assert found.notes[0] == "suv: RadiopharmaceuticalStartDateTime used; RadiopharmaceuticalStartTime is 30 min off"


def test_tracer_of_days_needs_the_date_of_injection():
    zirconium = {"RadionuclideHalfLife": 282276, "Radionuclide": "^89^Zirconium"}
    with pytest.raises(UnitError, match=r"half-life of 78\.4 h, found a time without its date"):
        factors(**zirconium, RadiopharmaceuticalStartDateTime=None)
    (found,) = factors(**zirconium, RadiopharmaceuticalStartDateTime="20231230100000")
    assert found == pytest.approx(70e3 / (350e6 * 2 ** (-(3 * 86400 + 3600) / 282276)), rel=1e-12)


def test_decay_correction_time_of_an_enhanced_pet_needs_no_series_time():
    found = suvbw([image(SeriesTime=None, DecayCorrectionDateTime="20240102103000")])
    assert found.factors == pytest.approx([expected(1800)], rel=1e-12)
    assert "decay correction time" in found.rule


@pytest.mark.parametrize(
    ("name", "nuclide"),
    [("^18^Fluorine", "F-18"), ("F^18^", "F-18"), ("Fluorodeoxyglucose F^18^", "F-18"), ("18F-FDG", "F-18"),
     ("FDG -- fluorodeoxyglucose", None), ("[68Ga]Ga-PSMA-11", "Ga-68"), ("Gallium 68", "Ga-68"),
     ("PSMA-1007 F-18", "F-18"), ("C-11 Choline", "C-11"), ("82Rb", "Rb-82"), ("Tc-94m", "Tc-94m"), ("", None),
     ("Solution", None)],
)  # fmt: skip
def test_names_of_radionuclides(name, nuclide):
    assert nuclide_in(name) == nuclide


@pytest.mark.parametrize(
    ("half_life", "names", "message"),
    [
        (4062.6, {"Radionuclide": "^18^Fluorine"}, "of F-18, 6586.2 s, found 4062.6: tracer and half-life contradict"),
        (6586.2, {"Radiopharmaceutical": "68Ga-PSMA"}, r"of Ga-68, 4062\.6 s"),
        (109.8, {}, r"found 109\.8 \(in minutes it would be F-18's\)"),
        (5000.0, {}, "none has it"),
    ],
)
def test_half_life_that_does_not_fit(half_life, names, message):
    with pytest.raises(UnitError, match=message):
        factors(RadionuclideHalfLife=half_life, **names)


def test_half_lives_as_headers_round_them():
    for seconds, name in ((6588, "^18^Fluorine"), (6582.0, "F-18"), (4080, "68Ga"), (76.4, "^82^Rubidium"), (6586, "")):
        start = "20240102105900"  # a minute before
        (found,) = factors(RadionuclideHalfLife=seconds, Radionuclide=name, RadiopharmaceuticalStartDateTime=start)
        assert found == pytest.approx(70e3 / (350e6 * 2 ** (-60 / seconds)), rel=1e-12)


def test_a_nuclide_that_is_not_in_the_table_is_taken():
    (found,) = factors(RadionuclideHalfLife=5000, Radionuclide="^201^Unobtainium")
    assert found == pytest.approx(70e3 / (350e6 * 2 ** (-3600 / 5000)), rel=1e-12)


@pytest.mark.parametrize("units", ["BQML", "CNTS", "GML"])
def test_no_unit_excuses_missing_attenuation_correction(units):
    with pytest.raises(UnitError, match="attenuation-corrected"):
        factors(Units=units, CorrectedImage="DECY\\NORM", PhilipsPETPrivateGroup={"SUVScaleFactor": 1e-3})


@pytest.mark.parametrize("kind", ["LBM", "BSA", "IBW", "LBMJANMA", "LBMJAMES128"])
def test_stored_suv_of_another_kind_is_not_suvbw(kind):
    with pytest.raises(UnitError, match=f"SUVType .* found {kind}: not SUV by body weight"):
        factors(Units="GML", SUVType=kind)


@pytest.mark.parametrize("units", ["PROPCPS", "PROPCNTS", "1CM", "PCNT", "MLMINML", "CM2ML", "STDDEV"])
def test_units_that_lead_nowhere(units):
    with pytest.raises(UnitError, match=f"found '{units}': no rule leads"):
        factors(Units=units)


MAN = {"PatientSize": 1.8, "PatientSex": "M", "PatientWeight": 80}
WOMAN = {"PatientSize": 1.6, "PatientSex": "F", "PatientWeight": 60}


@pytest.mark.parametrize(
    ("body", "kind", "grams"),
    [
        (MAN, "lbm", 9270e3 * 80 / (6680 + 216 * 80 / 1.8**2)),  # 61.73 kg
        (WOMAN, "lbm", 9270e3 * 60 / (8780 + 244 * 60 / 1.6**2)),  # 38.36 kg
        (MAN, "bsa", 0.007184 * 80**0.425 * 180**0.725 * 1e4),  # 1.9964 m2, in cm2
        (MAN, "ibw", (48.0 + 1.06 * 28) * 1e3),
        (WOMAN, "ibw", (45.5 + 0.91 * 8) * 1e3),
        (MAN, "bw", 80e3),
    ],
)
def test_other_normalisations(body, kind, grams):
    (found,) = suv_factors([image(**body)], kind)
    assert found == pytest.approx(grams / (350e6 * 2 ** (-3600 / F18)), rel=1e-12)
    note = suvbw([image(**body)]).notes[-1]
    if kind != "bw":
        factor = grams / (body["PatientWeight"] * 1e3)
        assert f"SUV{kind} = {factor:.6g} x SUVbw" in note


def test_lean_body_mass_by_hand():
    assert suv_factors([image(**MAN, DecayCorrection="ADMIN")], "lbm")[0] * 350e6 == pytest.approx(61731.41, rel=1e-6)


def test_stored_suv_of_the_wanted_kind():
    assert suv_factors([image(Units="GML", SUVType="LBMJANMA")], "lbm") == [1.0]
    with pytest.raises(UnitError, match="found LBM:"):  # by which formula?
        suv_factors([image(Units="GML", SUVType="LBM", **MAN)], "lbm")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"PatientSize": None}, "PatientSize .* found none; supply height_m"),
        ({"PatientSize": 0}, "found 0: supply height_m"),
        ({"PatientSize": 180}, "found 180: probably in cm; supply height_m"),
        ({"PatientSex": "O"}, "M or F for SUVlbm, found O; supply sex"),
        ({"PatientSex": None}, "found none; supply sex"),
    ],
)
def test_a_body_that_is_not_known(changes, message):
    with pytest.raises(UnitError, match=message):
        suv_factors([image(**(MAN | changes))], "lbm")
    assert suvbw_factors([image(**(MAN | changes))])  # SUVbw does not need it


SUPPLEMENT = PetSupplement(weight_kg=90, dose_bq=2e8, injected="10:30:00")


def test_supplied_values_stand_in():
    lacking = image(PatientWeight=0, RadionuclideTotalDose=None, RadiopharmaceuticalStartDateTime="20200101100000")
    found = suvbw(supplemented([lacking], SUPPLEMENT.attributes()))
    assert found.factors == pytest.approx([90e3 / (2e8 * 2 ** (-1800 / F18))], rel=1e-12)
    (note,) = found.notes
    assert note == (
        "suv: supplied by the user: PatientWeight, RadionuclideTotalDose, RadiopharmaceuticalStartTime, "
        "RadiopharmaceuticalStartDateTime"
    )
    dated = PetSupplement(injected="2024-01-01 23:00:00").attributes()
    assert suvbw(supplemented([image()], dated)).factors == pytest.approx([expected(12 * 3600)], rel=1e-12)


def test_a_scanners_own_suv_cannot_follow_what_is_supplied():
    both = {"SUVScaleFactor": 7e-4, "ActivityConcentrationScaleFactor": 2.0}
    supplied = {"PatientWeight": 90.0}
    (found,) = suvbw(supplemented([image(Units="CNTS", PhilipsPETPrivateGroup=both)], supplied)).factors
    assert found == pytest.approx(2 * expected(3600) * 90 / 70, rel=1e-12)
    with pytest.raises(UnitError, match=r"activity factor .* to go with what was supplied \(PatientWeight\)"):
        suvbw(supplemented([image(Units="CNTS", PhilipsPETPrivateGroup={"SUVScaleFactor": 7e-4})], supplied))
    with pytest.raises(UnitError, match="stored as SUVbw: the scanner used its own"):
        suvbw(supplemented([image(Units="GML")], supplied))
    assert suvbw(supplemented([image(Units="GML")], {"PatientSize": 1.8})).factors == (1.0,)


@pytest.mark.parametrize("injected", ["half past ten", "2024-01-02", "10", "2024-01 10:30:00", "630"])
def test_injection_times_that_are_none(injected):
    with pytest.raises(ConfigError, match="injected: expected"):
        ReadOptions(pet=PetSupplement(injected=injected))


def test_private_attributes_by_creator_and_without_their_type():
    from pydicom.dataset import Dataset

    header = Dataset()
    header.add_new((0x7053, 0x0010), "LO", "SOMEBODY ELSE")
    header.add_new((0x7053, 0x1000), "DS", "9")
    header.add_new((0x7053, 0x0011), "LO", "Philips PET Private Group")
    header.add_new((0x7053, 0x1100), "UN", b"0.000728 ")
    header.add_new((0x0009, 0x0010), "LO", "GEMS_PETD_01")
    header.add_new((0x0009, 0x100D), "DT", "20240102105800.00")
    header.add_new((0x0009, 0x103B), "DT", "20240102100000.00")
    found = metadata(header)
    assert found["PhilipsPETPrivateGroup"] == {"SUVScaleFactor": "0.000728"}
    assert str(found["GEPrivatePostInjectionDateTime"]) == "20240102105800.00"
    assert str(found["GEPrivateAdministrationDateTime"]) == "20240102100000.00"


@pytest.mark.parametrize(("injected", "hours"), [("170000", "6.00"), ("110500", "0.08"), ("225900", "11.98")])
def test_an_injection_after_the_scan_is_not_of_the_day_before(injected, hours):
    """17:00 in UTC for a local 11:00: taken as the day before, nine half-lives would have passed."""
    clock = image(RadiopharmaceuticalStartDateTime=None, RadiopharmaceuticalStartTime=injected)
    with pytest.raises(UnitError, match=f"injection before the scan, found .* {hours} h after it.*two time zones"):
        suvbw_factors([clock])


def test_an_injection_of_the_evening_before():
    night = {"SeriesTime": "003000", "AcquisitionTime": "003000"}
    clock = image(RadiopharmaceuticalStartDateTime=None, RadiopharmaceuticalStartTime="233000", **night)
    assert suvbw_factors([clock]) == pytest.approx([expected(3600)])


@pytest.mark.parametrize(("method", "refused"), [("NONE", True), ("measured,CT", False), (None, False)])
def test_the_method_speaks_where_corrected_image_is_empty(method, refused):
    said = image(CorrectedImage=None, AttenuationCorrectionMethod=method)
    if refused:
        with pytest.raises(UnitError, match="attenuation-corrected PET, found AttenuationCorrectionMethod NONE"):
            suvbw_factors([said])
    else:
        assert suvbw_factors([said]) == pytest.approx([expected(3600)])


def test_a_private_creator_with_two_blocks():
    from pydicom.dataset import Dataset

    header = Dataset()
    header.add_new((0x7053, 0x0010), "LO", "Philips PET Private Group")
    header.add_new((0x7053, 0x0011), "LO", "Someone else")
    header.add_new((0x7053, 0x0012), "LO", "Philips PET Private Group")
    header.add_new((0x7053, 0x1009), "DS", "1.5")
    header.add_new((0x7053, 0x1100), "DS", "9.9")
    header.add_new((0x7053, 0x1200), "DS", "0.0005")
    found = metadata(header)["PhilipsPETPrivateGroup"]
    assert {k: float(v) for k, v in found.items()} == {
        "ActivityConcentrationScaleFactor": 1.5, "SUVScaleFactor": 0.0005,
    }  # fmt: skip
