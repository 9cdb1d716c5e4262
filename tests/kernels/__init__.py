"""Tests of the whole under another kernel than this machine's."""
