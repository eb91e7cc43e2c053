import numpy as np
from skimage.data import astronaut

from eyescream_py.data.face_boxes import face_boxes, merged


def test_a_face_is_one_box_where_it_is():
    (left, top, side), *others = face_boxes(astronaut()[:256, 128:384].mean(2).astype(np.uint8))
    assert not others
    assert abs(left + side / 2 - 95) < 15
    assert abs(top + side / 2 - 115) < 15
    assert 80 < side < 130


def test_a_picture_no_larger_than_the_smallest_face_holds_none():
    assert face_boxes(np.zeros((30, 400), np.uint8)) == []
    assert face_boxes(np.zeros((400, 31), np.uint8)) == []


def test_boxes_around_one_face_become_their_mean_and_other_faces_stay():
    around = [(40, 100, 160), (30, 80, 200), (50, 90, 180)]
    beside = (260, 100, 150)
    assert merged([around[0], beside, *around[1:]]) == [(40, 90, 180), beside]
    assert merged([(0, 0, 30), (2, 1, 32), (100, 0, 40)]) == [(100, 0, 40), (1, 0.5, 31)]
    assert merged([]) == []
