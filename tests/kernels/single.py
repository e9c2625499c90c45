"""Conversion between functions that return one array and functions that return a tuple."""


def with_tuple(function):
    return lambda *arrays: (function(*arrays),)


def without_tuple(function):
    def call(*arrays):
        (result,) = function(*arrays)
        return result

    return call
