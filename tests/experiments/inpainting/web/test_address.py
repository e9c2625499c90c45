import socket

import pytest

from experiments.inpainting.web.address import Address, AddressError, find_address


@pytest.mark.parametrize(
    ("ip", "inside"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
    ],
)
def test_loopback_is_told_from_other_addresses(ip, inside):
    address = Address(ip, 7860)
    assert address.is_loopback is inside
    assert (address.names is not None) is inside


def test_a_loopback_address_has_few_names():
    assert Address("127.0.0.1", 7860).names == {"127.0.0.1:7860", "localhost:7860"}
    assert Address("::1", 7860).names == {"[::1]:7860", "localhost:7860"}
    # The port that browsers leave out.
    assert Address("127.0.0.1", 80).names >= {"127.0.0.1", "localhost", "localhost:80"}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_free_port_is_found_and_left_free(host):
    address = find_address(host, 0)
    assert address.ip == ("0.0.0.0" if host == "0.0.0.0" else "127.0.0.1")
    with socket.create_server(address):
        pass
    assert find_address(host, address.port) == address


def test_an_address_of_version_6_may_have_brackets():
    try:
        address = find_address("[::1]", 0)
    except AddressError:
        pytest.skip("this machine has no loopback address of version 6")
    assert address == find_address("::1", address.port)
    assert address.host == "[::1]"


@pytest.mark.parametrize("port", [-1, 65536])
def test_there_is_no_such_port(port):
    with pytest.raises(AddressError, match=f"^port must be from 0 to 65535, got {port}$"):
        find_address("127.0.0.1", port)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "", "a..b", "x\0y"])
def test_there_is_no_such_host(host):
    with pytest.raises(AddressError, match=r"^host must be a name or address that is known, got '"):
        find_address(host, 0)


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(AddressError, match=r"^cannot listen at host 192\.0\.2\.1, port 7860: "):
        find_address("192.0.2.1", 7860)


def test_a_taken_port_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressError, match=rf"127\.0\.0\.1, port {port}: .*in use"):
            find_address("127.0.0.1", port)
