"""Every memory cell against its published formula: mean and standard deviation, level by level, on a million cells."""

import math
from pathlib import Path

import pytest
import torch
from reference import devices as published

from hardy.core import InputError
from hardy.hardware import (
    PCM,
    AdditiveDevice,
    Chip,
    Device,
    FittedDevice,
    FoundationPCM,
    HermesPCM,
    LogNormalDevice,
    ProportionalDevice,
    ReramCMO,
    ReramWan,
    Sonos,
    TableDevice,
)
from hardy.hardware.device import device_from_dict

MILLION = 1_000_000
DAY = 86400.0


def cells(device: Device, level: float, seconds: float = 0.0, seed: int = 0) -> torch.Tensor:
    """A million of them, all told to hold `level`."""
    random = torch.Generator().manual_seed(seed)
    normals = torch.randn(device.normals, MILLION, generator=random)
    return device.conductance(torch.full((MILLION,), float(level)), normals, seconds).double()


def levels(device: Device) -> list[float]:
    span = device.g_max - device.g_min
    return [device.g_min + share * span for share in (0.0, 0.02, 0.09, 0.15, 0.3, 0.5, 0.75, 1.0)]


def shown(value: object) -> str:
    """The same in every process: addresses are not."""
    return getattr(value, "__name__", str(value))[:24]


PROGRAMMING = [
    (PCM(), published.pcm, True),
    (HermesPCM(), published.hermes, True),
    (HermesPCM(devices=1, g_max=10.35), published.hermes_one, True),
    (FoundationPCM(), published.afm, False),
    (ReramWan(), published.wan, True),
    (ReramCMO(), published.cmo, False),
    (ReramCMO(acceptance=0.2), published.cmo_fine, False),
    (Chip.preset("reram-milo").device, published.milo, False),
    (Chip.preset("reram-wan-cubic").device, published.wan_cubic, False),
    (Chip.preset("pcm-joshi").device, published.joshi, True),
    (Sonos(), published.sonos, True),
    (AdditiveDevice(g_min=5, program=0.03), lambda g: (g, 0.6), False),
    (ProportionalDevice(program=0.2), lambda g: (g, 0.2 * g), False),
]


@pytest.mark.parametrize(("device", "formula", "truncated"), PROGRAMMING, ids=shown)
def test_programming_has_the_moments_of_its_formula(
    device: Device, formula: published.Formula, truncated: bool
) -> None:
    for level in levels(device):
        held = cells(device, level)
        mean, std = published.truncated(*formula(level)) if truncated else formula(level)
        assert held.std().item() == pytest.approx(std, rel=0.01, abs=1e-6), level
        assert abs(held.mean().item() - mean) <= 0.01 * std + 1e-5 * device.g_max, level
        if truncated:
            assert held.min() >= 0


LATER = [
    (ReramWan(), DAY, published.wan_one_day),
    (ReramWan(), 2 * DAY, published.wan_two_days),
    (Sonos(), DAY, published.sonos_one_day),
]


@pytest.mark.parametrize(("device", "seconds", "formula"), LATER, ids=shown)
def test_later_it_has_the_moments_of_its_later_formula(
    device: Device, seconds: float, formula: published.Formula
) -> None:
    for level in levels(device):
        held = cells(device, level, seconds)
        mean, std = published.truncated(*formula(level))
        assert held.std().item() == pytest.approx(std, rel=0.01, abs=1e-6), level
        assert abs(held.mean().item() - mean) <= 0.01 * std + 1e-5 * device.g_max, level


DRIFTING = [
    (PCM(), published.pcm, published.pcm_exponent, 20.0),
    (HermesPCM(), published.hermes, published.hermes_exponent, 300.0),
    (HermesPCM(devices=1, g_max=10.35), published.hermes_one, published.hermes_one_exponent, 200.0),
]


@pytest.mark.parametrize(("device", "program", "exponent", "first"), DRIFTING, ids=shown)
@pytest.mark.parametrize("seconds", [3600.0, 365 * DAY])
def test_drift_has_the_moments_of_its_power_law(
    device: Device, program: published.Formula, exponent: published.Formula, first: float, seconds: float
) -> None:
    for level in levels(device):
        held = cells(device, level, seconds)
        ratio = (seconds + first) / first
        mean, std = published.power_law_moments(program(level), exponent(level), ratio)
        assert held.std().item() == pytest.approx(std, rel=0.01), level
        assert abs(held.mean().item() - mean) <= 0.01 * std, level


def test_a_cell_without_spread_of_the_exponent_drifts_exactly() -> None:
    target = torch.tensor([25.0])
    held = PCM().conductance(target, torch.zeros(2, 1), 20 * 99)
    assert held.item() == pytest.approx(25 * 100 ** -max(0.0244, 0.049))


@pytest.mark.parametrize(
    ("device", "formula", "second"),
    [
        (PCM(), published.pcm_read, 0.0),
        (PCM(), published.pcm_read, 3600.0),
        (HermesPCM(), published.hermes_read, 3600.0),
        (HermesPCM(devices=1, g_max=10.35), published.hermes_one_read, 3600.0),
        (ReramCMO(), published.cmo_read, 3600.0),
        (Sonos(), published.sonos_read, 0.0),
    ],
)
def test_read_noise_is_that_of_its_formula(device: Device, formula: object, second: float) -> None:
    programmed = torch.tensor([level for level in levels(device) if level > 0])
    held = 0.8 * programmed + 0.2 * device.g_max
    std = device.read_std(programmed, held, second)
    assert std is not None
    expected = [formula(p, h, second) for p, h in zip(programmed.tolist(), held.tolist(), strict=True)]
    assert std.tolist() == pytest.approx(expected, rel=5e-3)


def test_reading_a_pair_of_wan_cells_has_one_percent_of_the_range() -> None:
    std = ReramWan(g_max=30).read_std(torch.ones(3), torch.ones(3), 0)
    assert std is not None
    assert (std.square() * 2).sqrt().tolist() == pytest.approx([0.3] * 3)
    assert ReramWan(weight_read=0).read_std(torch.ones(3), torch.ones(3), 0) is None


def test_the_relaxation_of_cmo_cells() -> None:
    """In the middle of the range, where nothing is clipped: mean and spread of programming and relaxation together."""
    device, level, seconds = ReramCMO(), 50.0, 1e6
    held = cells(device, level, seconds)
    log = math.log(seconds)
    assert held.mean().item() == pytest.approx(level - 0.0890 * log, rel=1e-3)
    assert held.std().item() == pytest.approx(math.hypot(published.cmo(level)[1], 0.0420 * log + 0.4118), rel=0.01)
    assert cells(device, 9.0, seconds).min() >= device.g_min
    assert cells(device, 88.2, seconds).max() <= device.g_max * (1 + 1e-6)


def test_log_normal_cells() -> None:
    held = cells(LogNormalDevice(sigma=0.3), 10.0)
    assert held.log().mean().item() == pytest.approx(math.log(10), abs=0.003)
    assert held.log().std().item() == pytest.approx(0.3, rel=0.01)


@pytest.mark.parametrize(
    ("kind", "small", "large"),
    [(PCM, 10.0, 100.0), (ReramWan, 25.0, 100.0), (FoundationPCM, 25.0, 180.0)],
)
def test_the_error_keeps_its_share_of_g_max(kind: type[Device], small: float, large: float) -> None:
    """aihwkit's ReRAM model fails this: 0.0805 at 25 uS, 0.0506 at 40, 0.0202 at 100."""
    shares = [cells(kind(g_max=g_max), g_max / 2).std().item() / g_max for g_max in (small, 40.0, large)]
    assert shares == pytest.approx([shares[0]] * 3, rel=1e-4)
    if kind is ReramWan:
        assert shares[0] == pytest.approx(0.0506, rel=0.01)


def test_a_cell_keeps_its_place_as_the_spread_widens() -> None:
    early, late = cells(ReramWan(), 20.0, 1.0), cells(ReramWan(), 20.0, 2 * DAY)
    assert torch.corrcoef(torch.stack([early, late]))[0, 1] > 0.999
    between = [cells(ReramWan(), 20.0, t).std().item() for t in (0.0, 1.0, 100.0, DAY, 1.5 * DAY, 2 * DAY)]
    assert between[0] == between[1]
    assert between == sorted(between)


def test_no_weight_of_the_foundation_chip_below_the_smallest_level() -> None:
    assert cells(FoundationPCM(), 0.59).abs().max() == 0
    assert cells(FoundationPCM(), 0.61).std() > 2


@pytest.mark.parametrize(
    ("device", "seconds", "message"),
    [
        (ReramWan(), 3 * DAY, "ReramWan is known up to 172800 s after programming, got 259200 s"),
        (Sonos(), 6 * DAY, "Sonos is known up to 432000 s"),
        (FoundationPCM(), 1.0, "known right after programming only"),
        (Chip.preset("reram-milo").device, 1.0, "known right after programming only"),
        (PCM(), -1.0, "seconds since programming must be a finite number of at least 0, got -1.0"),
        (PCM(), math.inf, "seconds since programming must be a finite number"),
    ],
)
def test_times_at_which_nothing_is_known_are_refused(device: Device, seconds: float, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        device.conductance(torch.ones(2), torch.zeros(device.normals, 2), seconds)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ReramCMO(acceptance=0.02), "acceptance must be 0.2 or 2 percent of the target, got 0.02"),
        (lambda: ReramCMO(g_min=0.5), "g_min must be at least 1 uS"),
        (lambda: HermesPCM(devices=3), "devices must be 1 or 2, got 3"),
        (lambda: HermesPCM(devices=1), "g_max must be at most 10.35 uS with devices=1, got 20.7"),
        (lambda: PCM(g_max=-1), "g_max must be a finite number above 0, got -1"),
        (lambda: PCM(g_max=math.nan), "g_max must be a finite number"),
        (lambda: PCM(g_min=True), "g_min must be a finite number of at least 0, got True"),
        (lambda: Sonos(g_max=20), "g_max must be at most 16 uS"),
        (lambda: FoundationPCM(g_min=1), "g_min must be 0"),
        (lambda: AdditiveDevice(program=-0.1), "program must be a finite number of at least 0, got -0.1"),
        (lambda: ProportionalDevice(read="1"), "read must be a finite number of at least 0, got '1'"),
        (lambda: LogNormalDevice(sigma=math.inf), "sigma must be a finite number"),
        (lambda: ReramWan(weight_read=-1), "read must be"),
        (lambda: FittedDevice(coefficients=(), fitted=(0, 1), g_max=1), "coefficients must hold at least one"),
        (lambda: FittedDevice(coefficients=(1.0,), fitted=(0, 1), g_max=2), "must lie in the fit's 0 to 1 uS"),
        (lambda: FittedDevice(coefficients=(1.0,), fitted=(0, 1), g_max=1, truncated=1), "truncated must be True"),
    ],
)
def test_fields_out_of_range_are_refused(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("device", [device for device, *_ in PROGRAMMING], ids=shown)
def test_through_plain_data_and_back(device: Device) -> None:
    import json

    assert device_from_dict(json.loads(json.dumps(device.to_dict()))) == device


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"device": "os.path"}, "'os.path' is not a device of hardy"),
        ({"device": "hardy.hardware.pcm.Nothing"}, "is not a device of hardy"),
        ({"device": "hardy.hardware.pcm.PCM", "fields": {"gmax": 3}}, "PCM has no field 'gmax'; did you mean g_max"),
    ],
)
def test_a_record_of_no_device_is_refused(record: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        device_from_dict(record)


def test_a_table_of_means_and_spreads(tmp_path: Path) -> None:
    path = tmp_path / "chip.csv"
    path.write_text("level,mean,std\n0,0.5,0.1\n\n20,21,2\n10,10,0.5\n")
    device = TableDevice.from_csv(path, read=0.25)
    assert (device.g_min, device.g_max) == (0, 20)
    for level, mean, std in ((0, 0.5, 0.1), (5, 5.25, 0.3), (10, 10, 0.5), (17.5, 18.25, 1.625), (20, 21, 2)):
        held = cells(device, level)
        assert held.mean().item() == pytest.approx(mean, abs=0.01 * std)
        assert held.std().item() == pytest.approx(std, rel=0.01)
    assert device.read_std(torch.ones(2), torch.ones(2), 0).tolist() == [0.25, 0.25]
    assert device_from_dict(device.to_dict()) == device


def test_a_table_of_samples_keeps_their_skew(tmp_path: Path) -> None:
    path = tmp_path / "chip.csv"
    skewed = [0.0, 0.0, 0.0, 4.0]
    lines = [f"{level},{level + deviation}" for level in (0, 10) for deviation in skewed]
    path.write_text("level,sample\n" + "\n".join(lines))
    device = TableDevice.from_csv(path)
    for level in (0.0, 5.0, 10.0):
        held = cells(device, level)
        assert sorted({round(value, 4) for value in held.unique().tolist()}) == [level, level + 4]
        assert (held > level + 2).double().mean().item() == pytest.approx(0.25, abs=0.005)


@pytest.mark.parametrize(("unit", "factor"), [("S", 1e-6), ("mS", 1e-3), ("uS", 1.0), ("µS", 1.0), ("nS", 1e3)])
def test_a_table_in_another_unit(unit: str, factor: float, tmp_path: Path) -> None:
    rows = [(0, 0.5, 0.1), (10, 10.5, 0.5), (20, 21, 2)]
    (tmp_path / "plain.csv").write_text("level,mean,std\n" + "\n".join(f"{a},{b},{c}" for a, b, c in rows))
    lines = [",".join(str(value * factor) for value in row) for row in rows]
    (tmp_path / "unit.csv").write_text(f"Level [{unit}], mean [{unit}],std ({unit})\n" + "\n".join(lines))
    plain, other = (TableDevice.from_csv(tmp_path / f"{name}.csv") for name in ("plain", "unit"))
    for name in ("levels", "means", "stds"):
        assert getattr(other, name) == pytest.approx(getattr(plain, name))
    assert (other.g_min, other.g_max) == pytest.approx((0, 20))


@pytest.mark.parametrize(
    "text",
    [
        "# cells of wafer 3\nlevel;mean;std\n0;0,5;0,1 // first\n\n20;21;2\n10;10;0,5\n",
        "Target conductance [uS]\tG_mean [uS]\tSigma [uS]\n0\t0.5\t0.1\n10\t10\t0.5\n20\t21\t2\n% end\n",
        "n,device,G target,mu,std_dev\n1,a,0,.5,.1\n2,a,10,10,.5\n3,b,20,21,2\n",
        "States (uS),Mean (uS),Std (uS)\n0,0.5,0.1\n10,10,0.5\n20,21,2\n",
        "index,level,mean,std\n0,0,0.5,0.1\n1,10,10,0.5\n2,20,21,2\n",
    ],
)
def test_a_table_as_laboratories_write_it(text: str, tmp_path: Path) -> None:
    (tmp_path / "plain.csv").write_text("level,mean,std\n0,0.5,0.1\n10,10,0.5\n20,21,2\n")
    (tmp_path / "other.csv").write_text(text)
    plain, other = (TableDevice.from_csv(tmp_path / f"{name}.csv") for name in ("plain", "other"))
    assert plain == other


@pytest.mark.parametrize("first", [0, 1])
def test_numbered_states_are_at_their_means(first: int, tmp_path: Path) -> None:
    path = tmp_path / "chip.csv"
    rows = [(0.5, 0.1, 0), (10, 0.5, 0), (21, 2, 0), (0.4, 0.2, 60), (9, 1, 60), (18, 3, 60)]
    lines = [f"{first + i % 3},{mean},{std},{time}" for i, (mean, std, time) in enumerate(rows)]
    path.write_text("states,mean [uS],std [uS],time [s]\n" + "\n".join(lines[::-1]))
    device = TableDevice.from_csv(path)
    assert device.levels == device.means == (0.5, 10, 21)
    assert (device.g_min, device.g_max, device.stds) == (0.5, 21, (0.1, 0.5, 2))
    assert device.aged == ((60.0, (0.4, 9, 18), (0.2, 1, 3)),)
    path.write_text("state;mean [S];std [S]\n0;1e-6;1e-8\n1;2e-5;1e-7\n")
    assert TableDevice.from_csv(path).levels == pytest.approx((1, 20))
    path.write_text("state,mean,std\n0,1e-6,1e-8\n1,2e-5,1e-7\n")
    with pytest.raises(InputError, match="levels up to 2e-05, which is no conductance in uS"):
        TableDevice.from_csv(path)


def test_a_table_with_times_ages(tmp_path: Path) -> None:
    path = tmp_path / "chip.csv"
    path.write_text("level,mean,std,time [min]\n0,0,0,1\n10,10,1,1\n0,1,0,61\n10,8,2,61\n")
    device = TableDevice.from_csv(path)
    assert device.aged == ((3600.0, (1.0, 8.0), (0.0, 2.0)),)
    assert device_from_dict(device.to_dict()) == device
    normals = torch.tensor([[0.0, 1.0, -1.0]])
    target = torch.tensor([10.0, 10.0, 10.0])
    assert device.conductance(target, normals, 0).tolist() == pytest.approx([10, 11, 9])
    assert device.conductance(target, normals, 3600).tolist() == pytest.approx([8, 10, 6])
    halfway = math.expm1(0.5 * math.log1p(3600))
    assert device.conductance(target, normals, halfway).tolist() == pytest.approx([9, 10.5, 7.5])
    with pytest.raises(InputError, match="known up to 3600 s after programming, got 3601 s"):
        device.conductance(target, normals, 3601)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "level,mean,std\n0,0,1e-7\n2e-5,2e-5,1e-7",
            "levels up to 2e-05, .*: if they are siemens, .* level \\[S\\],mean",
        ),
        ("level [S],mean [uS],std [S]\n1,2,3\n2,3,4", "every column must give the same unit"),
        ("level [A],mean [A],std [A]\n1,2,3\n2,3,4", "every column must give the same unit, S, mS, uS or nS"),
        ("", "must begin with level,mean,std, level,mean,std,time or level,sample, got ''"),
        ("place,mean,std\n1,2,3", "must begin with"),
        ("level,mean,std,time\n1,2,3,0\n2,2,3,0\n1,2,3,60", "has 1 of its 2 levels at 60 s"),
        ("level,mean,std,time [weeks]\n1,2,3,0\n2,2,3,0", "times are in s, ms, min, h or d"),
        ("level,target,std\n1,2,3\n2,2,3", "two columns for level"),
        ("level,mean,std\n1,2,3\n2,x,4", "line 3: '2,x,4' is not numbers"),
        ("level,mean,std\n1,2,3\n2,4", "line 3: expected 3 finite numbers"),
        ("level,mean,std\n1,2,3\n2,nan,4", "line 3: expected 3 finite numbers"),
        ("level,mean,std\n1,2,3", "must hold at least 2 levels, got 1"),
        ("level,mean,std\n1,2,3\n1,2,3\n2,2,3", "names a level twice"),
        ("level,mean,std\n1,2,-3\n2,2,3", "stds must be a finite number of at least 0, got -3"),
        ("level,sample\n1,2\n2,2\n2,3", "samples at level 1 must be at least 2 finite numbers, got 1"),
        ("level,mean,std\n-1,2,3\n2,2,3", "must be a finite number of at least 0, got -1"),
    ],
)
def test_a_damaged_table_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "chip.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        TableDevice.from_csv(path)


def test_a_missing_or_binary_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        TableDevice.from_csv(tmp_path / "nowhere.csv")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not UTF-8"):
        TableDevice.from_csv(tmp_path / "binary")


def test_a_table_made_wrong_is_refused() -> None:
    fields = {"levels": (0.0, 1.0), "means": (0.0, 1.0), "stds": (0.1, 0.1), "g_max": 1.0}
    for change, message in (
        ({"stds": ()}, "either stds or samples, got neither"),
        ({"samples": ((0.0, 1.0), (0.0, 1.0))}, "either stds or samples, got both"),
        ({"means": (0.0,)}, "means must hold one entry per level"),
        ({"levels": (1.0, 0.0)}, "levels must rise"),
        ({"levels": (1.0,)}, "levels must hold at least 2"),
        ({"g_max": 2.0}, "must lie within the levels 0 to 1 uS"),
    ):
        with pytest.raises(InputError, match=message):
            TableDevice(**{**fields, **change})
