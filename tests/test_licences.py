"""The list of licences is that of what serving needs."""

from tests.licences import BINDING, PAGE, licence, needed


def test_every_package_that_serving_needs_is_listed():
    page = PAGE.read_text()

    assert {"torch", "fastapi", "pillow"} <= needed().keys()
    assert [name for name in needed() if f"| {name} |" not in page] == []


def test_no_licence_binds_the_project():
    licences = [licence(package) for package in needed().values()]

    assert [text for text in licences if BINDING.search(text) and "LGPL" not in text] == []
    assert BINDING.search("GNU General Public License v3 (GPLv3)")
