"""Every golden set is compared by somebody."""

import pytest

from tests.parity.golden import FAMILIES, is_of, set_folders


def test_every_folder_is_of_one_family() -> None:
    folders = set_folders()
    if not folders:
        pytest.skip("no golden sets here (TEMPER_GOLDEN)")
    families = {folder.name: [family for family in FAMILIES if is_of(folder, family)] for folder in folders}
    assert {name: of for name, of in families.items() if len(of) != 1} == {}
