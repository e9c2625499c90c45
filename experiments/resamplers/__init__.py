"""Every down- and upsampler that the paper compares, behind one interface each.

``methods`` names them. ``downsamplers`` has the pools and the convolutions that halve a map,
``upsamplers`` what doubles one. Both are functions for compact methods of Linen modules, with a
module each for what is more than a call.
"""
