"""What the served page refuses to those who do not come with a browser."""

import http.client
import json
import socket
import subprocess
import sys

import pytest

from experiments.data.composed.photographs import pypi_photographs
from tests.experiments.inpainting.web.served import ROOT, serving

pytestmark = pytest.mark.web


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("server")) as served:
        yield served


def ask(server, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def upload(server, content, name="picture.png", **others):
    body = (
        f'--b\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n--b--\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=b"} | others
    return ask(server, "POST", "/gradio_api/upload", body, headers)


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_long_upload_is_refused_before_it_is_sent(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(
            b"POST /gradio_api/upload HTTP/1.1\r\n"
            b"Host: 127.0.0.1:%d\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n"
            b"Content-Length: 9000000000\r\n\r\n--b\r\n" % server.port
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_an_upload_just_over_the_limit_leaves_nothing(server):
    before = files(server.temporary)
    status, _ = upload(server, bytes(20 * 2**20 + 1))
    assert status == 413
    assert files(server.temporary) == before


def test_only_uploaded_files_can_be_read(server):
    status, answer = upload(server, b"what was uploaded")
    assert status == 200
    (path,) = json.loads(answer)
    assert ask(server, "GET", f"/gradio_api/file={path}") == (200, b"what was uploaded")
    (server.home / "note.txt").write_text("private")
    for other in ("/etc/passwd", f"{server.home}/note.txt", f"{path}/../../../home/note.txt"):
        assert ask(server, "GET", f"/gradio_api/file={other}")[0] in (403, 404)
    (server.home / "note.txt").unlink()


def test_only_the_page_itself_is_answered(server):
    port = server.port
    for name in (f"127.0.0.1:{port}", f"localhost:{port}"):
        assert ask(server, "GET", "/config", headers={"Host": name})[0] == 200
        assert upload(server, b"picture", Host=name, Origin=f"http://{name}")[0] == 200
    for name in (f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}"):
        assert ask(server, "GET", "/config", headers={"Host": name})[0] == 403
    before = files(server.temporary)
    for origin in ("http://evil.example", "null", f"http://127.0.0.1:{port + 1}"):
        assert upload(server, b"of another page", Origin=origin)[0] == 403
    assert files(server.temporary) == before


def test_uploads_are_refused_while_the_folder_is_full(server):
    assert upload(server, b"first")[0] == 200
    (folder,) = server.temporary.glob("carafe-jax-*")
    others = folder / "others"
    with others.open("wb") as file:
        file.truncate(2**30)
    status, text = upload(server, b"second")
    assert (status, b"try again later" in text) == (507, True)
    others.unlink()
    assert upload(server, b"second")[0] == 200


def fetched(server, path):
    """What the page's first function, `show`, answers about a file that was not uploaded."""
    return called(server, 0, {"path": path, "meta": {"_type": "gradio.FileData"}})


def called(server, function, *data):
    """What the page's function of this number answers."""
    body = json.dumps({"data": data, "fn_index": function, "session_hash": "test"})
    headers = {"Content-Type": "application/json"}
    status, _ = ask(server, "POST", "/gradio_api/queue/join", body, headers)
    assert status == 200
    _, answer = ask(server, "GET", "/gradio_api/queue/data?session_hash=test")
    (done,) = (line for line in answer.decode().splitlines() if "process_completed" in line)
    return json.loads(done.removeprefix("data: "))


def test_functions_take_only_uploaded_files(server):
    _, answer = upload(server, pypi_photographs()[2].path.read_bytes())
    assert fetched(server, json.loads(answer)[0])["success"]
    assert not fetched(server, str(pypi_photographs()[2].path))["success"]


def test_nothing_is_fetched_from_elsewhere(server):
    answer = fetched(server, "http://192.0.2.1/picture.png")
    assert "must be uploaded" in answer["output"]["error"]
    assert ask(server, "GET", "/gradio_api/file=http://192.0.2.1/picture.png")[0] == 404


def test_what_the_page_does_not_need_is_not_there(server):
    for method, path in (
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/gradio_api/component_server"),
        ("GET", "/docs"),
        ("GET", "/gradio_api/info"),
    ):
        assert ask(server, method, path)[0] == 404


def test_malformed_requests_are_no_error_of_the_page(server):
    _, answer = upload(server, b"no picture")
    (path,) = json.loads(answer)
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    show, fill = 0, 2
    for function, *data in (
        (show, None),
        (show, file),
        (fill, None, None),
        (fill, file, None),
        (fill, file, {"background": None, "layers": [], "composite": None}),
        (fill, file, {"background": None, "layers": [file], "composite": None}),
    ):
        assert called(server, function, *data)["success"], (function, data)
    for function, *data in (
        (show,),
        (show, "text"),
        (show, [None]),
        (fill, file, "text"),
        (fill, file, {"layers": [None]}),
        (fill, file, {"layers": [{"path": "/etc/passwd"}]}),
        (fill, file, {"layers": [{"path": f"{server.home}"}]}),
    ):
        assert not called(server, function, *data)["success"], (function, data)
    assert "experiments/inpainting" not in server.errors.read_text()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--port=65536", "error: port must be from 0 to 65535, got 65536\n"),
        (
            "--host=no-such-host.invalid",
            "error: host must be a name or address that is known, got 'no-such-host.invalid'\n",
        ),
        (
            "--port={taken}",
            "error: cannot listen at host 127.0.0.1, port {taken}: Address already in use\n",
        ),
    ],
)
def test_an_address_that_cannot_be_listened_at_is_told_in_a_line(server, option, message):
    command = [sys.executable, "-m", "experiments.inpainting", "serve"]
    command += ["--baseline=none", "--carafe=none", option.format(taken=server.port)]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (told.returncode, told.stderr) == (2, message.format(taken=server.port))


def test_nothing_is_left_when_the_server_ends(tmp_path):
    with serving(tmp_path) as server:
        upload(server, b"picture")
        assert files(server.temporary)
        assert server.stop() == 0
        assert list(server.temporary.iterdir()) == []
        assert list(server.home.iterdir()) == []
        assert list((ROOT / "experiments").rglob("*.pyi")) == []
