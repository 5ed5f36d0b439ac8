from vol3d.text.labeler import find_mentions, finding_names, label_findings

__all__ = ["find_mentions", "finding_names", "label_findings"]
