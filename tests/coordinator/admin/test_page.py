import base64
import hashlib
import re

from coordinator.admin.page import CONTENT_SECURITY_POLICY, PAGE


def test_the_page_needs_nothing_from_elsewhere():
    assert not re.search(r"(src|href)\s*=|https?:|@import|url\(", PAGE)


def test_the_policy_allows_exactly_the_pages_own_script_and_style():
    for kind in ("script", "style"):
        (text,) = re.findall(rf"<{kind}>(.*?)</{kind}>", PAGE, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in CONTENT_SECURITY_POLICY


def test_what_peers_chose_is_never_taken_as_markup():
    assert "innerHTML" not in PAGE and "textContent" in PAGE


def test_the_page_refreshes_by_itself():
    assert "setTimeout(refresh, 2000)" in PAGE
