"""All down- and upsamplers that the paper compares, with one interface for each kind.

``methods`` lists their names. ``downsamplers`` contains pools and convolutions that halve a map,
``upsamplers`` the methods that double a map. Both provide functions for compact methods of Linen
modules; a method that is more than one call has a module of its own.
"""
