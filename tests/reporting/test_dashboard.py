"""The lines about the Ray dashboard at the start of a search."""

import getpass

from segtune.reporting.dashboard import dashboard_lines

URL = "http://127.0.0.1:8265"
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "secret"}


def test_dashboard_without_a_token_is_an_address() -> None:
    assert dashboard_lines(URL, {}) == {"dashboard": URL}
    assert dashboard_lines(URL, {"RAY_AUTH_MODE": "disabled"}) == {"dashboard": URL}


def test_token_is_never_printed_but_how_to_get_it() -> None:
    lines = dashboard_lines(URL, TOKEN)
    assert lines["dashboard"] == f"{URL}; it asks for a token, which `ray get-auth-token` prints"
    assert "secret" not in str(lines)


def test_under_ssh_there_is_the_command_for_the_own_machine() -> None:
    environ = TOKEN | {"SSH_CONNECTION": "192.0.2.7 51000 192.0.2.10 22"}
    lines = dashboard_lines("http://192.0.2.10:8266", environ)
    assert lines["from afar"] == f"ssh -N -L 8266:192.0.2.10:8266 {getpass.getuser()}@192.0.2.10"


def test_ray_without_a_dashboard_is_said() -> None:
    assert dashboard_lines("", TOKEN) == {"dashboard": "none, because Ray was started without it"}
