"""Machine descriptions: the shipped ones, the two formulas, and the sentence that each broken file gives."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphsched.errors import OptionError
from graphsched.graph.cost import Cost
from graphsched.machine import description
from graphsched.machine.description import load
from graphsched.machine.machine import KINDS, Link, Processor, copy_seconds, node_seconds

SMALL = """
name = "small"
[host]
name = "cpu"
memory_bytes = 16e9
bandwidth = 50e9
launch_us = 1
rates = { f32 = 1e12, f16 = 1e12, bf16 = 1e12, int8 = 2e12 }
[[device]]
name = "gpu"
memory_bytes = 8_000_000_000
bandwidth = 500e9
launch_us = 2.5
rates = { f32 = 10e12, f16 = 20e12, bf16 = 20e12, int8 = 40e12 }
link = { up = 12e9, down = 13e9, latency_us = 10 }
"""


def written(folder: Path, text: str | bytes, name: str = "m.toml") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_the_shipped_machines() -> None:
    assert description.names() == ["2x3090", "h200", "rtx4080-7950x", "rtx4090", "rtx4090-pcie3x4"]
    for name in description.names():
        m = load(f"sim:{name}")
        assert len(m.devices) == (2 if name == "2x3090" else 1)
        for d in m.devices:
            assert d.processor.bandwidth > 5 * m.host.bandwidth > 10 * d.link.up
            assert all(d.processor.rates[kind] > m.host.rates[kind] for kind in KINDS)
    wide, narrow = load("sim:rtx4090"), load("sim:rtx4090-pcie3x4")
    assert wide.host == narrow.host
    assert wide.devices[0].processor == narrow.devices[0].processor
    assert wide.devices[0].link.up > 7 * narrow.devices[0].link.up


def test_every_figure_of_the_shipped_machines_has_its_source_in_a_comment() -> None:
    folder = Path(description.__file__).parents[1] / "data" / "machines"
    for path in folder.glob("*.toml"):
        above = ""
        for line in path.read_text().splitlines():
            if re.match(r"\w+ = [\d.]", line):
                assert "#" in line or above, f"{path.name}: {line}"
            above = line if line.startswith("#") else above if line.strip() else ""


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = written(tmp_path, SMALL)
    m = load(path)
    assert m == load(str(path)) == load(f"sim:{path}")
    assert (m.name, m.host.name, m.host.memory_bytes) == ("small", "cpu", 16_000_000_000)
    assert m.devices[0].link == Link(12e9, 13e9, 10)
    assert m.devices[0].processor.rates == {"f32": 10e12, "f16": 20e12, "bf16": 20e12, "int8": 40e12}


def test_a_node_takes_the_longer_of_reading_and_computing() -> None:
    p = Processor("p", 1, 100e9, {"f32": 1e12, "int8": 4e12}, 5, 5)
    assert node_seconds(p, Cost(1e9, 50e9, "f32")) == pytest.approx(0.5)
    assert node_seconds(p, Cost(3e12, 50e9, "f32")) == pytest.approx(3)
    assert node_seconds(p, Cost(3e12, 50e9, "int8")) == pytest.approx(0.75)
    assert node_seconds(p, Cost(0, 0, "f32")) == 0


def test_a_copy_takes_its_latency_and_its_bytes() -> None:
    link = Link(10e9, 20e9, 8)
    assert copy_seconds(link, 1e9, "up") == pytest.approx(8e-6 + 0.1)
    assert copy_seconds(link, 1e9, "down") == pytest.approx(8e-6 + 0.05)


NUMBER = "a number above 0 and up to 1e+21 is needed"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('name = "small"', "", "key name is missing"),
        ('name = "small"', "name = 3", "key name is 3, a text is needed"),
        ('name = "small"', 'name = ""', "key name is empty, a text is needed"),
        ('name = "small"', r'name = "a\nb"', r"key name is a\nb, a text is needed"),
        ('name = "cpu"\n', "", "key host.name is missing"),
        ("memory_bytes = 16e9\n", "", "key host.memory_bytes is missing"),
        ("bandwidth = 50e9", "bandwidth = 0", f"key host.bandwidth is 0, {NUMBER}"),
        ("bandwidth = 50e9", "bandwidth = -5e9", f"key host.bandwidth is -5000000000.0, {NUMBER}"),
        ("bandwidth = 50e9", "bandwidth = nan", f"key host.bandwidth is nan, {NUMBER}"),
        ("bandwidth = 50e9", "bandwidth = 1e400", f"key host.bandwidth is inf, {NUMBER}"),
        ("bandwidth = 50e9", 'bandwidth = "fast"', f"key host.bandwidth is fast, {NUMBER}"),
        ("bandwidth = 50e9", "bandwidth = true", f"key host.bandwidth is true, {NUMBER}"),
        ("bandwidth = 50e9", "bandwith = 50e9", "key host.bandwidth is missing"),
        ("launch_us = 1\n", f"launch_us = 1{'0' * 60}\n", f"key host.launch_us is 1{'0' * 39}, {NUMBER}"),
        ("f32 = 1e12, ", "", "key host.rates.f32 is missing"),
        ("int8 = 2e12", "int8 = 2e12, int4 = 1", "key host.rates.int4 is unknown"),
        ("launch_us = 1\n", "launch_us = 1\nwatts = 170\n", "key host.watts is unknown"),
        ("[host]", "[cpu]", "key host is missing"),
        ("[host]", "[[host]]", "key host is a list, a table is needed"),
        (
            "[[device]]",
            "[device]",
            "key device is a table, at least one table [[device]] is needed",
        ),
        ("[[device]]", "[[gpu]]", "key device is missing"),
        ('name = "small"', 'name = "small"\nyear = 2024', "key year is unknown"),
        ("up = 12e9", "up = -1", f"key device[0].link.up is -1, {NUMBER}"),
        (", latency_us = 10", "", "key device[0].link.latency_us is missing"),
        ("down = 13e9", "down = 13e9, peer = 1", "key device[0].link.peer is unknown"),
        (
            "link = { up = 12e9, down = 13e9, latency_us = 10 }",
            "link = 3",
            "key device[0].link is 3, a table is needed",
        ),
        ("launch_us = 2.5", "launch_us = 2.5\ncores = 1", "key device[0].cores is unknown"),
    ],
)
def test_a_broken_description_is_an_error(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    assert SMALL.count(old) >= 1
    with pytest.raises(OptionError) as e:
        load(written(tmp_path, SMALL.replace(old, new, 1)))
    assert str(e.value).startswith(f"m.toml: {sentence}")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "text",
    [SMALL.split("[[device]]")[0], SMALL.split("[[device]]")[0].replace("[host]", "device = []\n[host]")],
)
def test_a_machine_without_devices_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(OptionError) as e:
        load(written(tmp_path, text))
    assert str(e.value) in (
        "m.toml: key device is missing",
        "m.toml: key device is a list, at least one table [[device]] is needed",
    )


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"name", "not a TOML file, "),
        (b"a = 1\na = 2", "not a TOML file, Cannot overwrite a value"),
        (b"\xff\xfe", "not a TOML file, 'utf-8' codec can't decode byte 0xff"),
        (b"a = " + b"[" * 100_000, "not a TOML file, "),
        (b"a = " + b"9" * 5000, "not a TOML file, "),
        (b"", "key host is missing"),
        (b"#" * (1 << 20) + b"#", "more than 1048576 bytes for a machine"),
    ],
)
def test_a_file_of_something_else_is_an_error(tmp_path: Path, data: bytes, sentence: str) -> None:
    with pytest.raises(OptionError) as e:
        load(written(tmp_path, data))
    assert str(e.value).startswith(f"m.toml: {sentence}")
    assert "\n" not in str(e.value)


THERE = "there are sim:2x3090, sim:h200, sim:rtx4080-7950x, sim:rtx4090, sim:rtx4090-pcie3x4, or a .toml file"


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("sim:rtx5090", f"no machine rtx5090; {THERE}"),
        ("sim:", f"no machine is named; {THERE}"),
        ("sim:../rtx4090", f"no machine ../rtx4090; {THERE}"),
        ("sim:a\nb", rf"no machine a\nb; {THERE}"),
        ("missing.toml", "missing.toml: no such file or directory"),
        ("/missing/m.toml", "/missing/m.toml: no such file or directory"),
    ],
)
def test_an_unknown_machine_is_an_error(spec: str, sentence: str) -> None:
    with pytest.raises(OptionError) as e:
        load(spec)
    assert str(e.value) == sentence


def test_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "m.toml").mkdir()
    with pytest.raises(OptionError, match=r"/m\.toml: (is a directory|permission denied)$"):
        load(tmp_path / "m.toml")


@settings(deadline=None, max_examples=100)
@given(st.integers(0, len(SMALL)), st.binary(max_size=4), st.integers(0, 9))
def test_nothing_but_option_errors_comes_out(
    tmp_path_factory: pytest.TempPathFactory, at: int, piece: bytes, cut: int
) -> None:
    raw = SMALL.encode()
    path = written(tmp_path_factory.getbasetemp(), raw[:at] + piece + raw[at + cut :], "fuzz.toml")
    try:
        load(path)
    except OptionError as e:
        sentence = str(e)
        assert sentence.startswith("fuzz.toml: ")
