"""Deploys chains, watches for failures, asks a policy, tells the controller."""
