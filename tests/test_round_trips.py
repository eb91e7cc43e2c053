"""All text that the package writes or is handed comes back as it was, whatever stands in it."""

import dataclasses
import email.message
import gzip
import io
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eyescream_py.cli import generate_dataset
from eyescream_py.data.cache import cached_rows
from eyescream_py.ganless_hd.checkpoints import write_tensors
from eyescream_py.image_model import replay
from eyescream_py.image_model.data import read_pair_list
from eyescream_py.image_model.ply import Mesh, read_ply, write_ply
from eyescream_py.image_model.prepare import read_abs
from eyescream_py.mln.checkpoints import Progress, load_checkpoint
from eyescream_py.mln.checkpoints import save_checkpoint as save_mln
from eyescream_py.mln.formats.cfl import read_cfl, write_cfl
from eyescream_py.mln.networks import build_network
from eyescream_py.mln.params import params_from, params_text, read_params
from eyescream_py.mln.protocol import network_shape
from eyescream_py.srez import download_data
from eyescream_py.srez.checkpoints import read_checkpoint as read_srez
from eyescream_py.srez.checkpoints import save_checkpoint as save_srez
from eyescream_py.srez.data import split
from eyescream_py.srez.options import Options as SrezOptions
from eyescream_py.srez.steps import build_networks
from eyescream_py.system.errors import UserError
from eyescream_py.system.json_lines import JsonLines, read_json_lines
from eyescream_py.system.safe_tensors import read_header
from tests.mln.small import small_params, spiral_protocol

BOM = b"\xef\xbb\xbf"
some = settings(max_examples=60, deadline=None, derandomize=True)


def file_name(data: bytes) -> str:
    """Any bytes but those that no name holds or no list of lines can; no UTF-8 needed."""
    return os.fsdecode(data.translate(None, b"\0/\n\t")) + ".jpg"


names = st.one_of(
    st.binary(max_size=12).map(file_name),
    st.sampled_from(
        [" a.jpg", "a  b.jpg", "a\u2028b.jpg", "\x85.jpg", '"a.jpg', "é\r.jpg", "7 8.jpg"]
    ),
)
words = st.one_of(names, st.text(max_size=12), st.sampled_from(["1e5", "nan", "-1", '"', "a b "]))
numbers = st.floats(-(2.0**40), 2.0**40, width=32)


def refused_by_params(text: str) -> bool:
    return "\0" in text or text == "None" or "$BASE$" in text


@some
@given(words.filter(lambda w: not refused_by_params(w)), st.floats(1e-30, 1e3), st.booleans())
def test_params(text, rate, windows):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "Params.txt"
        params = params_from(
            {"DatasetMatFN": text, "RealDataFN": text, "learning_rate_start": rate}
        )
        written = params_text(params).encode()
        path.write_bytes(BOM + written.replace(b"\n", b"\r\n") if windows else written)
        assert read_params(path) == params


json_values = st.one_of(
    words, st.integers(-(10**17), 10**17), st.floats(), st.none(), st.booleans(),
    st.lists(st.floats(), max_size=3),
)  # fmt: skip


@some
@given(st.lists(st.dictionaries(words, json_values, max_size=4), max_size=4))
def test_json_lines(records):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "metrics.jsonl"
        log = JsonLines(path)
        for record in records:
            log.write(record)
        log.close()
        assert repr(read_json_lines(path)) == repr(records)  # NaN equals itself so
        path.write_bytes(BOM + path.read_bytes().replace(b"\n", b"\r\n"))
        assert repr(read_json_lines(path)) == repr(records)


@some
@given(st.lists(names, min_size=3, max_size=6, unique=True), st.booleans())
def test_lists_of_held_out_pictures(pictures, windows):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "test list.txt"
        end = b"\r\n" if windows else b"\n"
        path.write_bytes(BOM + end.join(map(os.fsencode, pictures[:2])) + end)
        _, test = split(pictures, 1, 0, str(path))
        assert sorted(test) == [0, 1]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-8"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_texts_from_editors_and_shells_of_windows(encoding, end, tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(f"a b.jpg{end}José.jpg{end}".encode(encoding))
    assert sorted(split(["José.jpg", "c.jpg", "a b.jpg"], 1, 0, str(path))[1]) == [0, 2]
    path.write_bytes(f"a b.jpg\tJosé.jpg{end}".encode(encoding))
    assert read_pair_list(path) == [("a b.jpg", "José.jpg")]
    path.write_bytes(f'LabelsH 64{end}LabelsW 64{end}DatasetMatFN "José"{end}'.encode(encoding))
    assert (read_params(path).image_side, read_params(path).images) == (64, "José")


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("form", ["ascii", "binary_little_endian"])
def test_meshes_with_any_comment_and_line_end(form, end, encoding, tmp_path):
    name = "Jose" if encoding == "ascii" else "José"
    header = [
        "ply", f"format {form} 1.0", f"comment of {name}", "element vertex 3", "property float x",
        "property float y", "property float z", "element face 1",
        "property list uchar int vertex_indices", "end_header",
    ]  # fmt: skip
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 10, 0]], "<f4")
    body = end.join([b"0 0 0", b"1 0 0", b"0 10 0", b"3 0 1 2", b""])
    if form != "ascii":
        body = corners.tobytes() + b"\3" + np.arange(3, dtype="<i4").tobytes()
    path = tmp_path / "a.ply"
    path.write_bytes(b"".join(line.encode(encoding) + end for line in header) + body)
    np.testing.assert_array_equal(read_ply(path).vertices, corners)
    np.testing.assert_array_equal(read_ply(path).triangles, [[0, 1, 2]])


@some
@given(st.lists(st.tuples(names, names), min_size=1, max_size=4), st.booleans())
def test_lists_of_pairs(pairs, windows):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "pairs.txt"
        pairs = [(a.strip(), b.strip()) for a, b in pairs]
        end = b"\r\n" if windows else b"\n"
        path.write_bytes(BOM + end.join(os.fsencode(f"{a}\t{b}") for a, b in pairs))
        assert read_pair_list(path) == pairs


corners = st.lists(st.tuples(numbers, numbers, numbers), min_size=3, max_size=8)


@some
@given(corners.map(np.array), st.booleans())
def test_ply(vertices, windows):
    mesh = Mesh(vertices.astype(np.float32).astype(np.float64), np.array([[0, 1, 2]]))
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "a.ply"
        write_ply(path, mesh)
        binary = read_ply(path)
        rows = [" ".join(map(repr, row)) for row in mesh.vertices.tolist()]
        text = "\n".join([
            "ply", "format ascii 1.0", f"element vertex {len(rows)}", "property float x",
            "property float y", "property float z", "element face 1",
            "property list uchar int vertex_indices", "end_header", *rows, "3 0 1 2", "",
        ])  # fmt: skip
        path.write_bytes(BOM + text.replace("\n", "\r\n" if windows else "\n").encode())
        for read in (binary, read_ply(path)):
            np.testing.assert_array_equal(read.vertices, mesh.vertices)
            np.testing.assert_array_equal(read.triangles, mesh.triangles)


@some
@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=6, max_size=6), st.booleans(), st.booleans()
)
def test_abs(depths, windows, packed):
    flags, axis = "1 1 1 1 1 0", " ".join(map(repr, depths))
    lines = ["2 rows", "3 columns", "pixels (flag X Y Z):", flags, axis, axis, axis, ""]
    text = BOM + ("\r\n" if windows else "\n").join(lines).encode()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / ("a.abs.gz" if packed else "a.abs")
        path.write_bytes(gzip.compress(text, mtime=0) if packed else text)
        expected = [*(np.array(depths[:5]) - min(depths[:5])), 0]
        np.testing.assert_array_equal(read_abs(path).ravel(), expected)


@some
@given(st.lists(st.integers(1, 3), min_size=1, max_size=5), words)
def test_cfl(sizes, seed):
    rng = np.random.default_rng(len(seed))
    values = rng.standard_normal((*sizes, 2)).astype(np.float32).view(np.complex64)
    with tempfile.TemporaryDirectory() as name:
        write_cfl(f"{name}/a b", values)
        header = Path(f"{name}/a b.hdr")
        header.write_bytes(BOM + header.read_bytes().replace(b"\n", b"\r\n"))
        np.testing.assert_array_equal(read_cfl(f"{name}/a b").ravel(), values.ravel())


@some
@given(st.dictionaries(words, json_values, max_size=4))
def test_what_checkpoints_tell_of_themselves(about):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "a.safetensors"
        write_tensors(path, {"a": torch.zeros(2)}, about)
        (text,) = read_header(path).metadata.values()
        read = json.loads(text)
        assert repr({**about, **read}) == repr({**about, "version": read["version"]})
        assert read.keys() == about.keys() | {"version"}


few = settings(some, max_examples=15)
SREZ = SrezOptions(sample_size=32, width=1 / 16, critic_width=1 / 16)
SREZ_NETWORKS = build_networks(SREZ, torch.device("cpu"))
SPIRAL = spiral_protocol()


@few
@given(words, words, st.booleans())
def test_checkpoints_of_srez(folder, command, grey):
    options = dataclasses.replace(SREZ, dataset=folder, on_finish=command)
    with tempfile.TemporaryDirectory() as name:
        path = save_srez(name, SREZ_NETWORKS, options, 3, 1.5, "0f", grey)
        read = read_srez(path)
        assert (read.options, read.batch, read.seconds) == (options, 3, 1.5)
        assert (read.split, read.grey) == ("0f", grey)


@few
@given(words.filter(lambda w: not refused_by_params(w)))
def test_checkpoints_of_mln(text):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "a.safetensors"
        params = small_params(DatasetMatFN=text, RealDataFN=text)
        network = build_network(network_shape(params, SPIRAL), SPIRAL.trajectory)
        adam = torch.optim.Adam(network.parameters())
        save_mln(path, params, network, adam, Progress(), SPIRAL.samples)
        assert load_checkpoint(path).params == params


@few
@given(st.lists(names, min_size=1, max_size=4, unique=True), st.integers(0, 2**62))
def test_the_record_of_what_faces_were_cut_from(photos, seed):
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        job = generate_dataset.Job(home, home / "a", home / "b", seed)
        generate_dataset._prepare(job, photos, overwrite=False)
        (job.augmented / generate_dataset._face_name(0, 0)).write_bytes(b"a face")
        generate_dataset._prepare(job, photos, overwrite=False)
        with pytest.raises(UserError, match="from other photos"):
            generate_dataset._prepare(job, [*photos, "one more"], overwrite=False)


@some
@given(st.integers(0, 2**60), st.integers(0, 9))
def test_the_state_of_a_replay_cache(pushes, count):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "replay.npy"
        replay._write_state(path, pushes, count)
        assert replay._read_state(path, 9) == (pushes, count)


@few
@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40))
def test_what_a_broken_off_download_can_go_on_with(tag):
    with tempfile.TemporaryDirectory() as name:
        part = Path(name) / "photos.zip.part"
        answer = io.BytesIO(b"bytes")
        answer.headers = email.message.Message()
        answer.headers["ETag"] = tag
        answer.headers["Content-Type"] = "application/zip"
        download_data._store(answer, part, 0, "http://localhost", lambda line: None)
        kept = tag and not tag.startswith("W/")
        assert download_data._have(part) == ((5, tag) if kept else (0, ""))


@some
@given(names)
def test_the_cache_of_pictures(picture):
    with tempfile.TemporaryDirectory() as folder:
        calls = []

        def fill(rows):
            calls.append(1)
            rows[:] = 3
            return {"broken": [picture]}

        for _ in range(2):
            rows, notes = cached_rows(Path(folder) / "a", {"names": [picture]}, (2, 2), fill)
            assert rows.tolist() == [[3, 3], [3, 3]]
            assert notes == {"broken": [picture]}
        assert len(calls) == 1
