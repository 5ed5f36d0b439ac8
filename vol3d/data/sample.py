"""What the dataset yields: one patch of one study and what is asked of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vol3d.data.contrast import Contrast


@dataclass
class Sample:
    """One patch, P phrases, their masks."""

    study_id: str
    index: int
    """The number of the sample; with the seed it determines everything in it."""
    image_CZYX: Tensor
    """float32, see `vol3d.data.channels`."""
    phrases: tuple[str, ...]
    """P texts as the text encoder sees them; then, if the run asks for them, statements that no mask shows."""
    mask_PZYX: Tensor
    """uint8 0/1."""
    present_P: Tensor
    """float32: 1 the phrase is in this patch, 0 it is not, nan unknown or too little of it: no presence loss."""
    known_P: Tensor
    """bool: False where the mask is unknown here (or the phrase only fills up the list): no mask loss."""
    finding_ZYX: Tensor | None = None
    """uint8: 0, or the number of the finding there is, if the run asks for it."""
    contrast: Contrast | None = None
    """Section texts to contrast the image with, if the run asks for them."""
