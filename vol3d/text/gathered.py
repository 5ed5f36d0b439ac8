"""The lesion that a question is about where no frame fits: what is left of its words without those that only ask."""

from __future__ import annotations

import re

from vol3d.text.meaning import meaning_of

_ASKS = re.compile(
    r"what|which|where(?:abouts)?|how|who|many|much|do|does|did|you|we|i|me|us|it|can|could|would|will|should|may|be|"
    r"been|has|have|had|was|were|please|tell|give|say|show(?:s|n|ing)?|state|specify|indicate|identif(?:y|ied)|name|list|"
    r"report|describe|comment|outline|summari[sz]e|provide|point|out|about|measure[sd]?|compute|calculate|quantify|"
    r"estimate|determine|assess|evaluate|count(?:ed)?|number|total|there|see|note[sd]?|notice|appreciate|detect(?:ed)?|"
    r"recogni[sz](?:e|able)|demonstra(?:ble|tes?|ted)|appreciable|evident|apparent|visuali[sz]ed?|reveal(?:s|ed)?|"
    r"depict(?:s|ed)?|display(?:s|ed)?|contain(?:s|ing|ed)?|harbou?r(?:s|ing|ed)?|hold(?:s|ing)?|hous(?:es?|ing|ed)|"
    r"bear(?:s|ing)?|exactly|precisely|separate|individual|distinct|different|lies?|sits?|belongs?|arises?|reside[sd]?|"
    r"occup(?:y|ies|ied)|reach(?:es|ed)?|organs?|structures?|anatomic(?:al)?|site|location|position|place|laterality|"
    r"body|patient|imaging|pet/ct|mm|cm|ml|cc|cubic|millilit\w+|millimet\w+|centimet\w+|across|diameters?|dimensions?|"
    r"extent|size|volum(?:e|etric)|long(?:est)?(?:-axis)?|maxim(?:um|al)|greatest|axial|in-plane|axis|length|wide|width|"
    r"suv(?:max)?|value|peak|measurements?|take|takes|space|amount|room|anything|wrong|abnormal|account|evidence|signs?|any|for|by|or|as|if|whether|so|here|your|"
    r"my|their|high|highest|most|at|involve[sd]?|affect(?:s|ed|ing)?|check|confirm|verify|look(?:s|ing|ed)?|"
    r"made?|making|review|search|find(?:s|ing)?|found|spot(?:s|ted)?|discern(?:s|ed|ible)?|delineate[sd]?|exhibit(?:s|ed|ing)?|"
    r"hosts?|hosting|include[sd]?|including|cover(?:s|ed|ing)?|locali[sz](?:e|es|ed|able)|locat(?:e|ion|ed)|situated|"
    r"cent(?:re|er)ed|seated|establish|decide|clarify|mention|present(?:s|ed)?|appear(?:s|ing)?|occurs?|exists?|"
    r"features?|comprises?|spans?|acquired|performed|obtained|taken|kindly|know|let|need|want|like|wish|question|answer|"
    r"types?|kinds?|sorts?|components?|voxels?|pixels?|slices?|planes?|sections?|scans?|stud(?:y|ies)|series|exam\w*|"
    r"current|today's|available|given|entire|overall|level|activity|intensity|intense|reading|recorded|figure|he|she|"
    r"his|her|him|one|ones|got|get|gets|anywhere|somewhere|particular|specific|certain|really|actually|currently|now|"
    r"also|just|kindly|side|sided|affected|concerned|cubic|cc|millimetres?|millilitres?|capacity|bulk",
    re.I,
)
"""Words of questions. None may tell one lesion from another."""
_LOOSE = re.compile(r"^(?:(?:the|an?|of|in|on|is|are|that|which|this|these|and|to|with)\b\s*)+|"
                    r"(?:\s*\b(?:the|an?|of|in|on|is|are|that|which|this|these|and|to))+$", re.I)  # fmt: skip
_FIRST = re.compile(r"^(?:(?:is|are|that|which|this|these|and|to|on)\b\s*)+", re.I)
_SIDES = re.compile(
    r"(?:\bon\s)?(?:\bthe\s)?\b(?:left|right)(?:\sside|-sided)?,?\s(?:or|and)\s(?:on\s)?(?:the\s)?(?:left|right)\b(?:\sside|-sided)?",
    re.I,
)
"""What a question about the side may offer."""
_FIGURE = re.compile(
    r"\b(?:(?:highest|maximum|maximal|peak|mean|average)\s)?standardi[sz]ed\suptake(?:\svalues?)?\b|\btakes?\sup\b|\bhow\s(?:large|big)\b|"
    r"\bhow\s(?:intense|strong|high|marked|hot)\s(?:is|are)\s(?:the\s)?(?:(?:fdg|tracer|metabolic)\s)?(?:uptake|activity)\b",
    re.I,
)
_IN_SCAN = re.compile(r"\b(?:in|on|from|by)\s(?:(?:the|this|these|his|her)\s)?(?:imaging|ct|pet(?:/ct)?)(?=$|\s)", re.I)


def gathered(text: str, *, place_alone: bool) -> str | None:
    """The phrase, if all words of a question either ask or belong to one lesion that is understood; else None.

    Args:
        text: of a question.
        place_alone: a place without a thing stands for a lesion there: "What do you see in the liver?".
    """
    for pattern in (_IN_SCAN, _SIDES, _FIGURE):
        text = pattern.sub(" ", text)
    words = re.findall(r"[\w/'-]+", text)
    rest = " ".join(w for w in words if not _ASKS.fullmatch(w))
    phrase, rest = _LOOSE.sub("", rest), _FIRST.sub("", rest)
    if meaning_of(phrase) is not None:
        return phrase
    if place_alone and (meaning := meaning_of(f"lesion {rest}")) is not None and meaning.organ is not None:
        placed = re.match(r"(?:in|of|within|inside)\b", rest)
        return f"lesion {rest}" if placed else f"lesion in the {rest}"
    return None
