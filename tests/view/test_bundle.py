"""NiiVue is found on the machine, or its absence is told with what to install."""

import pytest

from vol3d.view import bundle


def test_the_installed_package_holds_the_class():
    script = bundle.niivue_script()
    assert len(script) > 1_000_000
    assert script.rstrip().endswith(";")
    assert "globalThis.Niivue=" in script[-60:]
    assert "export{" not in script[-200:].replace(" ", "")
    assert "Redistribution and use" in bundle.licence_text()


def test_without_the_package_the_error_names_it(monkeypatch):
    monkeypatch.setattr(bundle, "PACKAGE", "no-such-package-anywhere")
    with pytest.raises(bundle.BundleError, match=r"found none: pip install 'vol3d\[view\]'"):
        bundle.niivue_script()


def test_another_version_is_refused_with_both_numbers(monkeypatch):
    monkeypatch.setattr(bundle, "VERSION", "0.0.1")
    with pytest.raises(bundle.BundleError, match=r"expected ipyniivue 0\.0\.1 .* found 2\.\d+\.\d+"):
        bundle.niivue_script()


@pytest.mark.parametrize(
    "text",
    ["class A{}\nexport {\n  B,\n  A as Niivue\n};\n//# sourceMappingURL=x.map", "class A{}\nexport{A as Niivue}"],
)
def test_a_module_named_by_the_environment_is_used(tmp_path, monkeypatch, text):
    (tmp_path / "index.js").write_text(text)
    monkeypatch.setenv("VOL3D_NIIVUE", str(tmp_path / "index.js"))
    assert bundle.niivue_script() == "class A{}\nglobalThis.Niivue=A;"
    assert bundle.licence_text() == ""


def test_what_is_no_module_of_niivue_is_refused(tmp_path, monkeypatch):
    (tmp_path / "x.js").write_text("var Niivue = 1;")
    monkeypatch.setenv("VOL3D_NIIVUE", str(tmp_path / "x.js"))
    with pytest.raises(bundle.BundleError, match="ends in an export of Niivue at VOL3D_NIIVUE="):
        bundle.niivue_script()
    monkeypatch.setenv("VOL3D_NIIVUE", str(tmp_path / "gone.js"))
    with pytest.raises(bundle.BundleError, match=r"found none: .*No such file"):
        bundle.niivue_script()
