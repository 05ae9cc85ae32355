"""Metrics of detected boxes: matches and counts, VOC, COCO, kinds of errors."""
