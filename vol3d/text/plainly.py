"""Ways of saying things in the plainer words that the vocabularies have, before anything is read from a text.

Only what means exactly the same is put in other words; all else stays as it was written.
"""

from __future__ import annotations

import re

_SPINE = r"(?:the\s)?(?:spine|backbone|(?:vertebral|spinal)\scolumn)"
_NEXT_TO = r"(?:alongside|beside|along|flanking|next\sto|adjacent\sto|around|lining)"
_SCAN = r"(?=(?:scans?|stud(?:y|ies)|exam\w*|images?|imaging|ct|pet|series|acquisition)\b)"
_ACTIVITY = r"(?:activity|uptake|metabolism|accumulation)"
_TRACER = r"(?:(?:metabolic|fdg|(?:radio)?tracer|glucose)\s)?"

_PLAIN: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.I), words)
    for pattern, words in (
        # the study; "volume" would ask for millilitres
        (r"\b(?:imaged|scanned|examined|covered|acquired|reconstructed|displayed)\svolumes?\b", "scan"),
        (rf"\b(?:current|present|available|given|provided|latest|today's|actual)\s{_SCAN}", ""),
        # places
        (r"\b(?:any|either|each|every|both|all)\s(?:of\s)?(?:the\s)?lobes?\sof\s(?:the\s)?"
         r"(liver|lungs?)\b",
         r"the \1"),
        (r"\b(?:any|each|every)\s(?:part\s)?of\s(?:the\s)?(vertebrae|lungs|kidneys|bones|muscles)\b",
         r"the \1"),
        (r"\b(?:one\sor\sboth|either\sor\sboth|one\sor\sother)(?:\sof\sthe)?\s(lungs|kidneys|sides)\b", r"the \1"),
        (rf"\b(?:muscles?|musculature|muscular\stissues?|soft\stissues?)\s(?:{_NEXT_TO}|(?:to|on)\seither\sside\sof)\s"
         rf"{_SPINE}", "paraspinal muscles"),
        (rf"\b(?:muscles?|musculature|soft\stissues?)\s(?:to|on)\sthe\s(left|right)(?:\sside)?\sof\s{_SPINE}",
         r"\1 paraspinal muscles"),
        (r"\b(?:space|compartment|region|area|tissues?)\sbetween\s(?:the\s|both\s|the\stwo\s)?lungs\b", "mediastinum"),
        # whole structures
        (r"\b(?:urine|fluid|bile|air|gas|food|contrast)-filled\s(?=(?:urinary\s)?bladder|gall\s?bladder|stomach)", ""),
        (r"\b(gall\s?bladder|bladder|stomach|bowel|colon|o?esophagus)\s(?:including|together\swith|along\swith)\s"
         r"(?:(?:any|all|its|the)\s)*(?:contents?|food|fluid|urine|bile)(?:\s(?:or|and)\s(?:contents?|food|fluid|gas|air|urine|"
         r"bile))*(?:\s(?:in|inside|within)\sit)?$", r"\1"),
        (r"\b(gall\s?bladder|bladder|stomach|gastric|aorta|aortic|bowel|o?esophagus)\s(?:walls?\sand\s(?:lumen|contents?|"
         r"cavity)|(?:lumen|cavity|contents?)\sand\swalls?)$", r"\1"),
        (r"^(?:(?:the\s)?(?:myocardium|heart\smuscle)\s(?:together\swith|including|with|and)\s)?(?:the\s|all\s)?(?:both\s)?"
         r"(?:atria\sand\s(?:both\s|the\s)?ventricles|(?:four\s)?(?:heart|cardiac)\schambers)"
         r"(?:\sand\s(?:the\s)?(?:myocardium|heart\smuscle))?$", "heart"),
        (r"\baorta\sfrom\s(?:the\s)?(?:aortic\s)?(?:root|valve)\s(?:down\s)?to\s(?:the\s)?(?:\w+\s)?bifurcation$",
         "aorta"),
        (r"\b(left|right)\slung\sfield\b", r"\1 lung"),
        (r"\blung\sfields\b", "lungs"),
        (r"^all\s(?:the\s|of\sthe\s)?(?:visible\s|imaged\s|included\s)?(?:vertebrae|vertebral\sbodies)$", "spine"),
        (r"^(?:all\s(?:the\s)?)?(lung|pulmonary|renal|kidney)\s(?:tissues?|parenchyma)\s(?:bilaterally|(?:on|of)\sboth\s"
         r"sides)$", r"both \1 sides"),
        (r"\bthe\spair\sof\s(?=lungs|kidneys)", "both "),
        # looks
        (r"\bnot\s(?:lighting|lit|light)\sup(?:\son\s(?:the\s)?pet)?\b", "without FDG uptake"),
        (r"\b(?:that\s)?(?:lights|lighting|lit)\sup(?:\son\s(?:the\s)?pet)?\b", "with FDG uptake"),
        (r"\b(?:with|showing|at)\s(?:only|just|merely|no\smore\sthan)\s(?:background|blood[- ]pool)"
         rf"(?:[- ](?:levels?|like))?(?:\sof)?\s{_TRACER}{_ACTIVITY}\b", "without FDG uptake"),
        (rf"\b(?:increased|raised|enhanced|heightened)\s{_TRACER}(?:activity|metabolism|accumulation)\b",
         "elevated FDG uptake"),
        (r"\bhazy(?=\s(?:[\w-]+\s){0,3}(?:lesion|nodule|mass|focus|foci|opacit|abnormal|anomal|area))|\bggo(?:-type)?(?=\s)",
         "ground-glass"),
        (r"\b(small|large)-volume\b", r"\1"),
        # figures
        (r"\b(?:of|in|at)\s(?:the|its)\s(?:hottest|brightest|most\sintense|most\sactive)\s(?:voxel|pixel|point|spot)\b",
         "maximum"),
        (r"\s\((?:suv\s?max|in\s(?:mm|cm|ml|cc|suv)|longest\s(?:axial\s)?diameter|mm|ml|cm)\)", ""),
    )
)  # fmt: skip


def plainly(text: str) -> str:
    """The same text in plainer words: "in the imaged volume" is "in the scan", "musculature flanking the spine"
    "paraspinal muscles"."""
    for pattern, words in _PLAIN:
        text = pattern.sub(words, text)
    return " ".join(text.split())
