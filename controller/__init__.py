"""Paths, flow rules, the OpenFlow adapter and the northbound interface.

Only `controller.app` imports the OpenFlow library; `controller.client` is what others use.
"""
