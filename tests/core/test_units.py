import pytest

from slpd_toolkit.core.units import is_plausible_mpp, l0_from_px


@pytest.mark.parametrize(("mpp", "plausible"), [(0.1, True), (0.25, True), (5, True), (0.0999, False), (5.01, False)])
def test_scanners_have_a_tenth_to_five_micrometres_a_pixel(mpp: float, plausible: bool) -> None:
    assert is_plausible_mpp(mpp) is plausible


@pytest.mark.parametrize("mpp", [float("nan"), float("inf"), float("-inf"), 0.0, -0.5, 264.6])
def test_what_is_no_resolution_is_implausible(mpp: float) -> None:
    assert not is_plausible_mpp(mpp)


def test_a_length_at_the_target_is_longer_at_a_finer_level_0() -> None:
    assert l0_from_px(4096, target_mpp=0.5, mpp_l0=0.25) == 8192
    assert l0_from_px(4096, target_mpp=0.5, mpp_l0=1.0) == 2048
