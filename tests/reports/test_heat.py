"""Pictures of explanations show evidence where it lies."""

import numpy as np

from cnn_jax.reports.heat import enlarged, filter_sheet, map_sheet, overlay, peak


def test_evidence_is_red_for_and_blue_against_and_elsewhere_the_image_is_grey():
    image = np.full((4, 6, 3), (200, 100, 30), np.uint8)
    values = np.zeros((4, 6), np.float32)
    values[1, 2], values[3, 5] = 2.0, -2.0
    shown = overlay(image, values).astype(int)
    assert shown[1, 2, 0] > shown[1, 2, 2] + 100 and shown[3, 5, 2] > shown[3, 5, 0] + 100
    assert np.ptp(shown[0, 0]) == 0
    # No evidence at all is no division by zero.
    assert (overlay(image, np.zeros((4, 6), np.float32))[0] == shown[0, 0]).all()


def test_a_cell_stays_at_its_place():
    values = np.zeros((4, 4), np.float32)
    values[1, 3] = 1
    row, column = peak(enlarged(values, (32, 64)))
    assert 8 <= row < 16 and 48 <= column < 64


def test_filters_are_grey_at_zero_and_each_is_stretched():
    kernel = np.zeros((2, 2, 3, 4), np.float32)
    kernel[0, 0, 0, 1], kernel[1, 1, 2, 2] = 0.5, -7
    sheet = filter_sheet(kernel, width=42)
    assert sheet.shape == (38, 38, 3)  # two by two tiles of 18 pixels, and a gap
    assert (sheet[0, 0] == 128).all()
    assert tuple(sheet[0, 20]) == (255, 128, 128) and tuple(sheet[37, 17]) == (128, 128, 0)


def test_the_strongest_maps_come_first():
    maps = np.zeros((2, 2, 3), np.float32)
    maps[0, 0] = 1, 9, 5
    sheet = map_sheet(maps, most=1, width=10)
    assert sheet.shape == (8, 8, 3) and sheet[0, 0, 0] == 255 and sheet[7, 7, 0] == 0
