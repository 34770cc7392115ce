"""Files as people have them: read right, or refused in one line."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctrnn_jax._files import writing
from ctrnn_jax._files.arrays import read_array
from ctrnn_jax._files.signals import read_signal, write_signal

Y = [1.5, 2.25, -0.5, 3.0]
TWO = "1.5,2\n2.25,3\n-0.5,1\n3,0\n"
READ = [
    # text, options, first samples of the channels, names, interval
    ("value\n1,5\n2,25\n-0,5\n3,0\n", {}, [1.5], ["value"], None),
    ("1,05\n2,25\n-0,50\n3,00\n", {}, [1.05], [""], None),
    ("value\n1,5\n2\n-0,5\n3\n", {}, [1.5], ["value"], None),
    ('value\n"1,5"\n"2,25"\n"3"\n"4,5"\n', {}, [1.5], ["value"], None),
    ("1,5\n2,5\n1,5\n4,5\n", {"decimal": ","}, [1.5], [""], None),
    ("1,5\n2,5\n1,5\n4,5\n", {"decimal": "."}, [1, 5], ["", ""], None),
    ("a,b\n" + TWO, {}, [1.5, 2], ["a", "b"], None),
    ("a,b,\n" + TWO.replace("\n", ",\n"), {}, [1.5, 2], ["a", "b"], None),
    (TWO.replace(",", "\t"), {}, [1.5, 2], ["", ""], None),
    (TWO.replace(",", "  "), {}, [1.5, 2], ["", ""], None),
    (TWO.replace(",", "|"), {}, [1.5, 2], ["", ""], None),
    ("0,5 1,5\n1,0 2,5\n0,1 0,1\n2,0 0,1\n", {}, [0.5, 1.5], ["", ""], None),
    ("# t y\n0.0 1\n0.1 2\n0.2 1\n0.3 1\n", {}, [1], ["y"], 0.1),
    (",y\n0,1.5\n1,2.5\n2,0.5\n3,1\n", {}, [1.5], ["y"], None),
    (",0,1\n0,1.5,2\n1,2.5,2\n2,0.5,2\n3,1,2\n", {}, [1.5, 2], ["0", "1"], None),
    ('"rownames","time","value"\n1,1821,269\n2,1822,32\n3,1823,5\n4,1824,8\n', {}, [269],
     ["value"], 1),
    ('"t" "y"\n"1" 0 1.5\n"2" 1 2\n"3" 2 1\n"4" 3 2\n', {}, [1.5], ["y"], 1),
    ("timestamp,y\n1700000000,1\n1700000002,2\n1700000004,1\n1700000006,0\n", {}, [1], ["y"], 2),
    ("timestamp,y\n1700000000000,1\n1700000000010,2\n1700000000020,1\n1700000000030,0\n", {}, [1],
     ["y"], 0.01),
    ("y,ms\n1,0\n2,5\n1,10\n0,15\n", {}, [1], ["y"], 0.005),
    ("t_us,y\n0,1\n5,2\n10,1\n15,0\n", {}, [1], ["y"], 5e-6),
    ("Time,A\n(ms),(V)\n\n-5.0,1.2\n-4.0,1.3\n-3.0,1\n-2.0,1\n", {}, [1.2], ["A"], 1e-3),
    ("x-axis,1\nsecond,Volt\n-5e-3,1.2\n-4e-3,1.3\n-3e-3,1\n-2e-3,1\n", {}, [1.2], ["1"], 1e-3),
    ("Model,DPO2024\nSample Interval,4e-8\n\nTIME,CH1\n0.0,1\n0.1,2\n0.2,3\n0.3,1\n", {}, [1],
     ["CH1"], 0.1),
    ("sep=;\nt;y\n0,0;1\n0,1;2\n0,2;3\n0,3;4\n", {}, [1], ["y"], 0.1),
    ("Zeit [ms];µV\n0;1.234,5\n1;2,5\n2;1\n3;0\n".encode("cp1252"), {}, [1234.5], ["µV"], 1e-3),
    ("t\ty\n0\t1\n1\t2\n2\t3\n3\t4\n".encode("utf-16"), {}, [1], ["y"], 1),
    ("\ufefft;y\r\n0;1,5\r\n1;2\r\n2;3\r\n3;4\r\n", {}, [1.5], ["y"], 1),
    ("Datum;Uhrzeit;W\n" + "".join(f"01.02.2024;12:00:0{k};{k},5\n" for k in (1, 2, 3, 4)), {},
     [1.5], ["W"], 1),
    ("date,y\n" + "".join(f"2024-01-0{k}T00:00:00Z,7\n" for k in (1, 2, 3, 4)), {}, [7], ["y"],
     86400),
    ("0.0 1\n0.1 2\n0.2 1\n0.3 1\n", {"time_column": 0, "time_unit": "ms"}, [1], [""], 1e-4),
    ("t,y,z\n0,1,5\n1,2,6\n2,3,6\n3,4,5\n", {"columns": ["z"]}, [5], ["z"], 1),
]  # fmt: skip
REFUSED = [
    ("1,5\n2,5\n1,5\n4,5\n", "(decimal decides)"),
    ("y\n1,234\n2,345\n1,234\n2,345\n", "(decimal decides)"),
    ("0,1\n1.5,2.5\n2.5,2.0\n0.5,2.2\n1.1,2.0\n", "(header decides)"),
    ("0.0 1\n0.1 2\n0.2 1\n0.3 1\n", "(time_column or columns decides)"),
    ("t,y\n0,1\n1,2\n2\n3,4\n", "got 1 in line 4"),
    ("t,y\n0,1\n1,\n2,2\n3,4\n", "line 3, column 1 ('y')"),
    ("t,y\n0,abc\n1,2\n2,3\n3,4\n", "'abc' in line 2, column 1"),
    ("t,y\n0,1\n1,abc\n2,3\n3,4\n", "'abc' in line 3, column 1"),
    ("t,y\n0,1\n1,inf\n2,3\n3,4\n", "'inf' in line 3"),
    ("t,y\n0,1\n1,2\n2,3\n4,4\n5,5\n", "evenly spaced times, got a step of 2 s to line 5"),
    ("0.5;1,5\n1;2\n3;1\n2;2\n", "one decimal mark"),
    ("1 2\n3 4\n5 6\n\n\n1 2\n3 4\n", "one table"),
    ("y\n1\n-\n2\n3\n4\n", "expected numbers, got '-' in line 3, column 0"),
    ("y\n1\nnan\n2\n3\n4\n", "1 non-finite of 5: 'nan' in line 3, column 0 ('y')"),
    ("X,CH1,Start,Increment\nSequence,Volt,-3e-3,1e-6\n0,1,,\n1,2,,\n2,1,,\n3,1,,\n", "2 names"),
]  # fmt: skip


@pytest.mark.parametrize("text,options,first,names,dt", READ)
def test_layouts_are_read(tmp_path, text, options, first, names, dt):
    (tmp_path / "y.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    signal = read_signal(tmp_path / "y.csv", **options)
    assert np.array_equal(np.atleast_1d(signal.samples[0]), first)
    assert signal.names == tuple(names)
    assert signal.dt == (None if dt is None else pytest.approx(dt, rel=1e-9))


@pytest.mark.parametrize("text,message", REFUSED)
def test_layouts_are_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "y.csv").write_text(text)
    with pytest.raises(ValueError, match=r"^--signal: expected ") as caught:
        read_signal(tmp_path / "y.csv", name="--signal")
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text,samples,times,dt", [
    ("t,y\n5,1\n6,\n7,2\n8,NA\n9,1\n", [1, np.nan, 2, np.nan, 1], None, 1),
    ("ms,y\n0,1\n1,2\n3,nan\n4,4\n5,5\n", [1, 2, np.nan, 4, 5], [0, 1e-3, 3e-3, 4e-3, 5e-3], None),
    ("y\n1\nnan\n2\n3\n", [1, np.nan, 2, 3], None, None),
])  # fmt: skip
def test_gaps_are_read_where_asked_for(tmp_path, text, samples, times, dt):
    (tmp_path / "y.csv").write_text(text)
    signal = read_signal(tmp_path / "y.csv", gaps=True)
    np.testing.assert_array_equal(signal.samples, samples)
    assert signal.dt == dt
    assert (signal.times is None) if times is None else np.allclose(signal.times, times)
    for bad in (text.replace("2", "inf", 1), text.replace("2", "x", 1)):
        (tmp_path / "y.csv").write_text(bad)
        with pytest.raises(ValueError, match="expected"):
            read_signal(tmp_path / "y.csv", gaps=True)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_tables_of_pandas_round_trip(tmp_path_factory, data):
    floats = st.floats(allow_nan=False, allow_infinity=False, width=64)
    rows = data.draw(st.integers(4, 8))
    table = {name: data.draw(st.lists(floats, min_size=rows, max_size=rows)) for name in ("a", "b")}
    unit, scale = data.draw(st.sampled_from([("s", 1), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)]))
    table[f"time [{unit}]"] = [0.5 * k for k in range(rows)]
    order = data.draw(st.permutations(list(table)))
    separator, mark = data.draw(st.sampled_from([(",", "."), (";", ","), (";", "."), ("\t", ",")]))
    text = pd.DataFrame(table)[order].to_csv(
        sep=separator, decimal=mark, index=data.draw(st.booleans())
    )
    path = tmp_path_factory.mktemp("t") / "y.csv"
    path.write_text(text)
    signal = read_signal(path, decimal=mark)
    names = [name for name in order if name in ("a", "b")]
    assert signal.names == tuple(names)
    assert signal.dt == pytest.approx(0.5 * scale, rel=1e-12)
    assert np.array_equal(signal.samples, np.column_stack([table[name] for name in names]))


def _npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


HUGE = _npy(np.zeros(9)).replace(b"(9,), }            ", b"(9999999999999,), }")
BAD = [(_npy(np.zeros((0, 0))), "something in it"), (_npy(np.zeros(9, complex)), "complex128"),
       (_npy(np.zeros(9, [("a", "f8")])), "structured"), (HUGE, "bytes, which are no array"),
       (_npy(np.zeros(9))[:-80], "readable .npy"), (b"numpy", "readable .npy file"),
       (_npy(np.array([1, "a"], object))[:40], "readable .npy")]  # fmt: skip


@pytest.mark.parametrize("data,message", BAD)
def test_arrays_are_refused_in_one_line(tmp_path, data, message):
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(ValueError, match=r"^--weights: expected ") as caught:
        read_array("--weights", tmp_path / "a.npy")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_arrays_by_their_bytes_and_names(tmp_path):
    np.savez(tmp_path / "a.npz", u=np.eye(2), v=np.ones(3))
    with pytest.raises(ValueError, match=r"2 arrays: u \(2, 2\), v \(3,\)$"):
        read_array("--weights", tmp_path / "a.npz")
    assert read_array("--weights", tmp_path / "a.npz", "v").shape == (3,)
    np.savez(tmp_path / "one.npz", u=np.asfortranarray(np.arange(6.0).reshape(2, 3)))
    (tmp_path / "one.npz").rename(tmp_path / "one.npy")
    assert read_array("--weights", tmp_path / "one.npy")[1, 0] == 3
    (tmp_path / "A.csv").write_text("0,1\n-1,0\n")
    assert np.array_equal(read_array("--weights", tmp_path / "A.csv"), [[0, 1], [-1, 0]])


def test_what_is_written_goes_through_links(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "y.npy").symlink_to(tmp_path / "real" / "y.npy")
    (tmp_path / "out").symlink_to(tmp_path / "real")
    write_signal(tmp_path / "y.npy", np.ones((4, 1)), 1.0)
    with writing.appearing_together(tmp_path / "out") as folder:
        (folder / "b").write_text("b")
    assert (tmp_path / "y.npy").is_symlink() and (tmp_path / "out").is_symlink()
    assert {path.name for path in (tmp_path / "real").iterdir()} == {"y.npy", "b"}


def test_wav_rates_that_no_header_holds(tmp_path):
    with pytest.raises(ValueError, match=r"^dt: expected 1 to 2147483647 samples a second"):
        write_signal(tmp_path / "y.wav", np.ones((4, 1)), 1 / 3e9)
    assert not list(tmp_path.iterdir())
