"""Which masks count as the same thing when questions are shared out."""

import pytest

from vol3d.cache import MaskRecord
from vol3d.data.index import concept


@pytest.mark.parametrize(
    ("label", "finding", "expected"),
    [
        ("lesion_2", "lesion_2", "lesion"),
        ("lesions_1_3", "lesion_1+lesion_3", "lesions"),
        ("pulmonary nodule 12", "n12", "pulmonary nodule"),
        ("rib_left_5", None, "rib_left_5"),
        ("7", "7", "7"),
    ],
)
def test_the_number_of_a_finding_is_no_concept(label: str, finding: str | None, expected: str) -> None:
    mask = MaskRecord(name="mask", label=label, finding_id=finding, phrases=("it",), image="ct", voxels=1)
    assert concept(mask) == expected
