"""Servers, run as scripts; nothing here imports another."""
