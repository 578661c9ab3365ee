"""How parsers are made, and that nothing in the product makes another."""

import ast
from pathlib import Path

import pytest
from lxml import etree

import coordinator
import workers
from workers.xmpp.reader import document_parser, expat_reads, pull_parser, read_own

PRODUCT = [
    path
    for package in (coordinator, workers)
    for path in sorted(Path(str(package.__file__)).parent.rglob("*.py"))
]
MAKERS = {
    *("XMLParser", "XMLPullParser", "HTMLParser", "HTMLPullParser", "XMLTreeBuilder"),
    *("ETCompatXMLParser", "XMLSchema", "XSLT", "iterparse", "ParserCreate", "make_parser"),
    *("parse", "parseString", "parseid", "fromstringlist", "XML", "XMLID", "XMLDTDID", "HTML"),
    *("fromstring", "include", "XInclude", "expatreader", "minidom", "pulldom", "ElementTree"),
}
# What is not a leg: names.py reads two constants, hostmeta.py reads XRD documents with handlers
# that refuse document types, and message_parser.py hands fromstring a parser from here.
ALLOWED = {
    "workers/xmpp/reader.py": {"XMLParser", "XMLPullParser", "ParserCreate", "fromstring"},
    "workers/xmpp/incremental.py": {"fromstring"},
    "workers/xmpp/message_parser.py": {"fromstring"},
    "workers/xmpp/names.py": {"fromstring"},
    "workers/gateway/hostmeta.py": {"ParserCreate"},
}


def xml_calls(path: Path) -> set[str]:
    """The names under which a module could make a parser of XML, as far as it calls them."""
    tree = ast.parse(path.read_text())
    modules = {"etree", "expat", "xml", "lxml", "ElementTree", "minidom", "sax", "pulldom"}
    found = set()
    for node in ast.walk(tree):
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Attribute) and called.attr in MAKERS:
            if isinstance(called.value, ast.Name) and called.value.id in modules:
                found.add(called.attr)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in (
            "xml",
            "lxml",
        ):
            found |= {alias.name for alias in node.names} & MAKERS
    return found


def test_no_other_module_makes_a_parser() -> None:
    """CVE-2022-0217: the WebSocket path had a parser of its own, which took DTDs."""
    root = Path(str(workers.__file__)).parents[1]
    made = {str(path.relative_to(root)): calls for path in PRODUCT if (calls := xml_calls(path))}
    assert made == ALLOWED


def test_fromstring_is_never_left_to_the_default_parser() -> None:
    for path in PRODUCT:
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "fromstring"
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "etree"
                and not isinstance(node.args[0], ast.Constant)
            ):
                assert len(node.args) == 2, f"{path}:{node.lineno}"


EVERY = ["document", "pull"]


@pytest.mark.parametrize("kind", EVERY)
def test_utf_16_is_no_xml(kind: str) -> None:
    data = "<a>x</a>".encode("utf-16")
    with pytest.raises(etree.XMLSyntaxError):
        if kind == "document":
            etree.fromstring(data, document_parser())
        else:
            parser = pull_parser(("end",))
            parser.feed(data)
            parser.close()


def test_nothing_outside_is_opened(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    document = f"<!DOCTYPE a [<!ENTITY b SYSTEM '{secret}'>]><a>&b;</a>".encode()
    try:
        root = etree.fromstring(document, document_parser())
        text = etree.tostring(root, encoding="unicode")
    except etree.XMLSyntaxError as exc:
        text = str(exc)
    assert "secret" not in text.replace(str(secret), "")


def test_ids_are_not_kept() -> None:
    root = etree.fromstring(b"<a xml:id='x'/>", document_parser())
    assert etree.XPath("id('x')")(root) == []


def test_own_writing_is_read_whatever_its_namespaces() -> None:
    assert read_own(b"<a xmlns='a b'/>").tag == "{a b}a"


@pytest.mark.parametrize(
    ("document", "plainly", "with_namespaces"),
    [
        (b"<a/>", True, True),
        (b"<a", False, False),
        (b"<a/><a/>", False, False),
        (b"<p:a/>", True, False),
        ("<\u0220/>".encode(), False, False),
        (b"<a xmlns='a b'/>", True, True),
        (b"<a xmlns='a\x01b'/>", False, False),
    ],
)
def test_what_expat_reads(document: bytes, plainly: bool, with_namespaces: bool) -> None:
    assert expat_reads(document, namespaces=False) is plainly
    assert expat_reads(document) is with_namespaces
